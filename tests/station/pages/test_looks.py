"""Contrast, labels, focus and layout of every view, in light and dark, on all sizes of screen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cflow_ad.station import pages
from cflow_ad.station.pages.routes import VIEWS
from tests.station.pages.conftest import wait_for_part

STATIC = Path(pages.__file__).parent / "static"

PROBES = Path(__file__).with_name("probes.js").read_text(encoding="utf-8")


def probe(page, name):
    return page.evaluate(f"() => {{ {PROBES}; return {name}(); }}")


LOADED = {
    "inspect": '.viewer[data-state="shown"]',
    "threshold": "#flips-count:not(:empty)",
    "review": '.viewer[data-state="shown"]',
    "history": "#parts tr",
    "train": "#versions li",
    "drift": "#measures tr",
    "settings": "#keys tr",
}
"""What each view shows once its values have come."""


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_readable_and_named_and_fits_its_screen(open_view, view):
    """In light and dark, on a telephone, a tablet and a desk."""
    page = open_view(f"/{view}", "ada", locale="de-DE")
    page.wait_for_selector(LOADED[view])
    assert probe(page, "nameless") == []
    for width in (390, 820, 1440):
        page.set_viewport_size({"width": width, "height": 1000})
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        assert probe(page, "tooWide") == [], width
        assert probe(page, "smallTargets") == [], width
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert probe(page, "lowContrast") == [], (width, scheme)


def assert_the_verdict_fits(page):
    word, panel = (page.locator(each).bounding_box() for each in ("#verdict", "#outcome"))
    assert word["x"] + word["width"] <= panel["x"] + panel["width"] - 10


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1280, 800), (768, 1024)])
def test_the_kiosk_shows_part_and_verdict_on_one_screen(site, open_view, width, height):
    """Also while something is to be acknowledged."""
    page = open_view("/inspect?kiosk", viewport={"width": width, "height": height})
    wait_for_part(page)
    site.station.add_event("camera", {"text": "The camera was unplugged."}, "carpet")
    page.locator(".banner").first.wait_for()
    assert not page.locator("nav").is_visible()
    boxes = {
        part: page.locator(part).bounding_box()
        for part in ("#outcome", "#verdict", "#odds", "#viewer .frame", "#strip")
    }
    for part, box in boxes.items():
        assert min(box["x"], box["y"]) >= 0, part
        assert box["x"] + box["width"] <= width, part
        assert box["y"] + box["height"] <= height, part
    assert boxes["#viewer .frame"]["height"] > height / 4
    outcome, frame = boxes["#outcome"], boxes["#viewer .frame"]
    assert (
        outcome["x"] >= frame["x"] + frame["width"]
        or outcome["y"] + outcome["height"] <= frame["y"]
    )
    assert_the_verdict_fits(page)
    word = page.locator("#verdict")
    assert word.evaluate("word => parseFloat(getComputedStyle(word).fontSize)") >= width / 32
    page.locator(".banner button").first.click()
    page.locator(".banner").wait_for(state="detached")


def test_the_strip_is_in_sight_on_a_desk(open_view):
    page = open_view("/inspect")
    wait_for_part(page)
    box = page.locator("#strip").bounding_box()
    assert box["y"] + box["height"] <= 900
    assert_the_verdict_fits(page)


def test_the_keyboard_reaches_the_content_and_shows_where_it_is(open_view):
    page = open_view("/review")
    wait_for_part(page)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    inside = page.evaluate("() => document.activeElement.closest('main') !== null")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert (inside, outline) == (True, "solid")


def test_verdicts_differ_by_more_than_colour(open_view):
    page = open_view("/history")
    page.wait_for_selector("#parts .verdict")
    sign = "(all) => [...new Set(all.map((each) => getComputedStyle(each, '::before').content))]"
    good = page.locator("#parts .verdict.good").evaluate_all(sign)
    bad = page.locator("#parts .verdict.bad").evaluate_all(sign)
    assert len(good) == len(bad) == 1
    assert good != bad


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_of_both_themes_have_contrast():
    """Without a browser: text on every ground it stands on, and the edges of controls."""
    css = (STATIC / "tokens.css").read_text(encoding="utf-8")
    blocks = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part)) for part in css.split("{")[1:]]
    themes = [block for block in blocks if "ink" in block]
    assert len(themes) == 3
    assert themes[1] == themes[2]  # dark by choice and by the system
    for theme in themes:
        grounds = [theme[name] for name in ("ground", "panel", "raised", "field")]
        for text in ("ink", "soft", "accent", "good", "bad"):
            assert min(contrast(theme[text], ground) for ground in grounds) >= 4.5, text
        for text, ground in (
            ("accent", "accent-ground"),
            ("good", "good-ground"),
            ("bad", "bad-ground"),
            ("warn", "warn-ground"),
            ("ink", "bad-ground"),
            ("accent-ink", "accent"),
            ("solid-ink", "bad-solid"),
        ):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        for name in ("edge", "good-solid", "bad-solid", "accent"):
            assert contrast(theme[name], theme["panel"]) >= 3, name
