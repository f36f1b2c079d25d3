"""`report.html` in a real browser: what moves, what fits, and that nothing is asked of anybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.reports.browser import CHROMIUM, WHY_NONE, Browser
from tests.training.reports.made_page import HARM, KEEPS, make_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WHY_NONE)

PICTURES = "[...document.querySelectorAll('#pictures .views img')].map((i) => i.src)"
SERIES = "document.querySelectorAll('#charts .chart')[0].querySelectorAll('svg > g.series').length"
PARTS = ("charts", "pictures", "worst", "channels", "classes", "confusion")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(make_page()[0], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Browser]:
    browser.open(file, 1200)
    yield browser
    assert browser.requests == []
    assert browser.complaints == []


def test_every_part_is_drawn_and_no_name_becomes_markup(page: Browser) -> None:
    for part in PARTS:
        assert page.evaluate(f"!document.getElementById('{part}').hidden"), part
    assert page.evaluate("document.title").startswith("Rate and mIoU")
    assert page.evaluate("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
    assert HARM in page.evaluate("document.querySelector('#classes option').textContent")


def test_the_slider_moves_with_arrow_keys_and_tells_the_pictures_own_bits(page: Browser) -> None:
    page.evaluate("document.querySelector('#pictures input[type=range]').focus()")
    before = page.evaluate(PICTURES)
    seen = [page.evaluate("document.querySelector('#pictures output').textContent")]
    for _ in KEEPS[1:]:
        page.press("ArrowRight")
        seen.append(page.evaluate("document.querySelector('#pictures output').textContent"))
    assert seen == [str(keep) for keep in KEEPS]
    after = page.evaluate(PICTURES)
    # Original and label stay; what is decoded and what is said of it change.
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, False]
    words = page.evaluate("document.querySelector('#pictures .readout').textContent")
    assert "this picture's own" in words
    assert "64 channels" in page.evaluate(
        "document.querySelector('#pictures input').getAttribute('aria-valuetext')"
    )


def test_the_legend_is_walked_and_switched_by_keys(page: Browser) -> None:
    total = page.evaluate(SERIES)
    page.evaluate("document.querySelector('#charts .legend button').focus()")
    page.press("ArrowRight")
    focused = "document.activeElement.getAttribute('aria-pressed')"
    assert page.evaluate("document.activeElement.textContent") == "no gate"
    page.evaluate("document.activeElement.click()")
    assert page.evaluate(focused) == "false"
    assert page.evaluate(SERIES) == total - 1


def test_curves_are_filtered_and_fit_what_is_left(page: Browser) -> None:
    ticks = (
        "[...document.querySelector('#charts svg').querySelectorAll('text.axis')]"
        ".map((t) => t.textContent).join()"
    )
    before = page.evaluate(ticks)
    page.evaluate(
        "(() => { const s = document.querySelector('#charts input[type=search]');"
        " s.value = 'static-16'; s.dispatchEvent(new Event('input')); })()"
    )
    assert page.evaluate(SERIES) == 1
    assert page.evaluate(ticks) != before


def test_points_answer_to_the_pointer_and_to_keys(page: Browser) -> None:
    shown = "!document.querySelector('#charts .tip').hidden"
    assert not page.evaluate(shown)
    place = page.evaluate(
        "(() => { document.querySelector('#charts .chart').scrollIntoView();"
        " const b = document.querySelector('#charts .mark').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    page.hover(*place)
    page.wait(shown)
    assert "bpp, mIoU" in page.evaluate("document.querySelector('#charts .tip').textContent")
    page.evaluate("document.querySelector('#charts svg').focus()")
    page.press("ArrowRight")
    first = page.evaluate("document.querySelector('#charts .tip').textContent")
    page.press("ArrowRight")
    assert page.evaluate("document.querySelector('#charts .tip').textContent") != first


def test_channels_and_confusions_are_read_by_keys(page: Browser) -> None:
    page.evaluate("document.querySelector('#channels .strips').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    words = page.evaluate("document.querySelector('#channels .readout').textContent")
    assert words.startswith("Rank 2: channel 1, kept in 88 % of the images, 1.0 bits a picture")
    page.evaluate("document.querySelector('#confusion td[tabindex=\"0\"]').focus()")
    page.press("ArrowRight")
    words = page.evaluate("document.querySelector('#confusion .readout').textContent")
    assert words == "Of road, 29 % is called building (290 of 1,000 pixels)."


@pytest.mark.parametrize("width", [390, 768])
def test_nothing_leaves_a_phones_width(browser: Browser, file: Path, width: int) -> None:
    browser.open(file, width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    opened = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
    browser.evaluate(opened)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_it_is_dark_where_that_is_wished(browser: Browser, file: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    browser.open(file, 1200)
    assert browser.evaluate(paper) == "rgb(255, 255, 255)"
    browser.open(file, 1200, scheme="dark")
    assert browser.evaluate(paper) == "rgb(20, 22, 26)"
