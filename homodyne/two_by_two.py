"""Algebra of symmetric positive definite (..., 2, 2) matrices in closed form: compiled soon, exact as Cholesky."""

import jax
import jax.numpy as jnp


def matrix(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """Symmetric matrix [[a, b], [b, c]]."""
    return jnp.stack([jnp.stack([a, b], -1), jnp.stack([b, c], -1)], -2)


def schur(m: jax.Array) -> jax.Array:
    """Second element less what the first explains, c - b²/a."""
    return m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0] / m[..., 0, 0]


def log_det(m: jax.Array) -> jax.Array:
    """Logarithm of the determinant."""
    return jnp.log(m[..., 0, 0]) + jnp.log(schur(m))


def solve(m: jax.Array, right: jax.Array) -> jax.Array:
    """Solution x (..., 2) of m x = right."""
    a, b = m[..., 0, 0], m[..., 0, 1]
    second = (right[..., 1] - b / a * right[..., 0]) / schur(m)
    return jnp.stack([(right[..., 0] - b * second) / a, second], -1)


def quadratic(m: jax.Array, x: jax.Array) -> jax.Array:
    """Quadratic form x' m^-1 x."""
    a, b = m[..., 0, 0], m[..., 0, 1]
    return x[..., 0] ** 2 / a + (x[..., 1] - b / a * x[..., 0]) ** 2 / schur(m)


def inverse(m: jax.Array) -> jax.Array:
    """Inverse matrix."""
    a, b, s = m[..., 0, 0], m[..., 0, 1], schur(m)
    return matrix(1.0 / a + (b / a) ** 2 / s, -b / a / s, 1.0 / s)


def cholesky(m: jax.Array) -> jax.Array:
    """Lower triangular root L with L L' = m."""
    first = jnp.sqrt(m[..., 0, 0])
    zero = jnp.zeros_like(first)
    rows = jnp.stack([first, zero], -1), jnp.stack([m[..., 1, 0] / first, jnp.sqrt(schur(m))], -1)
    return jnp.stack(rows, -2)


def solve_transposed(root: jax.Array, right: jax.Array) -> jax.Array:
    """Solution x (..., 2) of root' x = right for a lower triangular root."""
    second = right[..., 1] / root[..., 1, 1]
    return jnp.stack([(right[..., 0] - root[..., 1, 0] * second) / root[..., 0, 0], second], -1)
