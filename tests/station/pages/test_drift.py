"""Drift and settings in the browser; log-in; languages; looks."""

from __future__ import annotations

import httpx
import numpy as np

from cflow_ad.station.refusal import say
from cflow_ad.station.sources.cameras import CameraError
from tests.station.pages.conftest import (
    PASSWORD,
    damage,
    wait_for_part,
    wait_for_text,
    wait_until_ready,
)


def test_drift_is_told_with_pictures_and_begins_anew_with_a_reason(site, open_view, images):
    rng = np.random.default_rng(1)
    page = open_view("/drift")
    wait_for_text(page, "#summary", "Nothing has moved.")
    assert page.locator("#measures tr").count() == 7
    for n in range(40):
        darker = images[n % 12] * 0.6 + rng.normal(0, 2, (1, 1, 3))
        site.inspect(np.clip(darker, 0, 255).astype(np.uint8))
    wait_for_text(page, "#banner", "Brightness fell.")
    page.reload()
    alarm = page.locator(".alarm").filter(has_text="Brightness fell.")
    alarm.wait_for()
    assert "Check the lamp" in alarm.inner_text()
    sizes = alarm.locator("img").evaluate_all(
        "all => Promise.all(all.map(async (image) => (await image.decode(), image.naturalWidth)))"
    )
    assert sizes == [96, 96]
    first = alarm.locator("a").get_attribute("href").removeprefix("/history?id=")
    row = site.station.records.get(first)
    assert 36 <= row["seq"] <= 46  # the first darker part is the 41st
    page.locator(".banner button").first.click()
    page.fill("#reason", "a new lamp")
    page.click("#restart button")
    wait_for_text(page, "#restarts", "a new lamp")
    wait_for_text(page, "#parts", "0 parts compared")


def test_one_logs_in_and_lands_where_one_wanted_to_be(site, open_view):
    page = open_view("/threshold?x=1", user="")
    page.expect_refusal("/v1/session")
    page.fill("#user", "eve")
    page.fill("#password", "wrong password")
    page.keyboard.press("Enter")
    page.wait_for_selector("#wrong:not(:empty)")
    page.fill("#password", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/threshold?x=1")
    wait_until_ready(page)
    page.expect_refusal("/v1/")  # what the page still asks when the session has ended
    page.click("#log-out")
    page.wait_for_url("**/login")


def test_log_in_leads_to_no_other_host(site, open_view):
    page = open_view("/login?next=//example.com/", user="")
    page.fill("#user", "eve")
    page.fill("#password", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{site.url}/inspect")


def test_who_is_not_logged_in_sees_nothing(site):
    with httpx.Client(base_url=site.url, timeout=60) as nobody:
        for view in ("inspect", "threshold", "review", "history", "train", "drift", "settings"):
            answer = nobody.get(f"/{view}")
            assert (answer.status_code, answer.headers["location"]) == (
                307,
                f"/login?next=%2F{view}",
            )
        assert nobody.get("/v1/drift?model=carpet").status_code == 401


def test_an_operator_may_neither_train_nor_begin_drift_anew(site, open_view):
    page = open_view("/train", "otto")
    assert page.url.endswith("/inspect")
    assert page.locator('nav a[href="/train"]').count() == 0
    refused = page.request.post("/v1/drift/restart", data={"model": "carpet", "reason": "because"})
    assert refused.status == 403


def test_an_admin_adds_and_removes_users_and_keys(site, open_view):
    page = open_view("/settings", "ada")
    page.on("dialog", lambda dialog: dialog.accept())
    page.fill("#user-name", "ulf")
    page.fill("#user-password", PASSWORD)
    page.click("#add-user button")
    wait_for_text(page, "#users", "ulf")
    page.get_by_role("button", name="Remove the user ulf").click()
    page.locator("#users tr").filter(has_text="ulf").wait_for(state="detached")
    page.fill("#key-name", "press 4")
    page.click("#add-key button")
    page.wait_for_selector("#new-key:not([hidden])")
    key = page.inner_text("#new-key code")
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=site.url, headers=headers, timeout=60) as machine:
        assert machine.get("/v1/models").status_code == 200
        page.get_by_role("button", name="Remove the key press 4").click()
        page.locator("#keys tr").filter(has_text="press 4").wait_for(state="detached")
        assert machine.get("/v1/models").status_code == 401


def test_german_is_chosen_by_the_browser_or_in_settings(open_view):
    page = open_view("/inspect", locale="de-DE")
    wait_for_part(page)
    assert page.inner_text("#verdict") in ("gut", "auffällig")
    assert page.get_attribute("html", "lang") == "de"
    other = open_view("/settings")
    with other.expect_navigation():
        other.select_option("#language", "de")
    assert other.inner_text("h2 >> nth=0") == "Dieser Browser"


def test_what_the_station_refuses_is_told_in_german(site, open_view):
    page = open_view("/login", user="", locale="de-DE")
    page.expect_refusal("/v1/session")
    page.fill("#user", "eve")
    page.fill("#password", "wrong password")
    page.keyboard.press("Enter")
    wait_for_text(page, "#wrong", "Benutzername oder Passwort ist falsch.")
    page = open_view("/settings", "ada", locale="de-DE")
    page.expect_refusal("/v1/")
    page.fill("#old", "wrong password")
    page.fill("#new", "another password")
    page.click("#change-password button")
    wait_for_text(page, ".notice.wrong", "Das bisherige Passwort ist falsch.")
    page.fill("#user-password", PASSWORD)
    for name, told in (
        ("eve", "Einen Benutzer eve gibt es schon."),
        ("a/b", "Die Angabe „Name“ ist nicht zulässig."),
    ):
        page.fill("#user-name", name)
        page.click("#add-user button")
        wait_for_text(page, ".notice.wrong", told)


def test_what_happens_at_the_station_is_told_in_german(site, open_view, images, tmp_path):
    no_picture = CameraError("top: no picture", code="camera.no_picture", camera="oben")
    site.station.add_event("camera", say(no_picture), "carpet")
    site.station.set_rule("carpet", {"anomalous": 1, "of": 2})
    site.inspect(damage(images[0]))
    page = open_view("/inspect", locale="de-DE")
    wait_for_text(page, ".banner", "oben: kein Bild. Ist die Kamera angeschlossen?")
    wait_for_text(page, ".banner.stop", "1 der letzten 2 auffällig")
    page.expect_refusal("/inspect")
    path = tmp_path / "leer.png"
    path.write_bytes(b"")
    page.set_input_files("#files", path)
    wait_for_text(page, ".notice.wrong", "leer.png: Die Datei ist leer")
    page.goto("/threshold")
    wait_for_text(page, "#changes", "wie kalibriert")


def test_keys_change_the_view_and_are_listed(open_view):
    page = open_view("/inspect")
    wait_for_part(page)
    page.keyboard.press("?")
    assert page.locator("#help dd").count() > 8
    page.keyboard.press("Escape")
    page.keyboard.press("3")
    page.wait_for_url("**/history")


def test_text_from_outside_is_never_read_as_html(site, open_view, images):
    site.inspect(damage(images[0]), source="<img src=x onerror=alert(1)>")
    page = open_view("/history")
    page.wait_for_selector("#parts tr")
    assert "<img src=x" in page.inner_text("#parts tr:first-child")
