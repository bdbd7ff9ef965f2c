import h5py
import numpy as np
import pytest

from homodyne.data import describe, from_cube, load, save_hdf5
from homodyne.errors import DataError, HomodyneWarning


def expected_cells(made, bins) -> dict[tuple[float, float], np.ndarray]:
    """(q, phi) of each bin by counting the non-empty cells of the grid one by one."""
    found, number = {}, 0
    for iq, q in enumerate(made.Q):
        for ip, phi in enumerate(made.PHI):
            if iq * made.PHI.size + ip in made.CELLS:
                number += 1
                if number in bins:
                    found[float(q), float(phi)] = made.upper_map(iq * made.PHI.size + ip)
    return found


def has_right_maps(path, made, bins) -> bool:
    """Whether every map of an APS-U file is loaded at its q and phi."""
    loaded = {}
    for q in ("all", *sorted({q for q, _ in expected_cells(made, bins)})):
        data = load(path, q=q)
        loaded |= {(float(q), float(phi)): one for q, phi, one in zip(data.q, data.phi, data.c2, strict=True)}
    wanted = expected_cells(made, bins)
    return loaded.keys() == wanted.keys() and all(
        np.array_equal(np.triu(loaded[key], 1), np.triu(wanted[key], 1)) for key in wanted
    )


@pytest.mark.parametrize("bins", [range(1, 10), [2, 5, 3, 9, 8], [9, 7, 5, 4, 2, 1]])
def test_aps_u_bins_reach_their_q_and_phi(aps_u, made, bins):
    assert has_right_maps(aps_u(bins), made, bins)
    # planted: a reader that takes bin - 1 for the cell sees the same file as one whose mapping counts on
    assert not has_right_maps(aps_u(bins, mapping=np.arange(made.CELLS.size)), made, bins)


