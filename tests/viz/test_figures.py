"""The standard set: complete, legible, honest about its verdict, and whole or not at all."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text

import homodyne
from homodyne.data import from_cube
from homodyne.errors import HomodyneWarning, InputError
from homodyne.viz import inspect_figure, save_figures
from homodyne.viz.figures import WIDTHS, figure_bytes, figure_format, figure_makers, for_journal, standard_figures
from homodyne.viz.labels import plain_text

NAMES = ["maps", "cuts", "rates", "corner", "traces"]


@pytest.fixture(scope="module")
def figures(laminar, static, refused, waves, own):
    examples = {"laminar": laminar, "static": static, "refused": refused, "waves": waves, "own": own}
    return {
        name: [figure for _, figure in standard_figures(example.result, example.data, example.truth)]
        for name, example in examples.items()
    }


def overlapping_texts(figure):
    """Pairs of upright or vertical texts whose boxes touch, and texts that leave the figure."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text.get_rotation() % 90 == 0:
            box = text.get_window_extent(renderer)
            parent = text.axes
            inside = parent is None or parent.axison
            if box.width > 0 and inside and is_drawn(text, figure):
                boxes.append((text.get_text(), box))
    problems = []
    for k, (name, box) in enumerate(boxes):
        if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1:
            problems.append(f"{name!r} leaves the figure")
        for other, second in boxes[k + 1 :]:
            if box.overlaps(second) and box.padded(-1.5).overlaps(second.padded(-1.5)):
                problems.append(f"{name!r} touches {other!r}")
    return problems


def is_drawn(text, figure):
    """Tick labels outside the limits of their axis exist, but are not drawn."""
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if text in (tick.label1, tick.label2):
                    return low <= tick.get_loc() <= high
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", ["laminar", "static", "waves", "own"])
def test_texts_do_not_overlap(name, figures):
    assert [overlapping_texts(figure) for figure in figures[name]] == [[]] * len(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["laminar", "static"])
def test_texts_of_a_first_look_do_not_overlap(name, request):
    assert overlapping_texts(inspect_figure(request.getfixturevalue(name).data)) == []


def test_overlap_is_seen():
    """The planted fault for the test above."""
    figure = matplotlib.figure.Figure()
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    figure.text(0.5, 0.5, "one")
    assert overlapping_texts(figure) == []
    figure.text(0.51, 0.5, "two")
    assert len(overlapping_texts(figure)) == 1


def test_every_time_axis_has_its_unit(figures):
    for figure in figures["laminar"][:3]:
        bottom = min(ax.get_position().y0 for ax in figure.axes if ax.get_xlabel())
        for ax in figure.axes:
            if abs(ax.get_position().y0 - bottom) < 0.01:
                assert ax.get_xlabel().endswith("(s)")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("laminar", ["CERTIFIED", "calibrated", "nuts"]),
        ("static", ["CERTIFIED", "independent noise", "laplace"]),
        ("refused", ["REFUSED: Do not use the numbers", "calibrated"]),
    ],
)
def test_captions_state_verdict_and_uncertainty(figures, name, words):
    for figure in figures[name]:
        caption = figure.get_supxlabel().replace("\n", " ")
        assert all(word in caption for word in words)
        crossed = [text.get_text() for text in figure.texts]
        assert ("REFUSED" in crossed) == (name == "refused")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_save_figures(static, tmp_path, kind, start):
    paths = save_figures(static.result, static.data, tmp_path / "figures", kind, truth=static.truth)
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in NAMES]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {path.name for path in paths}
    assert all(path.read_bytes().startswith(start) for path in paths)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["laminar", "static", "refused"])
def test_figures_for_print(request, name, width):
    """Of the width asked for, in type of 7 to 8 points that does not overlap, captions apart."""
    example = request.getfixturevalue(name)
    for kind, make in figure_makers(example.result, example.data, width=width).items():
        figure = make()
        marks = [text for text in figure.texts if text.get_text() == "REFUSED"]
        caption = for_journal(figure, WIDTHS[width])
        assert example.result.words.trust.rstrip(".") in caption
        assert "$" not in caption
        assert figure.get_figwidth() == pytest.approx(WIDTHS[width] / 25.4)
        assert len(marks) == (name == "refused")
        sizes = {t.get_fontsize() for t in figure.findobj(Text) if t.get_text().strip() and t not in marks}
        assert sizes <= {7.0, 8.0}
        assert overlapping_texts(figure) == [], kind


def test_print_embeds_its_type(static):
    figure = figure_makers(static.result, None, width="column")["rates"]()
    content = bytes(figure_bytes(figure, "pdf"))
    assert b"/Type3" not in content.replace(b" ", b"")
    assert b"/FontFile2" in content
    drawn = bytes(figure_bytes(figure, "svg"))
    assert b"<text" not in drawn
    with matplotlib.rc_context({"pdf.fonttype": 3}):  # what would be without
        figure.savefig(buffer := io.BytesIO(), format="pdf")
    assert b"/FontFile2" not in buffer.getvalue()


def test_mathematical_type_becomes_plain():
    text = r"$\dot\gamma_{0}$ ($10^{-3}$ 1/s$^{1+\beta}$), $D_{\mathrm{offset}}$, $\varphi$ = 3°, Å$^{2}$"
    assert plain_text(text) == "γ̇_0 (10^(-3) 1/s^(1+β)), D_offset, φ = 3°, Å^2"


