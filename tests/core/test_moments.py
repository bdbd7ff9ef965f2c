"""The primitive: Numba and JAX against a slow reference that walks over the points."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from homodyne.core.blocks import Block, block_from_maps, block_from_points
from homodyne.core.moments import BlockSlot, moment_function
from homodyne.errors import DataError, InputError

N_PHI, N = 3, 40


def reference(block: Block, f, shear, order):
    """Sum over the points one formula at a time, in float64."""
    angle, i, j = block.point_frames()
    g = np.exp(-(f[j] - f[i]))
    if shear is not None:
        g = g * np.sinc(shear[0][angle] * (shear[1][j] - shear[1][i]) / np.pi) ** (2 * order)
    w = np.ones(g.size) if block.weights is None else block.weights.astype(float)
    terms = (w * g, w * g * g, w * g * block.values.astype(float))
    return np.stack([np.bincount(angle, x, minlength=block.num_angles) for x in terms], axis=1)


def model_part(moments):
    """The raw sums of w g, w g^2 and w y g as columns."""
    return np.stack([moments.g, moments.gg, moments.yg + moments.mean * moments.g], axis=1)


def maps(seed=0, missing=False):
    c2 = np.random.default_rng(seed).normal(1.1, 0.1, (N_PHI, N, N)).astype(np.float32)
    if missing:
        c2[1, 3, 7] = c2[2, 5, 20:30] = np.nan
    return c2


def blocks():
    rng = np.random.default_rng(1)
    whole = block_from_maps(maps())
    angle, i, j = whole.point_frames()
    some = rng.permutation(np.flatnonzero(rng.random(angle.size) < 0.3))
    w = rng.uniform(0.1, 2.0, whole.values.size)
    return {
        "whole": whole,
        "missing": block_from_maps(maps(missing=True)),
        "subgrid": block_from_maps(maps(missing=True), rows=np.arange(0, N, 3), columns=np.arange(1, N, 4)),
        "weights": block_from_maps(maps(), weights=rng.uniform(0.1, 2.0, (N_PHI, N, N))),
        "points": block_from_points(N, N_PHI, angle[some], i[some], j[some], whole.values[some], w[some]),
        "plain points": block_from_points(N, N_PHI, angle[some], i[some], j[some], whole.values[some]),
    }


BLOCKS = blocks()
RNG = np.random.default_rng(2)
F = {"slow": np.cumsum(RNG.gamma(0.5, 0.1, N)), "steep": np.cumsum(RNG.gamma(0.3, 300.0, N))}
SHEAR = {
    "none": None,
    "shear": (np.array([0.7, -2.0, 0.0]), np.cumsum(RNG.uniform(0, 0.3, N))),
    "backwards": (np.array([0.7, -2.0, 0.0]), -np.cumsum(RNG.uniform(0, 0.3, N))),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shear", SHEAR)
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("implementation", ["numba", "jax"])
def test_moments_equal_the_slow_reference(name, shear, order, implementation):
    block = BLOCKS[name]
    moments = jax.jit(moment_function(BlockSlot(block), implementation, order))
    for f in F.values():
        np.testing.assert_allclose(
            model_part(moments(f, SHEAR[shear])),
            reference(block, f, SHEAR[shear], order),
            rtol=1e-10,
            atol=1e-12,
        )


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shear", SHEAR)
@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_equal_finite_differences_and_each_other(name, shear, order):
    block, f = BLOCKS[name], F["slow"]
    u = np.random.default_rng(3).normal(size=(N_PHI, 3))

    def objective(point, implementation):
        m = moment_function(BlockSlot(block), implementation, order)(*point)
        return (u[:, 0] * m.g + u[:, 1] * m.gg + u[:, 2] * (m.yg + m.mean * m.g)).sum()

    point = (f, SHEAR[shear])
    gradient = {which: jax.jit(jax.grad(objective), static_argnums=1)(point, which) for which in ("numba", "jax")}
    flat, tree = jax.tree.flatten(point)
    leaves = {which: jax.tree.leaves(gradient[which]) for which in gradient}
    for k, leaf in enumerate(flat):
        np.testing.assert_allclose(leaves["numba"][k], leaves["jax"][k], rtol=1e-9, atol=1e-11)
        for m in range(0, leaf.size, 7):
            values = []
            for step in (-2, -1, 1, 2):
                moved = [x.copy() for x in flat]
                moved[k][m] += step * 1e-4
                p = jax.tree.unflatten(tree, moved)
                values.append((u * reference(block, p[0], p[1], order)).sum())
            slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-4
            assert leaves["numba"][k][m] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_gradient_is_right_for_every_size_of_the_phase():
    """From far below to far above the switch between series and trigonometric form."""
    block = BLOCKS["whole"]
    for h in (1e-8, 1e-3, 0.02, 0.3, 10.0):
        shear = (np.full(N_PHI, h), SHEAR["shear"][1])
        fast, plain = (
            jax.grad(lambda s, w=w: moment_function(BlockSlot(block), w)(F["slow"], s).yg.sum())(shear)
            for w in ("numba", "jax")
        )
        for a, b in zip(fast, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


@pytest.mark.parametrize("implementation", ["numba", "jax"])
@pytest.mark.parametrize("exponent", [1e9, 1e19, 1e300])
def test_rates_without_bound_leave_no_correlation(implementation, exponent):
    f = exponent * np.arange(1.0, N + 1)
    moments = moment_function(BlockSlot(BLOCKS["whole"]), implementation)(f, None)
    assert not np.any(moments.g)
    assert np.isfinite(moments.yg).all()


@pytest.mark.parametrize("implementation", ["numba", "jax"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_curve_that_is_not_finite_or_decreases_gives_nan(implementation, bad):
    f = F["slow"].copy()
    f[N // 2] = bad
    assert np.isnan(moment_function(BlockSlot(BLOCKS["whole"]), implementation)(f, None).g).all()


def test_threads_do_not_change_a_bit_and_concurrent_calls_are_safe(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from homodyne.core import moments_numba

    whole, shear = BLOCKS["whole"], SHEAR["shear"]
    alone = (
        moments_numba.moments(whole, F["slow"], shear),
        moments_numba.product(whole, F["slow"], None, np.ones((N_PHI, 3))),
    )
    monkeypatch.setattr(moments_numba, "_SMALL", 0)
    monkeypatch.setattr(moments_numba.numba.config, "NUMBA_NUM_THREADS", 3)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: moments_numba.moments(whole, F["slow"], shear), range(20)):
            np.testing.assert_array_equal(result, alone[0])
    np.testing.assert_array_equal(moments_numba.product(whole, F["slow"], None, np.ones((N_PHI, 3)))[0], alone[1][0])


PRINT_BITS = """
import numpy as np
from homodyne.core.blocks import block_from_maps, block_from_points
from homodyne.core import moments_numba

