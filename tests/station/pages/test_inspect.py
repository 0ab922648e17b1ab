"""Inspect, in a real browser: pictures in, verdict in colour and words and odds."""

from __future__ import annotations

import re

from cflow_ad.station.records import Filter
from tests.station.pages.conftest import damage, wait_for_part, wait_for_text


def newest_odds(site):
    """As the page should say them."""
    (newest, *_), _ = site.station.records.page(Filter(), limit=1)
    calibration = site.station.registry.active("carpet").calibration
    count, of = sum(score >= newest["score"] for score in calibration.scores), calibration.n_images
    number = "None" if count == 0 else count
    return f"{number} of {of} good parts looked this odd: p = {count + 1}/{of + 1}"


def outcome(page):
    return page.locator("#outcome")


def set_rule(page, anomalous, of):
    page.click("#set-rule")
    page.check("#rule-on")
    page.fill("#rule-anomalous", str(anomalous))
    page.fill("#rule-of", str(of))
    page.click("#rule-dialog button.primary")


def test_a_picked_picture_has_a_verdict_odds_and_regions(site, open_view):
    page = open_view("/inspect")
    wait_for_part(page)
    page.set_input_files("#files", site.folder / "bad" / "3.png")
    wait_for_text(page, "#facts", "3.png")
    assert outcome(page).get_attribute("data-verdict") == "bad"
    assert page.inner_text("#verdict") == "anomalous"
    assert page.inner_text("#odds") == newest_odds(site)
    assert re.search(r"\d+ ms", page.inner_text("#facts"))
    assert page.locator("#regions button").count() >= 1
    page.locator("#regions button").first.click()
    page.wait_for_selector('#regions li:first-child button[aria-pressed="true"]')
    page.set_input_files("#files", site.folder / "good" / "3.png")
    wait_for_text(page, "#verdict", "good")
    assert outcome(page).get_attribute("data-verdict") == "good"
    assert page.inner_text("#odds") == newest_odds(site)


def test_heat_map_contours_and_colours_are_drawn(site, open_view):
    page = open_view("/inspect")
    wait_for_part(page)
    page.set_input_files("#files", site.folder / "bad" / "1.png")
    wait_for_text(page, "#facts", "1.png")
    wait_for_part(page)
    drawn = """() => {
        const canvas = document.querySelector('.lines');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((value, index) => index % 4 === 3 && value > 0).length;
    }"""
    page.keyboard.press("r")  # only contours are left, which come after the picture
    contours = page.wait_for_function(drawn).json_value()
    page.keyboard.press("r")
    assert page.evaluate(drawn) > contours
    page.keyboard.press("r")
    page.keyboard.press("c")
    assert page.evaluate(drawn) == 0
    heat = page.locator(".heat")
    assert float(heat.evaluate("heat => getComputedStyle(heat).opacity")) == 0.45
    page.locator("#viewer-opacity").fill("80")
    assert float(heat.evaluate("heat => getComputedStyle(heat).opacity")) == 0.8
    page.keyboard.press("h")
    assert float(heat.evaluate("heat => getComputedStyle(heat).opacity")) == 0
    limit = site.station.registry.active("carpet").map_threshold
    ticks = page.locator(".ticks span").all_inner_texts()
    assert ticks == ["0.0", f"{limit:.1f} threshold", f"{2 * limit:.1f}"]
    width = page.locator(".stage").bounding_box()["width"]
    page.keyboard.press("+")
    assert page.locator(".stage").bounding_box()["width"] > 1.4 * width


def test_dropped_and_pasted_pictures_are_inspected_and_other_files_refused(site, open_view):
    page = open_view("/inspect")
    wait_for_part(page)
    give = """([kind, name, type, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, { type }));
        const event = kind === 'drop'
            ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent('paste', { clipboardData: data, bubbles: true });
        document.body.dispatchEvent(event);
    }"""
    picture = list((site.folder / "bad" / "2.png").read_bytes())
    for kind in ("drop", "paste"):
        page.evaluate(give, [kind, f"{kind}ped.png", "image/png", picture])
        wait_for_text(page, "#facts", f"{kind}ped.png")
    page.evaluate(give, ["drop", "notes.txt", "text/plain", [65]])
    assert "not a picture" in page.inner_text(".notice.wrong")


