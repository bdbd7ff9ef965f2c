"""The moments of a block and their vector-Jacobian product as compiled loops (Numba).

What depends on the frames only is tabulated per frame (sine and cosine of the phase) or per row and shared
by all angles (the decay ``exp(-(F_j - F_i))`` and the division ``1 / (G_j - G_i)``), so that a pair costs
about ten multiply-adds and nothing else. Where the phase difference is small the power series of
``sin(x)/x`` takes over; ``G`` is monotone, so those pairs are the first of a row.

``F`` may span thousands: it is cut into bins of width `BIN`, inside which ``exp`` is representable, and
pairs three bins apart have ``g < 1e-260``, which is taken as zero.

Arguments that do not apply (no shear, no weights) are None, which Numba prunes when it compiles: one source
for all variants.
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numba import njit

from homodyne.core.blocks import Block

Array = np.ndarray[Any, np.dtype[Any]]
Shear = tuple[Array, Array]

BIN = 300.0
_DECAY = np.array([1.0, np.exp(-BIN), np.exp(-2 * BIN), 0.0])  # between bins that are 0, 1, 2, 3 or more apart
_NEAR = 0.1  # phase difference below which the series is used: it is good to 3e-14, the other form to 1e-15

_SMALL = 100_000  # points below which one thread is quicker than two

# Inlined, because a kernel that comes from the cache carries its own copy of what it calls: called, that copy would
# round differently from the one that a process uses which has just compiled both.
_loop = njit(fastmath=True, error_model="numpy", cache=True, forceinline=True)
_inline = njit(fastmath=True, error_model="numpy", cache=True, inline="always")
_kernel = njit(error_model="numpy", cache=True, nogil=True)


@_inline
def _sinc_near(x2):  # type: ignore[no-untyped-def]
    """sin(x)/x from x^2, for |x| < _NEAR."""
    return 1.0 - x2 * (1.0 / 6.0 - x2 * (1.0 / 120.0 - x2 * (1.0 / 5040.0)))


@_inline
def _slope_near(x2):  # type: ignore[no-untyped-def]
    """(d/dx sin(x)/x) / x from x^2, for |x| < _NEAR."""
    return -(1.0 / 3.0 - x2 * (1.0 / 30.0 - x2 * (1.0 / 840.0 - x2 * (1.0 / 45360.0))))


# --- one row of one angle
# -------------------------------------------------------------------------------------------------------
# Whole arrays and offsets come in and slices are cut inside: a slice that crosses a call costs two atomic
# operations. `at` is the first point in y and w, `a` the first column in sine, cosine and the column
# derivatives, `k0:k1` the part of the row.


@_loop
def _moments_decay(y, w, at, decay, count):  # type: ignore[no-untyped-def]
    y, decay = y[at : at + count], decay[:count]
    w = None if w is None else w[at : at + count]
    g1, g2, yg = 0.0, 0.0, 0.0
    for k in range(count):
        g = decay[k]
        wg = g if w is None else g * w[k]
        g1 += wg
        g2 += wg * g
        yg += wg * y[k]
    return g1, g2, yg


@_loop
def _moments_near(y, w, at, decay, gap, count, h, fourth):  # type: ignore[no-untyped-def]
    y, decay, gap = y[at : at + count], decay[:count], gap[:count]
    w = None if w is None else w[at : at + count]
    g1, g2, yg = 0.0, 0.0, 0.0
    for k in range(count):
        x = h * gap[k]
        wave = _sinc_near(x * x) ** 2
        if fourth:
            wave *= wave
        g = decay[k] * wave
        wg = g if w is None else g * w[k]
        g1 += wg
        g2 += wg * g
        yg += wg * y[k]
    return g1, g2, yg


@_loop
def _moments_far(y, w, at, decay, inverse, k0, k1, sine, cosine, a, sine_i, cosine_i, fourth):  # type: ignore[no-untyped-def]
    """`sine_i` and `cosine_i` come divided by h, so that the numerator times 1/gap is sin(x)/x."""
    y, decay, inverse = y[at + k0 : at + k1], decay[k0:k1], inverse[k0:k1]
    w = None if w is None else w[at + k0 : at + k1]
    sine, cosine = sine[a + k0 : a + k1], cosine[a + k0 : a + k1]
    g1, g2, yg = 0.0, 0.0, 0.0
    for k in range(y.size):
        sinc = (sine[k] * cosine_i - cosine[k] * sine_i) * inverse[k]
        wave = sinc * sinc
        if fourth:
            wave *= wave
        g = decay[k] * wave
        wg = g if w is None else g * w[k]
        g1 += wg
        g2 += wg * g
        yg += wg * y[k]
    return g1, g2, yg


@_loop
def _product_decay(y, w, at, decay, count, u1, u2, u3, d_f, c):  # type: ignore[no-untyped-def]
    y, decay, d_f = y[at : at + count], decay[:count], d_f[c : c + count]
    w = None if w is None else w[at : at + count]
    row_f = 0.0
    for k in range(count):
        g = decay[k]
        f = g * (u1 + u3 * y[k] + 2.0 * u2 * g)
        if w is not None:
            f *= w[k]
        row_f += f
        d_f[k] -= f
    return row_f


@_loop
def _product_near(y, w, at, decay, gap, count, h, fourth, u1, u2, u3, d_f, d_x, c):  # type: ignore[no-untyped-def]
    """Adds to the columns; returns the derivatives with respect to F_i, G_i and h."""
    y, decay, gap = y[at : at + count], decay[:count], gap[:count]
    w = None if w is None else w[at : at + count]
    d_f, d_x = d_f[c : c + count], d_x[c : c + count]
    half = 0.5 if fourth else 1.0
    row_f, row_x, row_h = 0.0, 0.0, 0.0
    for k in range(count):
        x = h * gap[k]
        sinc = _sinc_near(x * x)
        e = decay[k] * sinc
        if fourth:
            e *= 2.0 * sinc * sinc
        g = half * e * sinc
        r = u1 + u3 * y[k] + 2.0 * u2 * g
        if w is not None:
            r *= w[k]
        f = r * g
        q = 2.0 * r * e * x * _slope_near(x * x)
        row_f += f
        d_f[k] -= f
        row_x -= h * q
        row_h += q * gap[k]
        d_x[k] += h * q
    return row_f, row_x, row_h


@_loop
def _product_far(  # type: ignore[no-untyped-def]
    y, w, at, decay, gap, inverse, k0, k1, sine, cosine, a, sine_i, cosine_i, h, fourth, u1, u2, u3, d_f, d_x, c
):
    y, decay, gap, inverse = y[at + k0 : at + k1], decay[k0:k1], gap[k0:k1], inverse[k0:k1]
    w = None if w is None else w[at + k0 : at + k1]
    sine, cosine = sine[a + k0 : a + k1], cosine[a + k0 : a + k1]
    d_f, d_x = d_f[c + k0 : c + k1], d_x[c + k0 : c + k1]
    h_sine_i, h_cosine_i = h * sine_i, h * cosine_i
    half = 0.5 if fourth else 1.0
    row_f, row_x, row_h = 0.0, 0.0, 0.0
    for k in range(y.size):
        sinc = (sine[k] * cosine_i - cosine[k] * sine_i) * inverse[k]
        e = decay[k] * sinc
        if fourth:
            e *= 2.0 * sinc * sinc
        g = half * e * sinc
        r = u1 + u3 * y[k] + 2.0 * u2 * g
        if w is not None:
            r *= w[k]
        f = r * g
        q = 2.0 * r * e * (cosine[k] * h_cosine_i + sine[k] * h_sine_i - sinc) * inverse[k]
        row_f += f
        d_f[k] -= f
        row_x -= q
        row_h += q * gap[k]
        d_x[k] += q
    return row_f, row_x, row_h / h


# --- grid blocks: all angles share rows and columns
# -----------------------------------------------------------------------------


@_loop
def _fill_row(first, last, s, col_decay, growth, run_end, col_g, g_i, decay, gap, inverse):  # type: ignore[no-untyped-def]
    """Tabulate exp(-(F_j - F_i)), G_j - G_i and its inverse for columns first:last; count those with g > 0."""
    begin = first
    for step in range(3):
        end = min(max(run_end[s, step], begin), last)
        scale = growth[s] * _DECAY[step]
        for k in range(begin, end):
            decay[k - first] = scale * col_decay[k]
        begin = end
    if col_g is not None:
        for k in range(begin - first):
            gap[k] = col_g[first + k] - g_i
            inverse[k] = 1.0 / gap[k]
    return begin - first


@_kernel
def _grid_moments(  # type: ignore[no-untyped-def]
    begin, end, out, values, weights, start, first_col, chunks,
    growth, run_end, col_decay, g, col_g, h, sine, cosine, fourth,
):  # fmt: skip
    """Add the sums of g, g^2 and y g of chunks begin:end of rows to `out` (n_chunk, n_phi, 3)."""
    n_phi, n_col, n_points = out.shape[1], col_decay.size, start[-1]
    width = n_col + growth.size
    for c in range(begin, end):
        decay, gap, inverse = np.empty(n_col), np.empty(n_col), np.empty(n_col)
        for s in range(chunks[c], chunks[c + 1]):
            a = first_col[s]
            last = a + start[s + 1] - start[s]
            g_i = 0.0 if g is None else g[s]
            count = _fill_row(a, last, s, col_decay, growth, run_end, col_g, g_i, decay, gap, inverse)
            for p in range(n_phi):
                at = p * n_points + start[s]
                if g is None:
                    t1, t2, t3 = _moments_decay(values, weights, at, decay, count)
                else:
                    near = np.searchsorted(gap[:count], _NEAR / abs(h[p]))
                    t1, t2, t3 = _moments_near(values, weights, at, decay, gap, near, h[p], fourth)
                    if near < count:
                        z = p * width
                        sine_i, cosine_i = sine[z + n_col + s] / h[p], cosine[z + n_col + s] / h[p]
                        s1, s2, s3 = _moments_far(
                            values, weights, at, decay, inverse, near, count, sine, cosine, z + a,
                            sine_i, cosine_i, fourth,
                        )  # fmt: skip
                        t1, t2, t3 = t1 + s1, t2 + s2, t3 + s3
                out[c, p, 0] += t1
                out[c, p, 1] += t2
                out[c, p, 2] += t3


@_kernel
def _grid_product(  # type: ignore[no-untyped-def]
    begin, end, u, by_row, col_f, col_x, by_angle, values, weights, start, first_col, chunks,
    growth, run_end, col_decay, g, col_g, h, sine, cosine, fourth,
):  # fmt: skip
    """Add the derivatives by row (F, G), by chunk and column (F; G) and by chunk and angle (h)."""
    n_phi, n_col, n_points = u.shape[0], col_decay.size, start[-1]
    width = n_col + growth.size
    for c in range(begin, end):
        decay, gap, inverse = np.empty(n_col), np.empty(n_col), np.empty(n_col)
        for s in range(chunks[c], chunks[c + 1]):
            a = first_col[s]
            last = a + start[s + 1] - start[s]
            g_i = 0.0 if g is None else g[s]
            count = _fill_row(a, last, s, col_decay, growth, run_end, col_g, g_i, decay, gap, inverse)
            for p in range(n_phi):
                at, to = p * n_points + start[s], c * n_col + a
                u1, u2, u3 = u[p, 0], u[p, 1], u[p, 2]
                if g is None:
                    by_row[s, 0] += _product_decay(values, weights, at, decay, count, u1, u2, u3, col_f, to)
                else:
                    near = np.searchsorted(gap[:count], _NEAR / abs(h[p]))
                    f, x, t = _product_near(
                        values, weights, at, decay, gap, near, h[p], fourth, u1, u2, u3, col_f, col_x, to
                    )
                    if near < count:
                        z = p * width
                        sine_i, cosine_i = sine[z + n_col + s] / h[p], cosine[z + n_col + s] / h[p]
                        f2, x2, t2 = _product_far(
                            values, weights, at, decay, gap, inverse, near, count, sine, cosine, z + a,
                            sine_i, cosine_i, h[p], fourth, u1, u2, u3, col_f, col_x, to,
                        )  # fmt: skip
                        f, x, t = f + f2, x + x2, t + t2
                    by_row[s, 0] += f
                    by_row[s, 1] += x
                    by_angle[c, p] += t


# --- point blocks: every point has its own column
# --------------------------------------------------------------------------------


@_inline
def _point(i, j, p, f, bins, g, h, sine, cosine, fourth):  # type: ignore[no-untyped-def]
    """Value of g and its derivative with respect to the phase difference, for one pair of frames of one angle."""
    e = f[0, j] * f[1, i] * _DECAY[int(min(bins[j] - bins[i], 3.0))]
    if g is None:
        return e, 0.0
    x = h[p] * (g[j] - g[i])
    if abs(x) < _NEAR:
        sinc, slope = _sinc_near(x * x), x * _slope_near(x * x)
    else:
        sinc = (sine[p, j] * cosine[p, i] - cosine[p, j] * sine[p, i]) / x
        slope = (cosine[p, j] * cosine[p, i] + sine[p, j] * sine[p, i] - sinc) / x
    e *= sinc
    if fourth:
        e *= 2.0 * sinc * sinc
        return 0.5 * e * sinc, 2.0 * e * slope
    return e * sinc, 2.0 * e * slope


@_kernel
def _maps(f, bins, g, h, sine, cosine, fourth, value, slope):  # type: ignore[no-untyped-def]
    """Set the map (n, n) of g of one angle, and the antisymmetric one of its derivative by the phase difference."""
    for i in range(bins.size):
        for j in range(i, bins.size):
            v, s = _point(i, j, 0, f, bins, g, h, sine, cosine, fourth)
            value[i, j] = value[j, i] = v
            slope[i, j], slope[j, i] = s, -s


@_kernel
def _point_moments(  # type: ignore[no-untyped-def]
    begin, end, out, values, weights, start, row, angle, columns, chunks, f, bins, g, h, sine, cosine, fourth
):
    """Set the sums of g, g^2 and y g of every segment, (n_seg, 3)."""
    for s in range(chunks[begin], chunks[end]):
        i, p = row[s], angle[s]
        g1, g2, yg = 0.0, 0.0, 0.0
        for k in range(start[s], start[s + 1]):
            v, _ = _point(i, columns[k], p, f, bins, g, h, sine, cosine, fourth)
            wg = v if weights is None else v * weights[k]
            g1 += wg
            g2 += wg * v
            yg += wg * values[k]
        out[s, 0], out[s, 1], out[s, 2] = g1, g2, yg


@_kernel
def _point_product(  # type: ignore[no-untyped-def]
    begin, end, u, by_row, col_f, col_x, by_segment,
    values, weights, start, row, angle, columns, chunks, f, bins, g, h, sine, cosine, fourth,
):  # fmt: skip
    """As `_grid_product`, with the derivative by h per segment."""
    for c in range(begin, end):
        to = c * bins.size
        for s in range(chunks[c], chunks[c + 1]):
            i, p = row[s], angle[s]
            for k in range(start[s], start[s + 1]):
                j = columns[k]
                v, slope = _point(i, j, p, f, bins, g, h, sine, cosine, fourth)
                r = u[p, 0] + u[p, 2] * values[k] + 2.0 * u[p, 1] * v
                if weights is not None:
                    r *= weights[k]
                by_row[s, 0] += r * v
                col_f[to + j] -= r * v
                if g is not None:
                    q = r * slope
                    by_row[s, 1] -= h[p] * q
                    col_x[to + j] += h[p] * q
                    by_segment[s] += q * (g[j] - g[i])


# --- public
# ----------------------------------------------------------------------------------------------------------------------


Tables = tuple[Any, ...]


def tables_of(block: Block, decay_exponent: Array, shear: Shear | None, order: int = 1) -> Tables | None:
    """Layout of the block and tables of the curves, as the kernels read them; None for curves they cannot read."""
    return _tables(block, decay_exponent, _mirrored(shear)[0], order)


def moments(
    block: Block, decay_exponent: Array, shear: Shear | None, order: int = 1, tables: Tables | None = None
) -> Array:
    """Sums of w g, w g^2 and w y g per angle, (n_phi, 3); NaN for curves that are not finite or monotone.

    See `homodyne.core.moments.moment_function` for the arguments; `tables` may bring what `tables_of` gives for them.
    """
    tables = tables or tables_of(block, decay_exponent, shear, order)
    if tables is None:
        return np.full((block.num_angles, 3), np.nan)
    if block.columns is None:
        by_chunk = np.zeros((block.chunks.size - 1, block.num_angles, 3))
        _run(block, _grid_moments, by_chunk, *tables)
        return np.asarray(by_chunk.sum(axis=0))
    by_segment = np.zeros((block.row.size, 3))
    _run(block, _point_moments, by_segment, *tables)
    return _sum_by(block.angle, by_segment, block.num_angles)


def product(
    block: Block,
    decay_exponent: Array,
    shear: Shear | None,
    cotangent: Array,
    order: int = 1,
    tables: Tables | None = None,
) -> tuple[Array, Shear | None]:
    """Vector-Jacobian product of `moments`: derivatives of ``sum(cotangent * moments)`` by F and by (h, G)."""
    n, n_chunk = decay_exponent.size, block.chunks.size - 1
    tables, sign = tables or tables_of(block, decay_exponent, shear, order), _mirrored(shear)[1]
    if tables is None:
        nothing = np.full(n, np.nan)
        return nothing, None if shear is None else (np.full(block.num_angles, np.nan), nothing)
    n_col = block.col_frames.size
    col_f, col_x = np.zeros(n_chunk * n_col), np.zeros(n_chunk * n_col)
    grid = block.columns is None
    row = _shared_rows(block) if grid else block.row
    by_row = np.zeros((row.size, 2))
    by_angle = np.zeros((n_chunk, block.num_angles) if grid else block.row.size)
    _run(block, _grid_product if grid else _point_product, cotangent, by_row, col_f, col_x, by_angle, *tables)
    d_f, d_g = (np.bincount(row, by_row[:, k], minlength=n) for k in range(2))
    d_f[block.col_frames] += col_f.reshape(n_chunk, n_col).sum(axis=0)
    d_g[block.col_frames] += col_x.reshape(n_chunk, n_col).sum(axis=0)
    d_h = by_angle.sum(axis=0) if grid else _sum_by(block.angle, by_angle, block.num_angles)
    return d_f, None if shear is None else (d_h, sign * d_g)


def correlation_maps(decay_exponent: Array, shear: Shear, order: int = 1) -> tuple[Array, Array]:
    """Maps (n, n) of g of one angle and of its derivative by the phase difference; `shear` as in `moments`."""
    value, slope = np.empty((2, decay_exponent.size, decay_exponent.size))
    factors, bins = _decay_tables(decay_exponent - decay_exponent[0])
    _maps(factors, bins, shear[1], shear[0], *_phases(*shear), order == 2, value, slope)
    return value, slope


def _run(block: Block, kernel: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel over all chunks of the block, on threads when it is large; their number changes nothing."""
    n_chunk, threads = block.chunks.size - 1, int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    if block.values.size < _SMALL or threads == 1:
        kernel(0, n_chunk, *arguments)
        return
    limits = np.linspace(0, n_chunk, min(4 * threads, n_chunk) + 1).astype(np.int64)
    tasks = [_pool(threads).submit(kernel, a, z, *arguments) for a, z in itertools.pairwise(limits)]
    for task in tasks:
        task.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="homodyne")


