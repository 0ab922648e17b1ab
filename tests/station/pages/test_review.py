"""Review: a queue that is worked off with keys, blind where a part is of the random draw."""

from __future__ import annotations

from cflow_ad.station.records import Filter
from cflow_ad.station.review import list_queue
from tests.station.pages.conftest import wait_for_part, wait_for_text


def cards(page):
    return page.locator("#queue .card")


def open_queue(page, kind):
    page.click(f'[data-kind="{kind}"]')
    page.wait_for_selector(f'[data-kind="{kind}"][aria-selected="true"]')
    page.wait_for_selector('#queue[aria-busy="false"]', state="attached")


def test_keys_mark_one_part_after_the_other_and_undo_takes_back(site, open_view):
    page = open_view("/review", "otto")
    open_queue(page, "anomalous")
    wait_for_part(page)
    first, second = (cards(page).nth(n).get_attribute("data-id") for n in (0, 1))
    page.keyboard.press("d")
    page.wait_for_selector(f'#queue .card:first-child[data-id="{second}"]')
    assert site.station.records.get(first)["mark"]["label"] == "defect"
    assert site.station.records.get(first)["mark"]["author"] == "otto"
    wait_for_text(page, "#log tr:first-child", "otto")
    assert "defective" in page.inner_text("#log tr:first-child")
    page.keyboard.press("u")
    page.wait_for_selector(f'#queue .card[data-id="{first}"]')
    assert site.station.records.get(first)["mark"] is None


def test_several_are_marked_at_once(site, open_view):
    page = open_view("/review")
    open_queue(page, "anomalous")
    wait_for_part(page)
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    assert page.inner_text("#chosen") == "2 chosen"
    ids = [cards(page).nth(n).get_attribute("data-id") for n in (0, 2)]
    page.keyboard.press("d")
    page.wait_for_selector(f'#queue .card[data-id="{ids[0]}"]', state="detached")
    assert all(site.station.records.get(each)["mark"]["label"] == "defect" for each in ids)
    wait_for_text(page, ".notice", "2 parts marked defective.")
    page.keyboard.press("u")
    page.wait_for_selector(f'#queue .card[data-id="{ids[0]}"]')


def test_an_audit_part_shows_no_verdict_until_it_is_marked(site, open_view):
    page = open_view("/review")
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    open_queue(page, "audit")
    page.wait_for_selector("#audit-hint:not([hidden])")
    wait_for_part(page)
    part = cards(page).first.get_attribute("data-id")
    for shown in (page.inner_text("#queue"), page.inner_text("#about")):
        assert "good" not in shown
        assert "anomalous" not in shown
    asked = [url for url in requests if part in url]
    assert all(url.endswith(("/picture", "/thumbnail")) for url in asked)
    assert page.locator(".heat").get_attribute("src") is None
    page.keyboard.press("g")
    page.wait_for_selector(f'#queue .card[data-id="{part}"]', state="detached")
    marks, _ = site.station.marks.page(number=part)
    assert [(mark["label"], mark["audit"]) for mark in marks] == [("good", True)]


def test_a_mark_with_the_verdict_in_view_is_no_audit(site, open_view):
    rows, _ = site.station.records.page(Filter(audit=True, mark="none"), limit=200)
    part = rows[-1]["id"]
    page = open_view(f"/history?id={part}")
    wait_for_part(page)
    page.keyboard.press("g")
    wait_for_text(page, "#marks", "eve")
    marks, _ = site.station.marks.page(number=part)
    assert [mark["audit"] for mark in marks] == [False]


def test_what_one_sees_on_the_line_one_does_not_audit(site, open_view, images):
    page = open_view("/inspect", "otto")
    wait_for_part(page)
    page.uncheck("#follow")  # so that the strip alone shows it
    while not (part := site.inspect(images[0]))["audit"]:
        pass
    page.wait_for_selector(f'#strip li[data-id="{part["id"]}"]')
    site.station.database.write(lambda connection: None)  # what was shown is noted a moment later

    def audit(user):
        found = list_queue(site.station, user, "audit", model=None, limit=1, before=None)
        return [item["id"] for item in found["items"]]

    assert part["id"] not in audit("otto")
    assert [part["id"]] == audit("eve")


def test_an_empty_queue_says_so(site, open_view):
    page = open_view("/review")
    open_queue(page, "near")
    page.wait_for_selector("#empty:not([hidden])")
    page.keyboard.press("g")  # nothing to mark, nothing happens
    assert page.locator(".notice").count() == 0