def test_aps_u_facts(aps_u, made):
    data = load(aps_u(), q=0.0054, gap=2e6)
    first = int(np.flatnonzero(made.CELLS // 4 == 1)[0])  # bins 3, 4, 5 (cell 6 is empty)
    assert data.phi.tolist() == [-30.0, 0.0, 90.0]
    assert data.dt == pytest.approx(0.06)  # 0.01 s * 2 averaged * every third
    np.testing.assert_allclose(data.t, 0.06 * np.arange(1, made.N + 1), rtol=1e-6)
    np.testing.assert_array_equal(data.pixels, 10 + first + 1 + np.arange(3))
    np.testing.assert_allclose(data.mean_counts, 2 * 0.1 * (first + 1 + np.arange(3)), rtol=1e-6)
    np.testing.assert_array_equal(data.diagonal[0], np.diag(made.upper_map(4)).astype(np.float64))
    assert load(aps_u(), q=0.004, phi=[45.0]).pixels.tolist() == [12 - 5]  # five pixels of bin 2 are masked
    assert data.source["format"] == "aps-u"
    assert data.source["map names"] == "c2_00003, c2_00004, c2_00005"
    assert data.gap == 2e6


def test_8idi(aps_8idi, made):
    data = load(aps_8idi(), q=0.01)
    assert data.phi.tolist() == [20.0, 10.0]  # bins 6 and 5, in the order of qphi_bin_to_process
    made.same(data.c2, np.array([made.upper_map(0), made.upper_map(2)]))
    assert data.dt == pytest.approx(1.0)
    assert data.pixels.tolist() == [5.0, 5.0]
    other = load(aps_8idi(), q=0.005)
    made.same(other.c2, np.array([made.upper_map(1), made.upper_map(3)]))


@pytest.mark.parametrize("mode", ["one_array_q_first", "one_array_q_last", "data_exchange_keys"])
@pytest.mark.parametrize("elements", ["all", "upper_half", "lower_half"])
@pytest.mark.parametrize("origin", ["upper_left", "lower_left"])
@pytest.mark.parametrize("baseline", [0, 1])
def test_nxxpcs_modes(nxxpcs, made, mode, elements, origin, baseline):
    path = nxxpcs(mode, baseline, origin, elements)
    data = load(path, q=0.005)
    i, j = np.triu_indices(made.N, 1)
    np.testing.assert_allclose(data.c2[:, i, j], made.cube(2)[:, i, j], rtol=3e-7)
    np.testing.assert_allclose(data.diagonal, np.einsum("aii->ai", made.cube(2)), rtol=3e-7)
    assert data.phi.tolist() == [0.0, 30.0]
    assert data.dt == pytest.approx(0.1)  # 100 ms
    assert data.pixels.tolist() == [2.0, 2.0]
    part = load(path, q=0.005, frames=(4, 9))
    np.testing.assert_array_equal(np.triu(part.c2, 1), np.triu(data.c2[:, 3:9, 3:9], 1))


def test_nxxpcs_dead_frame_below_a_zero_baseline(nxxpcs, made):
    def kill(file):
        stored = file["/entry/twotime/two_time_corr_func"]
        stored[:, 3, :] = 0.0
        stored[:, :, 3] = 0.0

    data = load(nxxpcs(baseline=0, change=kill), q=0.005)
    assert data.bad_frames.tolist() == [3]


def test_npz(npz, made):
    data = load(npz(), gap=1e6)
    made.same(data.c2, made.cube(2))
    assert (data.q.tolist(), data.phi.tolist()) == ([0.0054] * 2, [0.0, 90.0])
    np.testing.assert_allclose(data.t, 0.2 * np.arange(1, made.N + 1))
    later = load(npz(t1=5.0 + 0.2 * np.arange(made.N), t2=5.0 + 0.2 * np.arange(made.N)))
    np.testing.assert_allclose(later.t, 5.0 + 0.2 * np.arange(made.N))
    mesh1, mesh2 = np.meshgrid(0.2 * np.arange(made.N), 0.2 * np.arange(made.N), indexing="ij")
    np.testing.assert_allclose(load(npz(t1=mesh1, t2=mesh2)).t, data.t)
    rings = load(npz(wavevector_q_list=np.array([0.005, 0.01])), q=0.01)
    made.same(rings.c2, made.cube(2)[1:])


def test_npy_needs_what_it_does_not_hold(tmp_path, made, real):
    np.save(tmp_path / "cube.npy", made.cube(2))
    data = load(tmp_path / "cube.npy", q=0.01, phi=[0.0, 90.0], dt=0.5)
    made.same(data.c2, made.cube(2))
    np.save(tmp_path / "one.npy", real)
    one = load(tmp_path / "one.npy", q=0.01, phi=0.0, dt=1.0, frames=(11, 60))
    made.same(one.c2[0], real[10:60, 10:60].astype(np.float32))
    assert one.diagonal is None
    for given, message in (
        ({}, "does not state q"),
        ({"q": 0.01}, r"does not state angles; give phi \(--phi\) with 2 values"),
        ({"q": 0.01, "phi": [0.0, 90.0]}, "does not state dt"),
        ({"q": 0.01, "phi": [0.0], "dt": 1.0}, "expected a vector of 2 values"),
    ):
        with pytest.raises(DataError, match=message):
            load(tmp_path / "cube.npy", **given)


def test_q_is_the_nearest_within_one_percent(aps_u):
    assert load(aps_u(), q=0.00544).wavevectors.tolist() == [0.0054]
    with pytest.raises(DataError, match=r"q = 0.006 1/Å is not in .*nearest is 0.0054.*0.004, 0.0054, 0.0071 1/Å"):
        load(aps_u(), q=0.006)
    with pytest.raises(
        DataError, match=r"3 values of q: 0.004, 0.0054, 0.0071 1/Å. .*\(0.004,0.0054\), .*\(0.004:0.0071\), or all"
    ):
        load(aps_u())
    assert load(aps_u(bins=[3, 4])).wavevectors.tolist() == [0.0054]  # only one q


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("all", [0.004] * 2 + [0.0054] * 3 + [0.0071] * 4),
        ([0.00543, 0.004], [0.0054] * 3 + [0.004] * 2),  # in the order asked for, the nearest each
        ((0.004, 0.0054), [0.004] * 2 + [0.0054] * 3),
        ("0.005:0.008", [0.0054] * 3 + [0.0071] * 4),
        ((0, 0.005), [0.004] * 2),
        (np.array([0.0071]), [0.0071] * 4),
        ((0.004, 0.0054, 0.0071), [0.004] * 2 + [0.0054] * 3 + [0.0071] * 4),
    ],
    ids=str,
)
def test_several_q(aps_u, made, q, found):
    data = load(aps_u(), q=q)
    assert data.q.tolist() == found
    assert data.label(0) == f"q = {found[0]:g} 1/Å, phi = {data.phi[0]:g}°"
    for k in range(data.num_maps):
        cell = 4 * int(np.flatnonzero(data.q[k] == made.Q)[0]) + int(np.flatnonzero(data.phi[k] == made.PHI)[0])
        made.same(data.c2[k], made.upper_map(cell))
        assert data.pixels[k] == 10 + np.searchsorted(made.CELLS, cell) + 1 - 5 * (cell == 2)