@pytest.mark.slow
def test_without_data_only_the_posterior_is_drawn(static, tmp_path):
    paths = save_figures(static.result, None, tmp_path)
    assert [path.stem for path in paths] == NAMES[2:]
    other = replace(static.result, q=None, t=None, phi=None, sigma=None)
    assert [path.stem for path in save_figures(other, None, tmp_path)] == NAMES[3:]


@pytest.mark.slow
def test_unknown_model_has_no_curves_and_says_so(own, tmp_path):
    result = replace(own.result, model_class=None, analysis_mode="some:Where")
    with pytest.warns(HomodyneWarning, match="left out: no curves of the model.*name the model, load_result"):
        paths = save_figures(result, own.data, tmp_path)
    assert [path.stem for path in paths] == NAMES[3:]


def test_wrong_input_leaves_nothing(static, laminar, tmp_path):
    with pytest.raises(InputError, match="jpeg"):
        save_figures(static.result, static.data, tmp_path / "a", "jpeg")
    with pytest.raises(InputError, match="differs"):
        save_figures(static.result, laminar.data, tmp_path / "a")
    with pytest.raises(InputError, match="q of the data differs"):
        save_figures(static.result, replace(static.data, q=np.array([0.0055])), tmp_path / "a")
    with pytest.raises(InputError, match=r"fit.jpeg: expected a name that ends in .png, .pdf, .svg"):
        figure_format("fit.jpeg")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"cannot make the folder '{folder}': .*; choose another"):
            save_figures(static.result, static.data, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_inspect_figure_shows_diagonal_and_bad_frames(static):
    data = replace(static.data, diagonal=np.full((1, 60), 2.0))
    figure = inspect_figure(data)
    above, left = figure.axes[1:3]
    assert (above.get_ylabel(), left.get_ylabel()) == ("$c_2(t,t)$", r"$c_2(t,t+\Delta t)$")
    np.testing.assert_array_equal(above.lines[0].get_ydata(), 2.0)
    assert np.nanmax(left.lines[0].get_ydata()) < 2.0
    assert len(above.patches) == len(left.patches) == 2
    assert "2 bad frames (gray)" in figure.get_suptitle()
    assert inspect_figure(static.data).axes[1].get_title() == "neighbours of the diagonal"


def test_inspect_figure_says_what_is_left_out(static):
    """Averaged cells that lack single pairs lie under a veil; a legend says why pairs are gray."""
    c2, n = np.array(static.data.c2), static.data.num_frames
    c2[0, 5, 9:13] = np.inf
    data = from_cube(c2, static.data.t, static.data.phi, static.data.q)
    figure = inspect_figure(data)
    (text,) = (text for legend in figure.legends for text in (t.get_text() for t in legend.texts) if "gray" in text)
    assert text.splitlines()[0] == "left out (gray):"
    assert "4 pairs infinite" in text
    assert len(figure.axes[0].images) == 1
    assert figure.axes[0].images[0].get_array().mask[9:13, 5].all()
    assert not inspect_figure(replace(data, left_out=())).legends
    veiled = inspect_figure(data, max_cells=n // 4).axes[0].images[1].get_array()
    assert np.argwhere(~veiled.mask[: n // 4, : n // 4]).tolist() == [[1, 2], [1, 3], [2, 1], [3, 1]]


_NO_PYPLOT = """
import sys
import matplotlib
before = matplotlib.get_backend(auto_select=False), dict(matplotlib.rcParams)
from benchmarks.example_results import example_result
from homodyne.viz import save_figures
example = example_result("static", phi=(0.0,), num_frames=20, shape=(1, 30))
save_figures(example.result, None, sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
assert (matplotlib.get_backend(auto_select=False), dict(matplotlib.rcParams)) == before
print("clean")
"""


def test_no_global_state_of_matplotlib_is_touched(tmp_path):
    command = [sys.executable, "-c", _NO_PYPLOT, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert run.stdout.strip() == "clean", run.stderr


def test_inspect_figure_of_several_q():
    chosen = {"q": [0.004, 0.006, 0.008], "phi": [0.0, 90.0], "num_frames": 20, "dt": 0.1, "contrast": 0.3}
    data = homodyne.simulate({"D0": 1e4, "alpha": 0.0, "D_offset": 0.0}, **chosen, kind="independent", sigma=0.1)
    figure = inspect_figure(data)
    titles = [ax.get_title() for ax in figure.axes[:4]]
    assert titles == [
        f"q = {q} 1/Å\n$\\varphi$ = {phi}°" for q, phi in ((0.004, 0), (0.004, 90), (0.008, 0), (0.008, 90))
    ]
    assert figure.get_suptitle() == "3 q, 0.004 to 0.008 1/Å, 4 of 6 maps, 20 frames"


@pytest.mark.parametrize("width", list(WIDTHS))
def test_every_figure_has_room_in_print(laminar, width):
    """What has no room makes matplotlib warn, which is an error here."""
    makers = figure_makers(laminar.result, laminar.data, laminar.truth, width=width)
    assert {"maps", "rates", "corner"} < makers.keys()
    for make in makers.values():
        figure = make()
        for_journal(figure, WIDTHS[width])
        assert len(figure_bytes(figure)) > 5000
