"""Threshold: the handle over recorded scores, what flips, and a change with its reason."""

from __future__ import annotations

from cflow_ad.station.describing import describe_model
from cflow_ad.station.records import Filter
from tests.station.pages.conftest import wait_for_part, wait_for_text


def value_of(page):
    return float(page.locator("[role=slider]").get_attribute("aria-valuenow"))


def test_the_handle_shows_what_would_flip(site, open_view):
    page = open_view("/threshold")
    handle = page.locator("[role=slider]")
    handle.wait_for()
    current = site.station.registry.active("carpet").threshold
    wait_for_text(page, "#flips-count", "No verdict of the last 40 parts changes.")
    assert page.is_disabled("#apply button")
    box = page.locator("svg.histogram").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert value_of(page) < 0.1 * current
    rows, _ = site.station.records.page(Filter(), limit=40)
    good = sorted(row["score"] for row in rows if not row["is_anomalous"])
    page.fill("#value", str(good[len(good) // 2]))
    page.locator("#value").blur()
    flips = sum(score > value_of(page) for score in good)
    assert 5 < flips < 25
    wait_for_text(page, "#flips-count", f"{flips} of the last 40 parts would flip")
    page.wait_for_selector("#flips .thumb")
    assert f"{flips} become anomalous" in page.inner_text("#flips-count")
    handle.press("Home")
    assert value_of(page) == current
    handle.press("ArrowRight")
    assert value_of(page) > current
    assert handle.get_attribute("aria-valuetext")


def test_rates_have_exact_intervals_of_audited_parts(site, open_view):
    ids = [row["id"] for row in site.station.records.page(Filter(audit=True), limit=200)[0]]
    batch, _ = site.station.marks.add(ids, "good", "test", blind=True)
    page = open_view("/threshold")
    wait_for_text(page, "#effect", f"of {len(ids)}")
    assert "False alarms (audit)" in page.inner_text("#effect")
    assert f"{len(ids)} audited parts." in page.inner_text("#audit-note")
    site.station.marks.undo(batch, "test")


def test_a_change_needs_a_reason_and_is_recorded_with_its_author(site, open_view):
    before = site.station.registry.active("carpet").threshold
    page = open_view("/threshold")
    page.locator("[role=slider]").wait_for()
    page.fill("#value", str(round(before * 1.05, 3)))
    page.locator("#value").blur()
    page.wait_for_selector("#apply button:enabled")
    page.click("#apply button")
    assert site.station.registry.active("carpet").threshold == before  # the reason is missing
    page.fill("#reason", "glossy batch 7")
    page.click("#apply button")
    wait_for_text(page, "#changes tr:first-child", "glossy batch 7")
    assert "eve" in page.inner_text("#changes tr:first-child")
    assert site.station.registry.active("carpet").threshold == round(before * 1.05, 3)
    site.station.registry.set_threshold("carpet", before, "test", "as it was")


def test_another_version_that_is_put_to_use_shows(site, open_view):
    registry = site.station.registry
    before = registry.active("carpet").threshold
    page = open_view("/threshold")
    page.locator("[role=slider]").wait_for()
    registry.set_threshold("carpet", before * 1.25, "test", "as of another version")
    site.station.broadcast.send("model", describe_model(site.station, "carpet"))
    wait_for_text(page, "#changes tr:first-child", "as of another version")
    assert abs(value_of(page) - before * 1.25) < 1e-9
    registry.set_threshold("carpet", before, "test", "as it was")


def test_an_operator_sees_but_does_not_change(open_view):
    page = open_view("/threshold", "otto")
    page.locator("[role=slider]").wait_for()
    assert page.locator("#apply").count() == 0


def test_history_filters_pages_and_opens(site, open_view):
    page = open_view("/history")
    page.wait_for_selector("#parts tr")
    page.select_option("#verdict", "anomalous")
    wait_for_text(page, "#count", "8 parts")
    assert page.locator("#parts .verdict.good").count() == 0
    page.locator("#parts button").first.click()
    wait_for_part(page)
    assert "anomalous" in page.inner_text("#detail-title")
    page.wait_for_selector("#similar .flip")
    first = page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: url != first)
    wait_for_part(page)
    page.locator("#similar .flip").first.wait_for()
    again = open_view(page.url.removeprefix(site.url))  # the address opens the same part
    wait_for_part(again)
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail", state="hidden")
    page.click("#filters button[type=reset]")
    wait_for_text(page, "#count", "40 parts")


def test_history_by_time_and_mark(site, open_view):
    page = open_view("/history")
    page.wait_for_selector("#parts tr")
    page.fill("#since", "2999-01-01T00:00")
    page.wait_for_selector("#empty:not([hidden])")
    page.fill("#since", "")
    page.wait_for_selector("#parts tr")
    page.select_option("#mark", "defect")
    page.wait_for_selector("#empty:not([hidden])")