def test_angles_are_chosen_at_every_q(aps_u):
    data = load(aps_u(), q="all", phi=(80, 100))
    assert (data.q.tolist(), data.phi.tolist()) == ([0.0054, 0.0071], [90.0] * 2)  # the first q has none
    with pytest.raises(
        DataError, match=r"No angle in the range \(80, 100\) at q = 0.004 1/Å; the file holds 0, 45 there"
    ):
        load(aps_u(), q=[0.004, 0.0054], phi=(80, 100))
    assert load(aps_u(), q=[0.0071, 0.0054], phi=[90.1, 0.0]).phi.tolist() == [90.0, 0.0] * 2
    with pytest.raises(DataError, match=r"phi = 90 degrees is not in the file at q = 0.004 .* holds 0, 45 there"):
        load(aps_u(), q="all", phi=[90.0])


def test_several_q_of_the_other_layouts(aps_8idi, nxxpcs, npz, made, tmp_path):
    data = load(aps_8idi(), q="all")
    assert (data.q.tolist(), data.phi.tolist()) == ([0.005, 0.005, 0.01, 0.01], [20.0, 10.0, 20.0, 10.0])
    made.same(data.c2, made.cube(4)[[1, 3, 0, 2]])
    for mode in ("one_array_q_first", "one_array_q_last", "data_exchange_keys"):
        data = load(nxxpcs(mode), q=[0.01, 0.005])
        assert (data.q.tolist(), data.phi.tolist()) == ([0.01, 0.005, 0.005], [0.0, 0.0, 30.0])
        made.same(data.c2, made.cube(3)[[2, 0, 1]])
    data = load(npz(wavevector_q_list=np.array([0.01, 0.005])), q=(0.004, 0.02))
    assert (data.q.tolist(), data.phi.tolist()) == ([0.005, 0.01], [90.0, 0.0])
    made.same(data.c2, made.cube(2)[::-1])
    np.save(tmp_path / "cube.npy", made.cube(2))
    data = load(tmp_path / "cube.npy", q=[0.01, 0.02], phi=30.0, dt=1.0)
    assert (data.q.tolist(), data.phi.tolist()) == ([0.01, 0.02], [30.0, 30.0])


def test_maps_of_one_file_have_the_same_frames(aps_u):
    def shorten(file):
        path = "/xpcs/twotime/correlation_map/c2_00003"
        shorter = file[path][:11, :11]
        del file[path]
        file[path] = shorter

    path = aps_u(change=shorten)
    assert load(path, q=0.004).num_maps == 2
    with pytest.raises(DataError, match="c2_00003 has 11 frames, but .*c2_00001 has 12"):
        load(path, q=[0.004, 0.0054])


