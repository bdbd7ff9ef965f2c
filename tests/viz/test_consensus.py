"""The shards in figures: every one of them drawn, the bad ones named, nothing that touches."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from homodyne.errors import InputError
from homodyne.optimization.cmc.diagnostics import validate_cmc_results
from homodyne.viz import consensus
from homodyne.viz.labels import new_figure

LAMINAR = ("D0", "alpha", "D_offset", "gamma_dot_0", "beta", "gamma_dot_offset", "phi0")
FIGURES = (consensus.shard_forest_figure, consensus.divergence_figure, consensus.agreement_figure)


def validated(num_shards, dimension, bad=(), failed=(), unidentified=(), seed=0):
    """Validation of shards with normal draws, ``bad`` ones moved by 15 sd in the first parameter."""
    rng = np.random.default_rng(seed)
    center = 3.0 * 10.0 ** np.arange(4, 4 - dimension, -1) * np.array([-1.0, 1.0] * 4)[:dimension]
    sd = 0.05 * np.abs(center)
    good = np.ones(dimension)
    records = []
    for m in range(num_shards):
        width = sd * np.where(np.arange(dimension) == 1, 40.0 if m in unidentified else 1.0, 1.0)
        mean = center + width * rng.normal(size=dimension) + 15 * sd * (m in bad) * (np.arange(dimension) == 0)
        draws = mean + width * rng.normal(size=(2, 150, dimension))
        record = {"shard_id": m, "samples": draws, "names": LAMINAR[:dimension], "rhat": good}
        record |= {"ess_bulk": 300 * good, "ess_tail": 300 * good, "divergences": 0, "ebfmi": np.ones(2)}
        records.append({"shard_id": m, "reason": "killed"} if m in failed else record)
    return validate_cmc_results(records)[1]


CASES = {
    "two": validated(2, 3),
    "few": validated(4, 3, bad=(2,)),
    "many": validated(16, 7, bad=(5,)),
    "most": validated(64, 7, bad=(40, 41), failed=(10,), unidentified=(20,)),
}


def touching(figure):
    """Pairs of tick labels, titles and captions that overlap, and texts that leave the figure."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = []
    for text in figure.findobj(Text):
        if not text.get_visible() or not text.get_text().strip() or (text.axes is not None and not text.axes.axison):
            continue
        if text.get_window_extent(renderer).width > 0 and drawn(text, figure):
            boxes.append((text.get_text(), text.get_window_extent(renderer)))
    problems = []
    for k, (name, box) in enumerate(boxes):
        if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1:
            problems.append(f"{name!r} leaves the figure")
        problems += [
            f"{name!r} touches {other!r}"
            for other, second in boxes[k + 1 :]
            if box.padded(-1.5).overlaps(second.padded(-1.5))
        ]
    return problems


def drawn(text, figure):
    """Tick labels beyond the limits of their axis exist, but are not drawn."""
    axes = [ax for parent in figure.axes for ax in (parent, *parent.child_axes)]
    for ax in axes:
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if text in (tick.label1, tick.label2):
                    return low <= tick.get_loc() <= high
    return True


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("make", FIGURES)
def test_nothing_touches(make, case):
    assert touching(make(CASES[case])) == []


@pytest.mark.parametrize("case", list(CASES))
def test_forest_draws_every_shard(case):
    numbers = CASES[case]
    table = consensus.shard_table(numbers)
    entries = {entry["shard_id"]: entry for entry in numbers["per_shard"]}
    ax = new_figure(4, 4).subplots()
    artists = consensus.draw_forest(ax, table, 0)
    unit = 1e4
    places = np.concatenate([np.column_stack(line.get_data()) for line in artists[2:]])
    places = places[np.argsort(places[:, 1])]
    np.testing.assert_allclose(places[:, 0] * unit, [entries[k]["mean"][0] for k in table.ids])
    np.testing.assert_array_equal(places[:, 1], np.arange(len(table.ids)))
    orange = [line for line in artists[2:] if to_hex(line.get_color()) == consensus._BAD.lower()]
    shown = sorted(table.ids[int(row)] for line in orange for row in line.get_ydata())
    assert shown == sorted(numbers["between"]["outliers"])
    assert shown == {"two": [], "few": [2], "many": [5], "most": [40, 41]}[case]


