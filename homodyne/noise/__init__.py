"""Correlated noise of two-time maps: what it does to the uncertainty of a fit, and whether a fit agrees with its data.

Everything works from `homodyne.noise.map_view.MapView`, a map with the model that was fitted to it as a function of two
times. `sandwich` gives the covariance of the estimate, from the sums of `traces`; `adjustment` what it does to the
likelihood; `crosscheck` tests the fit.
"""