def _tables(block: Block, decay_exponent: Array, shear: Shear | None, order: int) -> Tables | None:
    """As `tables_of`, for a shear with an increasing integral."""
    exponent = decay_exponent - decay_exponent[0]
    if not np.isfinite(exponent).all() or np.any(np.diff(exponent) < 0):
        return None
    if shear is not None and (
        not (np.isfinite(shear[0]).all() and np.isfinite(shear[1]).all()) or np.any(np.diff(shear[1]) < 0)
    ):
        return None
    factors, bins = _decay_tables(exponent)
    decay, growth = factors
    if block.columns is not None:
        layout: Tables = (block.start, block.row, block.angle, block.columns, block.chunks)
        wave: Tables = (None,) * 4 if shear is None else (shear[1], shear[0], *_phases(*shear))
        return block.values, block.weights, *layout, factors, bins, *wave, order == 2
    cols, rows = block.col_frames, _shared_rows(block)
    run_end = np.stack([np.searchsorted(bins[cols], bins[rows] + step, side="right") for step in range(3)], axis=1)
    layout = (block.start[: rows.size + 1], block.first_col[: rows.size], block.chunks)
    wave = (None,) * 5
    if shear is not None:
        h, g = shear
        sine, cosine = _phases(h, g[np.concatenate([cols, rows])])
        wave = (g[rows], g[cols], h, sine.ravel(), cosine.ravel())
    return block.values, block.weights, *layout, growth[rows], run_end, decay[cols], *wave, order == 2


def _decay_tables(exponent: Array) -> tuple[Array, Array]:
    """Factors exp(-F) and exp(F) of every frame inside its bin, (2, n), and the bins (n,)."""
    bins, inside = np.divmod(exponent, BIN)  # exact, however large the exponent
    return np.exp([-inside, inside]), bins


def _phases(h: Array, g: Array) -> tuple[Array, Array]:
    """Sine and cosine of h g, (n_phi, len(g))."""
    phase = h[:, None] * g
    return np.sin(phase), np.cos(phase)


def _shared_rows(block: Block) -> Array:
    """Row frames of a grid block, which all angles share."""
    return block.row[: block.row.size // block.num_angles]


def _mirrored(shear: Shear | None) -> tuple[Shear | None, float]:
    """The shear with an increasing integral (g does not change with its sign), and the sign applied."""
    if shear is None or shear[1][-1] >= shear[1][0]:
        return shear, 1.0
    return (shear[0], -shear[1]), -1.0


def _sum_by(group: Array, terms: Array, size: int) -> Array:
    """Sum the rows of `terms` that share a group."""
    out = np.zeros((size, *terms.shape[1:]))
    np.add.at(out, group, terms)
    return out