@pytest.mark.parametrize(
    ("phi", "found"),
    [
        (None, [-30.0, 0.0, 90.0]),
        ((-30.0, 0.0), [-30.0, 0.0]),
        ((-1, 100), [0.0, 90.0]),
        ((80, 340), [-30.0, 90.0]),
        ((320.0, 370.0), [-30.0, 0.0]),
        ([90.2, -30.0], [90.0, -30.0]),
        ([330.0], [-30.0]),
        (0.0, [0.0]),
        (np.array([0.0, 90.0]), [0.0, 90.0]),
    ],
)
def test_angles(aps_u, phi, found):
    assert load(aps_u(), q=0.0054, phi=phi).phi.tolist() == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"phi": [45.0]}, r"phi = 45 degrees is not in the file .*holds -30, 0, 90"),
        ({"phi": (100, 120)}, r"No angle in the range \(100, 120\) at q = 0.0054 1/Å; the file holds -30, 0, 90"),
        ({"q": [0.0054, 0.00541]}, r"asks for one wave vector twice: .* 0.0054, 0.0054"),
        ({"q": (0.005, 0.0051)}, r"No q from 0.005 to 0.0051 1/Å in .* holds 0.004, 0.0054, 0.0071"),
        ({"q": "many"}, "q = 'many'; expected a number or a list in 1/Å, a range low:high, or all"),
        ({"q": ["a", "b"]}, "expected one number in 1/Å"),
        ({"phi": [0.0, 0.1]}, "same direction twice"),
        ({"phi": [np.nan]}, "phi = nan degrees"),
        ({"q": -1.0}, "q = -1.0 1/Å"),
        ({"frames": (0, 5)}, r"frames = \(0, 5\); expected 1 <= first"),
        ({"frames": (5, 13)}, "<= 12"),
        ({"frames": (5, 6)}, "selects 2 frames; expected at least 3"),
        ({"frames": (1.5, 6)}, "1-based and inclusive"),
        ({"frames": (1, 2, 3)}, "1-based and inclusive"),
        ({"dt": 0.0607}, r"dt = 0.0607 s contradicts dt = 0.06 s in .*frame_time"),
        ({"dt": -1.0}, "dt = -1.0 s"),
        ({"age_origin": -0.06}, r"t\[0\] = .*expected t > 0"),
        ({"age_origin": np.inf}, "age_origin = inf"),
        ({"gap": -1.0}, "gap = -1.0"),
        ({"format": "hdf"}, "unknown file format 'hdf'; expected one of aps-8idi, .*, npy, npz, nxxpcs, pychx"),
        ({"format": "npz"}, "is HDF5, which is no container of format = 'npz'"),
        ({"format": "aps-8idi"}, r"aps-8idi: /exchange/C2T_all, /xpcs/dqlist \(missing\)"),
    ],
)
def test_wrong_selection(aps_u, given, message):
    with pytest.raises(DataError, match=message):
        load(aps_u(), **({"q": 0.0054} | given))


def test_frames_ages_and_dt(aps_u, made):
    data = load(aps_u(), q=0.0054, phi=[0.0], frames=(3, 8), age_origin=10.0, dt=0.0603)
    made.same(data.c2[0], made.upper_map(5)[2:8, 2:8])
    assert data.frames == (3, 8)
    assert data.dt == pytest.approx(0.06)  # the file's, as 0.0603 does not contradict it
    np.testing.assert_allclose(data.t, 10.0 + 0.06 * np.arange(1, 7), rtol=1e-6)
    np.testing.assert_array_equal(data.diagonal[0], np.diag(made.upper_map(5))[2:8].astype(np.float64))


def test_dt_missing_in_the_file(aps_u):
    def drop(file):
        del file["/xpcs/twotime/config/avg_frame"]

    path = aps_u(change=drop)
    with pytest.raises(DataError, match="does not state dt .*missing: /xpcs/twotime/config/avg_frame"):
        load(path, q=0.0054)
    assert load(path, q=0.0054, dt=0.2).dt == 0.2
    assert any("avg_frame" in one for one in describe(path).missing)


