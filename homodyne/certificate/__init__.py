"""Is this the posterior? Draws of any sampler, judged by exact importance weights. Knows nothing of the data.

Start with `certify`. Its parts: `chains` (diagnostics of Markov chains), `importance` (weights), `proposal`, `shape`
and `adaptation` (distributions fitted to the posterior), `agreement` (whether draws and weighted points say the same),
`mode_search` and `polish` (where the modes are).
"""
