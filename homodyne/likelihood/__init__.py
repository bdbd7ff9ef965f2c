"""How likely data are: maps reduced to nodes once, then sums over nodes, with contrast and offset integrated out.

`homodyne.likelihood.nodes` says what reduced data are, `reduction` makes them from maps, `posterior` is the log density
that is optimised, sampled and certified, `direct` the same over all pairs of frames, by which the reduction is checked.
"""