rng = np.random.default_rng(0)
whole = block_from_maps(rng.normal(1.1, 0.1, (2, 60, 60)).astype(np.float32))
angle, i, j = whole.point_frames()
f, shear = np.linspace(0, 3, 60) ** 0.8, (np.array([0.3, 0.7]), np.linspace(0, 9, 60))
for block in (whole, block_from_points(60, 2, angle[::3], i[::3], j[::3], whole.values[::3])):
    for wave in (None, shear):
        f_bar, wave_bar = moments_numba.product(block, f, wave, np.full((2, 3), 0.3))
        for found in (moments_numba.moments(block, f, wave), f_bar, *(wave_bar or ())):
            print(found.tobytes().hex())
"""


def test_a_process_that_compiles_and_one_that_loads_agree_to_the_bit(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def bits() -> str:
        return subprocess.run(
            [sys.executable, "-c", PRINT_BITS], env=environment, capture_output=True, text=True, check=True
        ).stdout

    compiled = bits()
    assert list(tmp_path.rglob("*.nbc"))
    assert bits() == compiled


def test_one_program_serves_blocks_of_the_same_layout():
    slot = BlockSlot(BLOCKS["whole"])
    program = jax.jit(moment_function(slot))
    program(F["slow"], None)
    slot.block = BLOCKS["plain points"]
    np.testing.assert_allclose(
        model_part(program(F["slow"], None)), reference(slot.block, F["slow"], None, 1), rtol=1e-10
    )
    assert program._cache_size() == 1


def test_sums_per_angle():
    block = BLOCKS["missing"]
    angle, _, _ = block.point_frames()
    for k in range(N_PHI):
        y = block.values[(angle == k) & (block.weights > 0)].astype(float)
        np.testing.assert_allclose(
            block.sums[k], [y.size, y.size, y.mean(), ((y - y.mean()) ** 2).sum(), 0.0], rtol=1e-12
        )
    assert block.num_points == N_PHI * N * (N - 1) // 2 - 11


def test_points_in_any_order_give_the_same_block():
    whole = BLOCKS["whole"]
    angle, i, j = whole.point_frames()
    order = np.random.default_rng(4).permutation(angle.size)
    block = block_from_points(N, N_PHI, angle[order], i[order], j[order], whole.values[order])
    np.testing.assert_array_equal(block.values, whole.values)
    np.testing.assert_allclose(
        moment_function(BlockSlot(block))(F["slow"], None),
        moment_function(BlockSlot(whole))(F["slow"], None),
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("i", "j", "message"),
    [([3], [3], "i < j"), ([3], [N], "0..39"), ([1, 1], [2, 2], "twice"), ([], [], "no points")],
)
def test_wrong_points_are_refused(i, j, message):
    i, j = np.array(i, dtype=int), np.array(j, dtype=int)
    with pytest.raises(DataError, match=message):
        block_from_points(N, N_PHI, np.zeros(i.size, int), i, j, np.ones(i.size))


def test_wrong_maps_and_names_are_refused():
    with pytest.raises(DataError, match="no pair"):
        block_from_maps(maps(), rows=[5], columns=[2, 3])
    with pytest.raises(DataError, match="weights of angle 0"):
        block_from_maps(maps(), weights=-np.ones((N_PHI, N, N)))
    with pytest.raises(InputError, match="cuda"):
        moment_function(BlockSlot(BLOCKS["whole"]), "cuda")
