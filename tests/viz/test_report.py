"""The report: one file that is complete, small, legible without a network, and that no name in a file can break."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from homodyne.errors import InputError
from homodyne.files import REPORT
from homodyne.viz import report as module
from homodyne.viz.report import Reported, report

EVIL = "\"><script>alert('1')</script><img src=https://example.org/x.png onerror=alert(2)>"
VOID = {"meta", "img", "rect", "br", "link", "input"}


class Page(HTMLParser):
    """Tags with their attributes, texts, and whether everything that opens is closed."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags, self.open, self.text, self.script = [], [], "", ""
        self.feed(content.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script += data
        elif self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


CHECKS = {
    "alarms": [],
    "failed": [],
    "angles": [{"q": 0.0054, "phi": 0.0, "p": 0.3}],
    "misfit": {"p": 0.25, "size": 0.0, "tests": {"anywhere": {"p": 0.25}}},
    "frames": {"speckle": {"p": 0.5}, "p": [0.4, 0.5], "limits": [0.0, 1.0, 2.0]},
    "tiles": {"lag": [0.1, 1.0], "family": [[0, 1]] * 13, "age": [[0, 1]] * 13, "sd": [[0.5, -1.0]] * 13},
}
SETTINGS = {
    "experimental_data": {"file_path": "/data/run42.h5"},
    "parameters": {
        "D0": {"prior": {"type": "lognormal", "median": 1e4, "sigma": 4.0}},
        "alpha": {"prior": {"type": "normal", "mean": 0.0, "sd": 1.5}, "bounds": [-3.0, 3.0]},
        "D_offset": {"prior": {"type": "share", "median": 1.0, "sigma": 1.0}},
        "beta": {"prior": "nonsense"},
        "contrast": {"prior": {"type": "loguniform", "low": 0.01, "high": 1.0}},
    },
}


@pytest.fixture(scope="module")
def full(laminar):
    facts = laminar.result.diagnostics | {"checks": CHECKS, "prior": {"shares": {"D_offset": 0.9, "D0": 0.01}}}
    return replace(laminar.result, diagnostics=facts, config=SETTINGS, timings={"pilot": 1.5}, versions={"jax": "9.9"})


@pytest.fixture(scope="module")
def content(full, laminar):
    return report([Reported("flow", full, laminar.data)])


@pytest.fixture(scope="module")
def page(content):
    return Page(content)


def test_the_page_stands_alone(content, page):
    assert len(content) < module.MOST_BYTES
    assert REPORT.mark in content[:1000]
    assert not page.all("link")
    assert len(page.all("script")) == 1
    for _, attributes in page.tags:
        assert "src" not in attributes or attributes["src"].startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(rb"https?:|url\(|@import|fetch\(", re.sub(rb"base64,[^\"]*", b"", content))


def test_pictures_are_pictures_with_words(page):
    pictures = page.all("img")
    assert len(pictures) == 2 * module.MOST_MAPS + len(["misfit", "rates", "corner", "traces"])
    for one in pictures:
        assert base64.b64decode(one["src"].split(",")[1]).startswith(b"\x89PNG")
        assert len(one["alt"]) > 20
        assert "$" not in one["alt"]
    assert any(one["alt"].startswith("φ = 0°: ") for one in pictures)


def test_the_selector_names_parts_that_are_there(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    values = [one["value"] for one in page.all("option")]
    assert len(values) == module.MOST_MAPS
    assert set(values) <= set(ids)
    assert all(one["for"] in ids for one in page.all("label"))
    assert all("hidden" not in one for one in page.all("section"))  # without a script, and printed, all are there
    assert all("hidden" in one for one in page.all("nav"))
    assert "6 of 13 maps are shown" in page.text


def test_what_was_fitted_and_how_it_ended_is_told(page, full):
    for words in (full.words.found, full.words.trust, full.words.next, full.certificate.reason):
        assert words in page.text
    for text in ("/data/run42.h5", "0.0054 1/Å", "-90° to 90° (13 maps)", "50, 3 of them bad", "0.1 to 5 s", "2e+06 Å"):
        assert text in page.text
    assert "jax 9.9" in page.text
    assert "pilot 1.5" in page.text
    assert "file_path: /data/run42.h5" in page.text


def test_prior_stands_beside_posterior(page, full):
    assert "lognormal(median 10000, sigma 4)" in page.text
    assert "13.9 to 7.2e+06" in page.text  # 1e4 exp(± 1.645 * 4)
    assert "normal(mean 0, sd 1.5) within -3 to 3" in page.text
    assert "of the law in the rate" in page.text
    assert "D_offset (not determined by the data)" in page.text
    bars = page.all("rect")
    assert len(bars) == 2 * (2 + 13)  # D0, alpha, contrasts
    assert all(0 <= float(one["x"]) <= float(one["x"]) + float(one["width"]) <= 162.1 for one in bars)


def test_without_data_the_report_says_so(full):
    page = Page(report([Reported("flow", full, None, "the file is gone")], figures=False))
    assert "No maps are shown: the file is gone." in page.text
    assert not page.all("img")
    assert not page.all("select")


def test_names_from_files_are_text(full, laminar):
    told = {"experimental_data": {"file_path": EVIL}, "analysis_mode": EVIL, EVIL: {EVIL: EVIL}}
    facts = full.diagnostics | {"warnings": [EVIL], "left_out": [EVIL], "methods": [EVIL]}
    certificate = replace(full.certificate, reason=EVIL)
    units = {**full.units, "D0": EVIL}
    bad = replace(full, config=told, diagnostics=facts, certificate=certificate, units=units, versions={EVIL: EVIL})
    results = [Reported(EVIL, bad, None, EVIL), Reported("other", laminar.result)]
    page = Page(report(results, figures=False))
    assert len(page.all("script")) == 1
    assert "alert" not in page.script
    assert not page.all("img")
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert page.text.count("alert('1')") > 8


def test_several_results_stand_side_by_side(full, laminar, static, monkeypatch):
    monkeypatch.setattr(module, "figure_makers", lambda *of: {})
    page = Page(report([Reported("flow", full, laminar.data), Reported("rest", static.result, static.data)]))
    assert [one["id"] for one in page.all("article")] == ["r0", "r1"]
    assert {one["href"] for one in page.all("a")} == {"#r0", "#r1"}
    assert "2 results side by side" in page.text
    assert "different models (flow: laminar_flow, rest: static)" in page.text
    assert len(page.all("option")) == 3 + 1


def test_fewer_maps_are_shown_where_they_would_be_too_large(laminar, monkeypatch):
    monkeypatch.setattr(module, "MOST_MAPS", 2)
    monkeypatch.setattr(module, "figure_makers", lambda *of: {})
    flow = [Reported("flow", laminar.result, laminar.data)]
    two = report(flow)
    assert len(Page(two).all("option")) == 2
    monkeypatch.setattr(module, "MOST_BYTES", int(0.8 * len(two)))
    assert len(Page(report(flow)).all("option")) == 1
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="report fewer results"):
        report(flow)


def test_refused_results_cannot_be_overlooked(refused):
    page = Page(report([Reported("bad", refused.result)], figures=False))
    assert any(one.get("class") == "verdict bad" for one in page.all("div"))
    assert refused.result.words.trust in page.text


def test_wrong_input(static, laminar):
    with pytest.raises(InputError, match="needs a result"):
        report([])
    with pytest.raises(InputError, match="differs"):
        report([Reported("rest", static.result, laminar.data)])
