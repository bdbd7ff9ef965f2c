"""Prepared situations, each with the next step that helps, in sentences without statistics."""

import base64
import html
import re
from dataclasses import replace

import numpy as np
import pytest

from homodyne.result.words import SITUATIONS

GOOD = {"alarms": [], "failed": [], "angles": [], "misfit": {"p": 0.4, "size": 0.0}}
FRAMES = {"limits": [0.0, 1.0, 2.0], "p": [0.2, 1e-9]}


def failed(*names, **more):
    return {"checks": GOOD | {"alarms": ["a test fails (p < 1e-12)"], "failed": list(names)} | more}


# what the result says of itself; situation, what the trust sentence has to say, and the next step
PREPARED = {
    "certified": ({}, {}, "confirmed the answer", "Use the table"),
    "corrected": ({"verdict": "CORRECTED"}, {}, "already the mended one", "nothing to repeat"),
    "refused": ({"verdict": "REFUSED"}, {}, "Do not use", "homodyne plan"),
    "refused: laplace": ({"verdict": "REFUSED", "method": "laplace"}, {}, "Do not use", "--method nuts"),
    "refused: units": (
        {"verdict": "REFUSED", "method": "laplace"},
        {"implausible": ["gap = 200 Å is unusual (expected 1e4 to 1e8: plates); is it in Å?"]},
        "(gap = 200 Å is unusual).",
        "homodyne inspect",
    ),
    "refused: coarse": (
        {"verdict": "REFUSED"},
        {"reduction": {"error": 0.2, "limit": 0.05, "nodes": 9, "pairs": 10, "checks": 8, "attempts": 3}},
        "condensed too coarsely",
        "reduction.tolerance",
    ),
    "refused: other answers": ({"verdict": "REFUSED"}, {"pilot": {"unseen": 0.2}}, "not all of", "parameters.NAME"),
    "refused: not determined": (
        {"verdict": "REFUSED"},
        {"prior": {"shares": {"beta": 0.9}}},
        "beta is not determined",
        "Fix it where it is known (parameters.beta.fixed) and fit again; otherwise measure more",
    ),
    "not tested": ({"verdict": "UNCERTIFIED", "certificate": None}, {}, "not compared", "with the certificate"),
    "units": ({}, {"implausible": ["q = 2 1/Å is unusual (expected less)"]}, "q = 2 1/Å", "--unit"),
    "record changes": ({}, failed("misfit", "frames", frames=FRAMES), "most of all 1 to 2 s", "--frames FIRST:LAST"),
    "angles disagree": ({}, failed("misfit", "angles"), "angles disagree", "--phi"),
    "misfit": ({}, failed("misfit", misfit={"p": 0.0, "size": 0.058}), "by about 5.8 % of the contrast", "--mode"),
    "noise differs": ({}, failed("rows"), "not their ±", "speckle.mean_counts"),
    "prior against data": (
        {},
        {"prior": {"alarm": "they contradict", "parameters": {"D0": 1.0, "alpha": 5.2}}},
        "beforehand of alpha",
        "widen parameters.alpha.prior",
    ),
    "noise sources contradict": ({}, {"noise": {"contradicted": ["pixels"]}}, "larger ± was taken", "(speckle.pixels)"),
    "stated noise contradicted": (
        {"config": {"speckle": {"mean_counts": 0.1}}},
        {"noise": {"contradicted": ["mean_counts"]}},
        "that you stated was taken",
        "Check speckle.mean_counts",
    ),
    "not determined": (
        {},
        {"prior": {"shares": {"D0": 0.9, "D_offset": 0.8, "beta": 0.2}}},
        "except for D0, D_offset, not determined by the data",
        "Use the rates, which are determined, or fix one of them where it is known (parameters.D_offset.fixed)",
    ),
    "several answers": ({}, {"pilot": {"num_modes": 2}}, "2 separate answers", "figure corner"),
    "few draws": ({}, {"ess_bulk": {"alpha": 50.0, "beta": 900.0}}, "known to 10 %", "optimization.mcmc.num_samples"),
    "independent noise": ({"uncertainty": "independent"}, {}, "too small", "uncertainty=calibrated"),
    "model not tested": ({}, {"checks": {}}, "not tested", "16 frames"),
}  # fmt: skip
JARGON = re.compile(
    r"posterior|(?<!\.)\bprior|likelihood|k-hat|R-hat|\bESS\b|effective|importance|\bdraws?\b|chains?\b|(?<!--)\bmodes?\b"
    r"|\bp [=<]|sigma|deviation|variance|quantile|certifi(?!cate)|covariance|residual",
    re.IGNORECASE,
)


