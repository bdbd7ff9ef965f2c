"""Weights of pairs and frames: every door, files, what is left out, and what is refused."""

import numpy as np
import pytest

from homodyne.data import from_arrays, from_cube, load, save_hdf5, save_npz, write_aps_u
from homodyne.data.missing import LeftOut
from homodyne.data.simulated import simulate
from homodyne.errors import DataError

N, PHI = 40, np.array([0.0, 90.0])
T = 0.1 * np.arange(1, N + 1)
UPPER = np.triu(np.ones((N, N), bool), 1)


@pytest.fixture(scope="module")
def data():
    truth = {"D0": 2e4, "alpha": -0.5, "D_offset": 0.0}
    return simulate(truth, q=0.01, num_frames=N, dt=0.1, phi=PHI, contrast=0.3, seed=1)


@pytest.fixture(scope="module")
def c2(data):
    upper = np.where(UPPER, np.array(data.c2, float), 0.0)
    diagonal = np.array([np.diag(one) for one in data.diagonal])
    return upper + upper.swapaxes(1, 2) + diagonal


def symmetric(seed, shape=(2, N, N)):
    weights = np.random.default_rng(seed).uniform(0.2, 5.0, shape)
    return np.where(UPPER, weights, np.swapaxes(weights, -1, -2))


def points(c2, order=slice(None)):
    k, i, j = (x.ravel()[order] for x in np.indices(c2.shape))
    return k, i, j, {"t1": T[i], "t2": T[j], "phi": PHI[k], "q": 0.01}


def assert_weights(data, expected):
    assert data.weights.dtype == np.float32
    expected = np.where(UPPER, np.broadcast_to(expected, (2, N, N)), 0)
    np.testing.assert_allclose(np.where(UPPER, data.weights, 0), expected, rtol=2e-7)


def test_every_door_takes_the_same_weights(data, c2):
    whole, alike = symmetric(0), symmetric(1, (N, N))
    frames = np.random.default_rng(2).uniform(0.5, 2.0, N)
    k, i, j, places = points(c2, np.random.default_rng(3).permutation(c2.size))
    for weights in (whole, alike):
        of_points = np.broadcast_to(weights, c2.shape)[k, i, j]
        for of_frames, product in ((None, weights), (frames, weights * np.outer(frames, frames))):
            given = {"weights": weights, "frame_weights": of_frames}
            assert_weights(from_cube(c2, T, PHI, 0.01, **given), product)
            assert_weights(from_arrays(c2, T, T, PHI, 0.01, **given), product)
            assert_weights(data.weighted(**given), product)
            assert_weights(data.weighted(np.triu(weights, 1), of_frames), product)
            assert_weights(data.weighted(np.tril(weights, -1), of_frames), product)
        assert_weights(from_arrays(c2[k, i, j], **places, weights=of_points), weights)
    assert_weights(data.weighted(frame_weights=frames), np.outer(frames, frames))
    assert data.weighted(alike).weights.strides[0] == 0  # held once
    assert data.weighted() is data


def test_weight_zero_is_left_out_counted_and_listed(data):
    weights, frames = np.ones((2, N, N)), np.ones(N)
    weights[0, 3, 10:20] = weights[0, 10:20, 3] = 0.0
    frames[[7, 8]] = 0.0
    found = data.weighted(weights, frames)
    dead = 2 * (N - 1) - 1
    assert found.left_out == (LeftOut(0, "weight", dead + 10, (7, 8)), LeftOut(1, "weight", dead, (7, 8)))
    assert found.left_out_lines() == [f"{2 * dead + 10} pairs of weight zero, in 2 of 2 maps; frames 8, 9"]
    assert found.num_pairs == data.num_pairs - 2 * dead - 10
    assert found.bad_frames.tolist() == [7, 8]
    assert np.isnan(found.diagonal[:, [7, 8]]).all()
    assert not found.usable(0)[3, 10:20].any()
    masked = np.where(weights * np.outer(frames, frames) > 0, np.array(data.c2), np.nan)
    masked = from_cube(np.where(UPPER, masked, np.nan), T, PHI, 0.01)
    np.testing.assert_array_equal(found.alive, masked.alive)
    for k in range(2):
        np.testing.assert_array_equal(found.usable(k), masked.usable(k))


def test_pairs_that_are_no_data_already_are_counted_once(c2):
    spoilt = c2.copy()
    spoilt[:, 5] = spoilt[:, :, 5] = np.nan
    weights = np.ones(N)
    weights[5:7] = 0.0
    found = from_cube(spoilt, T, PHI, 0.01, frame_weights=weights)
    assert [(one.kind, one.pairs, one.frames) for one in found.left_out if one.map == 0] == [
        ("nan", N - 1, (5,)), ("weight", N - 2, (6,)),
    ]  # fmt: skip


@pytest.mark.parametrize("save", [save_npz, save_hdf5])
@pytest.mark.parametrize("alike", [False, True])
def test_files_keep_weights(save, alike, data, tmp_path):
    frames = np.ones(N)
    frames[3] = 0.0
    given = data.weighted(symmetric(1, (N, N)) if alike else symmetric(0), frames)
    save(tmp_path / "maps", given)
    back = load(tmp_path / "maps")
    assert back.digest() == given.digest()
    assert back.left_out == given.left_out
    assert (back.weights.strides[0] == 0) == alike
    some = load(tmp_path / "maps", phi=[90.0], frames=(5, 30))
    np.testing.assert_array_equal(np.triu(some.weights[0], 1), np.triu(given.weights[1, 4:30, 4:30], 1))
    save(tmp_path / "plain", data)
    assert load(tmp_path / "plain").weights is None
    with pytest.raises(DataError, match="the APS-U layout has no place"):
        write_aps_u(tmp_path / "other", given)