def test_a_broken_picture_is_named_and_the_page_goes_on(site, open_view, tmp_path):
    page = open_view("/inspect")
    wait_for_part(page)
    page.expect_refusal("/inspect?")
    broken = tmp_path / "broken.png"
    broken.write_bytes((site.folder / "good" / "1.png").read_bytes()[:300])
    page.set_input_files("#files", [broken, site.folder / "good" / "5.png"])
    wait_for_text(page, "#facts", "5.png")
    assert page.inner_text(".notice.wrong").startswith("broken.png: ")


def test_the_camera_of_the_device_takes_a_picture(open_view):
    page = open_view("/inspect")
    wait_for_part(page)
    page.click("#own-camera")
    page.wait_for_selector("#camera-dialog[open]")
    page.keyboard.press("Space")
    wait_for_text(page, "#facts", "photo.png")
    assert not page.locator("#camera-dialog").is_visible()


def test_the_newest_part_of_the_line_is_shown_while_one_follows(site, open_view, images):
    page = open_view("/inspect")
    wait_for_part(page)
    part = site.inspect(damage(images[0]), source="line 7")
    wait_for_text(page, "#facts", "line 7")
    assert page.locator("#strip li").first.get_attribute("data-id") == part["id"]
    page.locator("#strip li button").nth(3).click()  # to look at an older one
    assert not page.is_checked("#follow")
    page.wait_for_selector('#strip li:nth-child(4) button[aria-current="true"]')
    older = page.inner_text("#facts")
    newer = site.inspect(images[1], source="line 8")
    page.wait_for_selector(f'#strip li:first-child[data-id="{newer["id"]}"]')
    assert page.inner_text("#facts") == older
    page.keyboard.press("f")
    wait_for_text(page, "#facts", "line 8")


def test_the_rule_warns(site, open_view, images):
    page = open_view("/inspect")
    wait_for_part(page)
    set_rule(page, 3, 4)
    wait_for_text(page, "#rule", "3 of the last 4")
    for _ in range(4):
        site.inspect(damage(images[2]))
    wait_for_text(page, "#rule.broken", "4 of the last 4 anomalous")
    page.wait_for_selector(".banner.stop")
    page.locator(".banner.stop button").click()
    page.wait_for_selector(".banner.stop", state="detached")


def test_a_part_is_marked_with_a_key_and_taken_back(site, open_view):
    page = open_view("/inspect")
    wait_for_part(page)
    page.keyboard.press("d")
    wait_for_text(page, "#mark", "defective eve")
    page.locator(".notice button").first.click()
    page.wait_for_selector("#mark:empty", state="attached")


def test_a_lost_link_is_told_and_what_was_missed_is_loaded(site, open_view, images):
    page = open_view("/inspect")
    wait_for_part(page)
    page.expect_refusal("/")
    page.context.set_offline(True)
    page.wait_for_selector('#link-state[data-state="lost"]')
    assert "not up to date" in page.inner_text("#banner")
    missed = site.inspect(images[4])
    page.context.set_offline(False)
    page.wait_for_selector('#link-state[data-state="live"]')
    page.wait_for_selector(f'#strip li[data-id="{missed["id"]}"]')


def test_what_is_done_on_another_page_shows(site, open_view):
    page, other = open_view("/inspect"), open_view("/inspect", "ada")
    for each in (page, other):
        wait_for_part(each)
    site.station.add_event("camera", {"text": "the lens is dirty"}, "carpet")
    banners = [each.locator(".banner").filter(has_text="lens") for each in (page, other)]
    for banner in banners:
        banner.wait_for()
    banners[1].get_by_role("button").click()
    banners[0].wait_for(state="detached")
    set_rule(other, 30, 35)
    wait_for_text(page, "#rule", "limit: 30 of the last 35")


def test_an_event_that_repeats_hides_no_other_and_is_acknowledged_once(site, open_view):
    for text in ("full disk", "unplugged", "unplugged", "unplugged"):
        site.station.add_event("camera", {"text": text}, "carpet")
    page = open_view("/inspect")
    page.locator(".banner").filter(has_text="full disk").wait_for()
    assert page.locator(".banner").filter(has_text="unplugged").count() == 1
    for text in ("unplugged", "full disk"):
        banner = page.locator(".banner").filter(has_text=text)
        banner.get_by_role("button").click()
        banner.wait_for(state="detached")
    listed = page.request.get("/v1/events?limit=20").json()["items"]
    of_camera = [event["acknowledged"] for event in listed if event["kind"] == "camera"]
    assert len(of_camera) >= 4
    assert all(of_camera)
    page.reload()
    wait_for_part(page)
    for text in ("unplugged", "full disk"):  # other events may have come meanwhile
        assert page.locator(".banner").filter(has_text=text).count() == 0
