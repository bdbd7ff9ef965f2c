"""The noise of two-time maps: what it does to the uncertainty of a fit, and whether the fit agrees with its data.

Everything here works from `homodyne.noise.views.MapView`, one map with the model that was fitted to it: a function of
two times, whatever the model. `sandwich` is the covariance of the estimate, from the sums of `traces`; `adjustment`
what it does to the likelihood; `checks` tests the fit.
"""