def test_forest_is_about_the_combined_posterior():
    numbers = CASES["few"]
    product = numbers["between"]["product"]
    table = consensus.shard_table(numbers)
    assert table.source == "product of the shards"
    combined = {"mean": [1.0, 2.0, 3.0], "sd": [0.1, 0.2, 0.3], "method": "weighted"}
    table = consensus.shard_table({**numbers, "combined": combined})
    assert table.source == "combined posterior"
    np.testing.assert_array_equal(table.center, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        consensus.shard_table({**numbers, "combined": {**combined, "sd": None}}).width, product["sd"]
    )


def test_axis_in_sds_of_a_shard():
    """The upper axis is zero at the combined mean and one a median shard sd above it."""
    table = consensus.shard_table(CASES["many"])
    ax = new_figure(4, 4).subplots()
    consensus.draw_forest(ax, table, 3)
    (upper,) = ax.child_axes
    ax.figure.canvas.draw()
    (left, right), (low, high) = upper.get_xlim(), ax.get_xlim()
    per_sd = (high - low) / (right - left)
    power = consensus.scale_power(table.center[3:4])
    assert per_sd * 10.0**power == pytest.approx(np.median(table.sd[:, 3]))
    assert (low - left * per_sd) * 10.0**power == pytest.approx(table.center[3])


def test_wide_shard_does_not_hide_the_others():
    table = consensus.shard_table(CASES["most"])
    typical = float(np.median(table.sd[:, 1]))
    low, high = consensus._forest_span(table, 1, typical)
    assert high - low < 12 * typical
    ax = new_figure(4, 4).subplots()
    consensus.draw_forest(ax, table, 1)
    hidden = (table.mean[:, 1] < low) | (table.mean[:, 1] > high)
    arrows = [line for line in ax.lines if line.get_marker() in "<>"]
    assert sum(line.get_xdata().size for line in arrows) == hidden.sum() > 0


def test_far_shard_is_marked_at_the_edge():
    numbers = validated(6, 3, bad=(1,))
    numbers["per_shard"][1]["mean"][0] += 1e6
    table = consensus.shard_table(numbers)
    ax = new_figure(4, 4).subplots()
    consensus.draw_forest(ax, table, 0)
    (arrow,) = [line for line in ax.lines if line.get_marker() == ">" and line.get_xdata().size]
    np.testing.assert_array_equal(arrow.get_ydata(), [1])


def test_matrix_and_its_limit():
    numbers = CASES["many"]
    kl = numbers["between"]["kl"]
    figure = consensus.divergence_figure(numbers)
    image = figure.axes[0].images[0]
    np.testing.assert_allclose(np.ma.getdata(image.get_array()), kl["matrix"])
    assert np.ma.getmaskarray(image.get_array()).diagonal().all()
    assert image.norm(kl["limit"]) == pytest.approx(0.5)  # white
    assert {round(float(line.get_xdata()[0]), 6) for line in figure.axes[1].lines} == {
        round(kl["expected"], 6),
        round(kl["limit"], 6),
    }
    counted = sum(step.get_data().values.sum() - np.sum(step.get_data().baseline) for step in figure.axes[1].patches)
    assert counted == 16 * 15 / 2


def test_heights_are_p_values():
    ax = new_figure(3, 3).subplots()
    p = np.array([0.5, 1e-4, 0.0])
    artists = consensus.draw_p_values(ax, p, np.array([False, False, True]), 0.01)
    good, bad = artists[1:3]
    np.testing.assert_allclose(good.get_ydata(), -np.log10(p[:2]))
    np.testing.assert_allclose(bad.get_ydata(), [12.0])
    assert artists[-1].get_ydata()[0] == pytest.approx(2.0)


def test_captions_are_honest():
    figure = consensus.agreement_figure(CASES["most"])
    caption = figure.get_supxlabel()
    assert "63 shards" in caption
    assert "not compared: 10" in caption
    assert "NOT VALID" in caption
    assert "NOT VALID" not in consensus.agreement_figure(CASES["two"]).get_supxlabel()


def test_what_cannot_be_drawn():
    single = validated(1, 3)
    for make in FIGURES:
        with pytest.raises(InputError, match="1 shard could be compared"):
            make(single)
    numbers = CASES["two"]
    numbers = {**numbers, "between": {**numbers["between"], "kl": {**numbers["between"]["kl"], "matrix": None}}}
    with pytest.raises(InputError, match="too many for a matrix"):
        consensus.divergence_figure(numbers)
