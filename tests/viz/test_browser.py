"""The report in a browser: no error, no network, any screen, mouse, keyboard, paper, and who cannot see it."""

import os
import re
import shutil
from collections.abc import Iterator

import pytest

from homodyne.viz.report import MOST_MAPS, Reported, report

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIZES = {"phone": {"width": 360, "height": 740}, "tablet": {"width": 820, "height": 1180},
         "desktop": {"width": 1440, "height": 900}}  # fmt: skip
SHOWN = "[...document.querySelectorAll('section.map')].filter(one => one.offsetParent !== null).map(one => one.id)"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A Chromium without a window."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        message = "PAGES WERE NOT TESTED IN A BROWSER: no chromium; run tests/packages.sh as root"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # tests run as root, too
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(laminar, static, refused, tmp_path_factory) -> str:
    """A report of one result with many maps, and one of a refused one beside it."""
    place = tmp_path_factory.mktemp("page") / "report.html"
    results = [Reported("flow", laminar.result, laminar.data), Reported("a refused fit", refused.result, refused.data)]
    place.write_bytes(report(results))
    return place.as_uri()


@pytest.fixture
def opened(browser, address):
    """Open the page; whatever it says, or asks of a network, is a failure."""
    contexts, said = [], []

    def open_page(**settings):
        context = browser.new_context(**{"viewport": SIZES["desktop"], **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def first_choice(page):
    return page.locator("select").first


def test_the_mouse_chooses_a_map(opened):
    page = opened()
    assert page.evaluate(SHOWN) == ["r0-map0", "r1-map0"]
    options = first_choice(page).locator("option").all_inner_texts()
    assert len(options) == MOST_MAPS // 2
    first_choice(page).click()
    first_choice(page).select_option(label=options[2])
    assert page.evaluate(SHOWN) == ["r0-map2", "r1-map0"]
    assert page.locator("section.map:visible h3").first.inner_text() == options[2]


def test_the_keyboard_alone_chooses_a_map(opened):
    page = opened()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "r0-choice":
            break
    page.keyboard.press("ArrowDown")
    assert page.evaluate(SHOWN) == ["r0-map1", "r1-map0"]
    page.keyboard.press("End")
    assert page.evaluate(SHOWN)[0] == f"r0-map{MOST_MAPS // 2 - 1}"
    page.keyboard.press("Home")
    assert page.evaluate(SHOWN)[0] == "r0-map0"


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_screen(opened, size):
    page = opened(viewport=SIZES[size])
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]
    boxes = [one.bounding_box() for one in page.locator("img:visible").all()]
    assert boxes
    assert all(box["width"] > 150 and box["x"] + box["width"] <= SIZES[size]["width"] for box in boxes)
    loaded = page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert loaded


def test_paper_has_every_map(opened):
    page = opened()
    content = page.pdf(format="A4")
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 4
    page.emulate_media(media="print")
    shown = page.evaluate(SHOWN)
    assert len(shown) == page.locator("section.map").count() == MOST_MAPS // 2 + 2
    assert page.locator("nav:visible").count() == 0


def test_without_scripts_every_map_is_there(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("section.map:visible").count() == page.locator("section.map").count()
    assert page.locator("nav:visible").count() == 0


@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_who_cannot_see_it_can_read_it(opened, size):
    """Contrast, alternative texts, labels, order of headings, reach by keyboard: the rules of axe-core."""
    from axe_playwright_python.sync_playwright import Axe

    page = opened(viewport=SIZES[size])
    found = Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()


def test_the_checker_sees_a_picture_without_words(opened):
    from axe_playwright_python.sync_playwright import Axe

    page = opened()
    page.evaluate("document.querySelector('img').removeAttribute('alt')")
    assert [one["id"] for one in Axe().run(page).response["violations"]] == ["image-alt"]