def prepared(laminar, name):
    fields, facts, *_ = PREPARED[name]
    result = laminar.result
    if (verdict := fields.get("verdict")) in ("CORRECTED", "REFUSED"):
        fields = {**fields, "certificate": replace(result.certificate, verdict=verdict)}
    plenty = dict.fromkeys(result.samples, 900.0)
    return replace(result, **fields, diagnostics={"checks": GOOD, "ess_bulk": plenty, **facts})


def test_every_situation_is_prepared():
    assert {one.name for one in SITUATIONS} == set(PREPARED)


@pytest.mark.parametrize("name", PREPARED)
def test_the_next_step_is_the_right_one(laminar, name):
    words = prepared(laminar, name).words
    assert words.situation == name
    assert PREPARED[name][2] in words.trust
    assert PREPARED[name][3] in words.next
    for sentence in (words.found, words.trust, words.next):
        assert sentence.endswith(".")
        assert sentence[0].isupper()
        assert not JARGON.search(sentence), sentence


def test_jargon_is_seen():
    """The planted fault for the test above."""
    for text in ("the posterior", "your prior", "p < 0.1", "few draws", "two modes"):
        assert JARGON.search(text), text
    assert not JARGON.search("change parameters.D0.prior or take --mode static")


def test_the_worst_is_said_first(laminar):
    """A misfit hides what is only not determined; a mended table is said to be one whatever else is said."""
    facts = failed("misfit") | PREPARED["not determined"][1]
    certificate = replace(laminar.result.certificate, verdict="CORRECTED")
    changed = {"verdict": "CORRECTED", "certificate": certificate, "diagnostics": facts}
    words = replace(laminar.result, **changed).words
    assert words.situation == "misfit"
    assert words.trust.endswith("; the table is already the mended one.")


def test_what_was_found_is_the_rate_with_its_error(laminar):
    row = laminar.result.summary().rates[0]
    found = laminar.result.words.found
    assert found.startswith(
        f"At an age of {row.t:.3g} s J = {row.cells[1].strip('= ,')}, changing as age to the power "
    )
    assert " and gamma_dot = " in found


def test_a_rate_that_was_given_is_not_found(laminar):
    samples = dict(laminar.result.samples)
    for name in ("D0", "alpha", "D_offset"):
        samples[name] = np.full_like(samples[name], samples[name].mean())
    found = replace(laminar.result, samples=samples).words.found
    assert "J = " not in found
    assert "s gamma_dot = " in found


def test_without_rates_what_was_found_are_the_parameters_that_are_determined(laminar, generic):
    result = replace(laminar.result, analysis_mode="some:Where", model_class=None)
    assert result.words.found.startswith("D0 = ")
    assert "; 3 more in the table." in result.words.found
    some = replace(result, diagnostics={"prior": {"shares": dict.fromkeys(result.free_names[1:], 0.9)}})
    low, middle, high = np.quantile(result.samples["D0"], (0.16, 0.5, 0.84))
    assert some.words.found.count("=") == 1
    assert float(some.words.found.split()[2]) == pytest.approx(middle, abs=0.06 * (high - low))
    assert generic.words.found.startswith("100% = ")


def test_refused_numbers_are_not_repeated(refused):
    assert not re.search(r"\d", refused.result.words.found)


def test_notebooks_show_the_words_and_escape_names(laminar):
    page = laminar.result._repr_html_()
    assert "<strong>CERTIFIED</strong>" in page
    assert laminar.result.words.trust in page
    (picture,) = re.findall('<img alt="line and band: [^"]+" src="data:image/png;base64,([^"]+)">', page)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert len(page) < 100_000
    samples = {"<script>": laminar.result.samples["D0"]}
    other = replace(
        laminar.result, samples=samples, parameter_names=("<script>",), fixed={}, t=None, q=None, phi=None, sigma=None
    )
    assert "<script>" not in other._repr_html_()
    assert "&lt;script&gt;" in other._repr_html_()


def test_notebooks_show_data(laminar):
    page = laminar.data._repr_html_()
    assert "3 maps x 40 frames" in page
    assert all(html.escape(line) in page for line in laminar.data.left_out_lines())
    (picture,) = re.findall('<img alt="q = 0.0054 1/Å, [^"]+" src="data:image/png;base64,([^"]+)">', page)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