@pytest.mark.parametrize("shape", [(), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_frame_time_is_a_scalar_or_one_element(aps_u, shape, dtype):
    def change(file):
        del file["/entry/instrument/detector_1/frame_time"]
        file["/entry/instrument/detector_1/frame_time"] = np.full(shape, 0.05, dtype)

    assert load(aps_u(change=change), q=0.0054).dt == pytest.approx(0.3)


def test_bad_frames_of_a_file(aps_u, made):
    def kill(file):
        for one in file["/xpcs/twotime/correlation_map"].values():
            one[2, :] = 0.0
            one[:, 2] = 0.0
        only = file["/xpcs/twotime/correlation_map/c2_00004"]  # q = 0.0054, phi = 0
        only[6, 7:], only[:6, 6] = np.nan, np.nan

    path = aps_u(change=kill)
    data = load(path, q=0.0054)
    assert data.bad_frames.tolist() == [2]
    assert data.num_pairs == 3 * 11 * 10 // 2 - 10
    assert load(path, q=0.0054, frames=(2, 9)).bad_frames.tolist() == [1]
    assert describe(path).bad_frames == (3,)  # numbered from 1, as frames= is


def test_describe(aps_u, aps_8idi, nxxpcs, npz, tmp_path, made):
    found = describe(aps_u())
    assert (found.format, found.num_maps, found.num_frames, found.maps_per_q) == ("aps-u", 9, 12, (2, 3, 4))
    assert (found.suggested_q, found.dt, found.bad_frames) == (0.0071, pytest.approx(0.06), ())
    text = str(found)
    for piece in (
        "aps-u",
        "9 of 12 x 12 frames",
        "0.004 (2), 0.0054 (3), 0.0071 (4) 1/Å",
        "0.06 s",
        "-30, 0, 45, 90 degrees at q = 0.0071",
        "--q all: one fit of all 9 maps",
        "--q 0.0071: the q with the most maps",
        "--q 0.004,0.0054: several; --q 0.004:0.0071: a range",
        "none",
    ):
        assert piece in text
    assert describe(aps_8idi()).suggested_q == 0.005
    assert describe(nxxpcs()).maps_per_q == (2, 1)
    assert describe(npz()).format == "npz"
    assert "--q" not in str(describe(npz()))
    np.save(tmp_path / "cube.npy", made.cube(2))
    assert "missing     q: give q (--q) in 1/Å" in str(describe(tmp_path / "cube.npy"))


def test_units_are_converted(aps_u):
    def nanometres(file):
        file["/xpcs/qmap/map_units"][...] = ["1/nm", "rad"]
        file["/xpcs/qmap/dynamic_v_list_dim0"][...] *= 10
        file["/xpcs/qmap/dynamic_v_list_dim1"][...] *= np.pi / 180

    data = load(aps_u(change=nanometres), q=0.0054)
    assert data.wavevectors == pytest.approx([0.0054])
    np.testing.assert_allclose(data.phi, [-30.0, 0.0, 90.0])


def test_only_the_selected_maps_are_read(aps_u):
    def spoil(file):  # a map that cannot be read does not matter until it is asked for
        for name in ("c2_00007", "c2_00009"):
            path = f"/xpcs/twotime/correlation_map/{name}"
            del file[path]
            file[path] = h5py.ExternalLink("elsewhere.hdf", path)

    path = aps_u(change=spoil)
    assert load(path, q=0.0054).num_maps == 3
    with pytest.raises(DataError, match="link to another file"):
        load(path, q=0.0071)


def test_a_range_of_angles_does_not_turn_in_silence(aps_u):
    with pytest.raises(DataError, match=r"180:0 degrees ends below its beginning. Give 0:180 .*, or 180:360 to go on"):
        load(aps_u(), q=0.0054, phi=(180, 0))


def test_the_pointer_of_the_file_decides(nxxpcs, aps_8idi):
    def second(default):
        def change(file):
            file.copy("/entry", "/reprocessed")
            file["/reprocessed/twotime/two_time_corr_func"][...] += 1
            if default:
                file.attrs["default"] = default

        return change

    first = load(nxxpcs(), q=0.005).c2[0][0, 1]
    assert load(nxxpcs(change=second("reprocessed")), q=0.005).c2[0][0, 1] == pytest.approx(first + 1)
    data = load(nxxpcs(change=second("entry")), q=0.005)
    assert data.c2[0][0, 1] == first
    assert data.source["not used"] == "1 other maps; results in /reprocessed (@default names /entry)"
    with pytest.raises(DataError, match="several results, /entry, /reprocessed, and @default, .* is missing"):
        load(nxxpcs(change=second(None)), q=0.005)

    def again(pointer):
        def change(file):
            file.copy("/exchange", "/exchange_1")
            for one in file["/exchange_1/C2T_all"].values():
                one[...] += 1
            if pointer:
                file["/xpcs/output_data"] = pointer

        return change

    first = load(aps_8idi(), q=0.01).c2[0][0, 1]
    assert load(aps_8idi(again("/exchange_1")), q=0.01).c2[0][0, 1] == pytest.approx(first + 1)
    assert load(aps_8idi(again("/exchange")), q=0.01).c2[0][0, 1] == first
    with pytest.raises(DataError, match="several results, /exchange, /exchange_1, and /xpcs/output_data"):
        load(aps_8idi(again(None)), q=0.01)


def test_what_is_not_used_is_listed(aps_u, npz, tmp_path):
    def change(file):
        file["/xpcs/twotime/config/begin_frame"][...] = 101
        file["/xpcs/multitau/normalized_g2"] = np.ones(3)

    listed = describe(aps_u(change=change)).unused
    assert listed[0].startswith("begin_frame = 101: the maps begin at that frame of the record, and ages with them")
    assert listed[1] == "multi-tau results in /xpcs/multitau"
    assert "begin_frame = 101" in load(aps_u(change=change), q=0.004).source["not used"]
    assert describe(npz(mask=np.ones(3))).unused == ("arrays mask",)


def test_masks_that_are_not_used_are_listed(aps_u, aps_8idi, nxxpcs):
    def more(file):
        file["/entry/instrument/detector_1/pixel_mask"] = np.ones((3, 3))
        file["/entry/masked"] = h5py.SoftLink("/entry/instrument")
        file["/entry/again"] = file["/entry"]  # round and round

    said = "masks /entry/instrument/detector_1/pixel_mask"
    assert describe(aps_u(change=more)).unused == (said,)
    assert load(nxxpcs(change=more), q=0.005).source["not used"].endswith(said)
    assert describe(aps_8idi(more)).unused == (said,)
    assert describe(aps_8idi()).unused == ()


def test_a_gap_that_takes_the_place_of_that_of_the_file_is_said(made, tmp_path, recwarn):
    data = from_cube(made.cube(2), np.arange(1.0, made.N + 1), [0.0, 90.0], 0.01, gap=2e6)
    save_hdf5(tmp_path / "own.h5", data)
    with pytest.warns(HomodyneWarning, match=r"own.h5: gap = 1e\+06 Å was given; 2e\+06 Å, which the file states"):
        again = load(tmp_path / "own.h5", gap=1e6)
    assert again.gap == 1e6
    assert "2e+06 Å, which the file states, is not used" in again.source["gap"]
    assert load(tmp_path / "own.h5", gap=2e6).gap == load(tmp_path / "own.h5").gap == 2e6
    assert len(recwarn) == 0
    with h5py.File(tmp_path / "g2.h5", "w") as file:
        file["/xpcs/multitau/normalized_g2"] = np.ones(3)
    with pytest.raises(DataError, match=r"It holds g2 \(/xpcs/multitau\), averages over time"):
        load(tmp_path / "g2.h5")


def test_one_of_two_layouts_is_chosen_by_its_name(aps_u, tmp_path):
    path = aps_u()
    save_hdf5(tmp_path / "own.h5", from_cube(np.triu(1 + np.arange(16.0).reshape(4, 4)), np.arange(1, 5), 0.0, 0.01))
    with h5py.File(tmp_path / "own.h5") as own, h5py.File(path, "r+") as file:
        for name in own:
            own.copy(name, file["/"], name=name)
    with pytest.raises(DataError, match="several layouts, homodyne and aps-u"):
        load(path)
    assert load(path, format="homodyne").num_frames == 4
    assert load(path, q=0.004, format="aps-u").num_frames > 4