def test_a_plain_file_has_weights_of_pairs_and_of_frames(c2, tmp_path):
    fields = {"wavevector_q_list": [0.01], "phi_angles_list": PHI, "t1": T, "t2": T, "c2_exp": c2}
    pairs, frames, path = symmetric(0), np.linspace(0.5, 2.0, N), tmp_path / "plain.npz"
    outer = np.outer(frames, frames)
    for given, product in (
        ({"weights": pairs}, pairs),
        ({"weights": pairs[:1]}, pairs[:1]),
        ({"weights": pairs, "frame_weights": frames}, pairs * outer),
        ({"frame_weights": frames}, outer),
    ):
        np.savez(path, **fields, **given)
        assert_weights(load(path), product)
    part = load(path, phi=[90.0], frames=(5, 30))
    np.testing.assert_allclose(np.triu(part.weights[0], 1), np.triu(outer[4:30, 4:30], 1), rtol=1e-6)
    for wrong, message in (
        ({"weights": pairs[:, :5]}, "weights has shape"),
        ({"frame_weights": frames[:5]}, "frame_weights"),
        ({"frame_weights": -frames}, "frame_weights holds -0.5"),
    ):
        np.savez(path, **fields, **wrong)
        with pytest.raises(DataError, match=message):
            load(path)


def test_a_file_with_weights_is_none_that_earlier_versions_read(data, tmp_path):
    save_npz(tmp_path / "maps", data.weighted(np.ones((N, N))))
    with np.load(tmp_path / "maps") as file:
        fields = dict(file)
    assert fields["homodyne_two_time"] == 3
    np.savez(tmp_path / "lost.npz", **{name: values for name, values in fields.items() if name != "weights"})
    with pytest.raises(DataError, match="sha256 has shape"):
        load(tmp_path / "lost.npz")
    np.savez(tmp_path / "wrong.npz", **{**fields, "weights": fields["weights"][:, 1:]})
    with pytest.raises(DataError, match="weights has shape"):
        load(tmp_path / "wrong.npz")


def test_only_ratios_within_a_map_matter(data):
    """A fit sees weights over their mean over the data, whatever stands at pairs that are none."""
    weights = symmetric(0)
    weights[:, :3] = weights[:, :, :3] = 0.0
    scaled = weights * np.array([8.0, 0.5])[:, None, None]
    one, other = data.weighted(weights).relative_weights(), data.weighted(scaled).relative_weights()
    for k in range(2):
        np.testing.assert_array_equal(one[k], other[k])
        assert one[k][3:, 3:][UPPER[3:, 3:]].mean(dtype=float) == pytest.approx(1.0, abs=1e-6)
    alike = data.weighted(weights[0]).relative_weights()
    assert alike[0] is alike[1]
    assert data.weight_line() == ""
    low, high = (float(x) for x in data.weighted(weights).weight_line().split()[3:6:2])
    assert 0 < low < 0.2
    assert 1.8 < high < 2.2


def test_the_digest_knows_weights(data):
    weights = np.ones((N, N))
    digests = {data.digest(), data.weighted(weights).digest()}
    weights[3, 7] = weights[7, 3] = 2.0
    assert len(digests | {data.weighted(weights).digest()}) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weights": -np.ones((N, N))}, "weights holds -1.0"),
        ({"weights": np.full((N, N), np.nan)}, "weights holds nan"),
        ({"weights": np.full((N, N), np.inf)}, "weights holds inf"),
        ({"weights": np.full((N, N), 1e-60)}, "weights holds 1e-60"),
        ({"weights": np.ones((N, N), complex)}, "dtype complex128"),
        ({"weights": np.ma.masked_array(np.ones((N, N)), np.eye(N))}, "weights has 40 masked values"),
        ({"weights": np.ones((N, N - 1))}, "weights"),
        ({"weights": np.ones((3, N, N))}, "weights"),
        ({"weights": np.arange(N * N).reshape(N, N)}, "weights"),
        ({"frame_weights": np.ones(N - 1)}, "frame_weights has shape"),
        ({"frame_weights": -np.ones(N)}, "frame_weights holds -1.0"),
        ({"frame_weights": np.full(N, 1e-30)}, "weights times frame_weights holds"),
        ({"frame_weights": np.eye(N)[0]}, "No usable frame"),
    ],
)
def test_wrong_weights_are_refused_at_once(wrong, message, data, c2):
    doors = (
        data.weighted,
        lambda **given: from_cube(c2, T, PHI, 0.01, **given),
        lambda **given: from_arrays(c2, T, T, PHI, 0.01, **given),
    )
    for door in doors:
        with pytest.raises(DataError, match=message):
            door(**wrong)


def test_weights_are_given_once(data):
    with pytest.raises(DataError, match="the data have weights"):
        data.weighted(np.ones((N, N))).weighted(np.ones((N, N)))
