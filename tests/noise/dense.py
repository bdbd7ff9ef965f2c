"""Slow, obvious versions: correlation models as functions of two times, and sums over all pairs of pairs of frames."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.noise.traces import PairSums


def power_integral(t1, t2, exponent):
    return (t2 ** (exponent + 1) - t1 ** (exponent + 1)) / (exponent + 1)


def static(x, t1, t2):
    """Logarithm of amplitude, exponent, logarithm of constant of the decay rate of g."""
    return jnp.exp(-jnp.exp(x[0]) * power_integral(t1, t2, x[1]) - jnp.exp(x[2]) * (t2 - t1))


def laminar(x, t1, t2):
    """As `static`, and a shear rate with the same three, times the cosine of an angle."""
    strain = jnp.exp(x[3]) * power_integral(t1, t2, x[4]) + jnp.exp(x[5]) * (t2 - t1)
    return static(x, t1, t2) * jnp.sinc(jnp.cos(x[6]) * strain / jnp.pi) ** 2


def stretched(x, t1, t2):
    """Logarithm of the rate of the field, stretching exponent, exponent of the rate."""
    return jnp.exp(-2 * (jnp.exp(x[0]) * power_integral(t1, t2, x[2])) ** x[1])


def beating(x, t1, t2):
    """A moving and a resting component: logarithms of two rates and of a velocity, share of the first."""
    lag, moving, resting = t2 - t1, x[3], 1 - x[3]
    slow, fast = (jnp.exp(-jnp.exp(rate) * lag) for rate in x[:2])
    mixed = 2 * moving * resting * slow * fast * jnp.cos(jnp.exp(x[2]) * lag)
    return ((resting * slow) ** 2 + (moving * fast) ** 2 + mixed) / (moving**2 + resting**2)


@partial(jax.jit, static_argnums=0)
def _correlation(model, x, t1, t2):
    return model(x, t1, t2)


@partial(jax.jit, static_argnums=0)
def _design(model, x, directions, t1, t2):
    g, slope = jax.linearize(lambda y: model(y, t1, t2), x)
    return jnp.concatenate([jax.vmap(slope)(directions), jnp.ones((1, *t1.shape)), g[None]])


def functions(model, x, directions=None):
    """Correlation and design of a model at x, as functions of two times; directions are rows."""
    x = jnp.asarray(x, dtype=float)
    directions = jnp.eye(len(x)) if directions is None else jnp.asarray(directions, dtype=float)
    return partial(_correlation, model, x), partial(_design, model, x, directions)


def whole(function, t):
    """Symmetric maps of a function of two times, (..., n, n), zero on the diagonal."""
    i, j = np.triu_indices(len(t), 1)
    values = np.asarray(function(t[i], t[j]))
    maps = np.zeros((*values.shape[:-1], len(t), len(t)))
    maps[..., i, j] = maps[..., j, i] = values
    return maps


def dense_sums(t, design, roots=None, resting=0.0):
    """`homodyne.noise.traces.PairSums` from products of whole maps; `roots` are those of weights."""
    derivatives = whole(design, t)
    upper = np.triu(np.ones((len(t),) * 2) if roots is None else roots, 1)
    roots = upper + upper.T
    information = 0.5 * np.einsum("aij,bij->ab", roots**2 * derivatives, derivatives, optimize=True)
    elimination = -np.linalg.solve(information[-2:, -2:], information[-2:, :-2])
    scores = roots * derivatives
    scores[:-2] += np.tensordot(elimination.T, scores[-2:], 1)
    passed = scores @ (resting + (1 - resting) * derivatives[-1] + (1 - resting) * np.eye(len(t)))
    powers = [np.einsum("aij,bji->ab", *two, optimize=True) for two in ((scores,) * 2, (passed, scores), (passed,) * 2)]
    i, j = np.nonzero(upper)
    g = derivatives[-1, i, j]
    return PairSums(information, elimination, np.array(powers), np.array([g.size, g.sum(), g @ g]))
