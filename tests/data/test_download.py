"""A data set is fetched whole, however often it is broken off, or not at all."""

from __future__ import annotations

import dataclasses
import socket
import tarfile

import pytest

from cflow_ad import DataError, SettingsError
from cflow_ad.data import download as module
from cflow_ad.data.download import MVTEC_AD, download
from tests.data.archives import FILES, contents, describe, entry, pack
from tests.data.server import Server

pytestmark = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="Python 3.11.4 is the first to unpack safely"
)

CONTENT = pack(kind="")  # some hundred kilobytes


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sets" / "mvtec"


def names(folder):
    return sorted(path.name for path in folder.parent.iterdir())


def refused(archive, folder, **options):
    with pytest.raises(DataError) as caught:
        download(archive, folder, **options)
    said = str(caught.value)
    assert "\n" not in said
    assert not folder.exists()
    return said


def assert_tells_the_way_by_hand(said):
    assert "get data.tar.xz by hand from https://example.org/page" in said
    assert "--archive" in said
    assert "bottle/train/good lies in the folder" in said


def test_a_data_set_is_fetched_checked_and_unpacked(folder):
    seen = []
    with Server(CONTENT) as server:
        download(describe(CONTENT, server.url), folder, progress=lambda *told: seen.append(told))
    assert contents(folder) == FILES
    assert names(folder) == ["mvtec"]
    assert server.asked == [None]
    stages = dict.fromkeys(stage for stage, _, _ in seen)
    assert list(stages) == ["download", "verify", "unpack"]
    for stage in ("download", "verify"):
        assert [told for told in seen if told[0] == stage][-1] == (
            stage,
            len(CONTENT),
            len(CONTENT),
        )


def test_the_archive_is_kept_if_asked_and_used_the_next_time(folder, tmp_path):
    with Server(CONTENT) as server:
        download(describe(CONTENT, server.url), folder, keep=True)
    assert names(folder) == ["data.tar.xz", "mvtec"]
    other = folder.with_name("other")
    download(describe(CONTENT), other)  # no one listens at that address
    assert contents(other) == FILES
    assert names(folder) == ["data.tar.xz", "mvtec", "other"]


def test_a_broken_connection_is_taken_up_where_it_broke(folder):
    with Server(CONTENT, breaks=[100_000, 150_000, len(CONTENT)]) as server:
        download(describe(CONTENT, server.url), folder)
    assert contents(folder) == FILES
    assert server.asked == [None, "bytes=100000-", "bytes=250000-"]


def test_a_download_that_was_stopped_goes_on_the_next_time(folder):
    def stop(stage, done, total):
        raise KeyboardInterrupt

    with Server(CONTENT, breaks=[100_000, len(CONTENT)]) as server:
        archive = describe(CONTENT, server.url)
        with pytest.raises(KeyboardInterrupt):
            download(archive, folder, progress=stop)
        assert names(folder) == ["data.tar.xz.part"]
        download(archive, folder)
    assert server.asked == [None, "bytes=100000-"]
    assert contents(folder) == FILES


def test_a_download_that_was_stopped_while_unpacking_is_not_fetched_again(folder):
    def stop(stage, done, total):
        if stage == "unpack":
            raise KeyboardInterrupt

    with Server(CONTENT) as server:
        archive = describe(CONTENT, server.url)
        with pytest.raises(KeyboardInterrupt):
            download(archive, folder, progress=stop)
        assert names(folder) == ["data.tar.xz.part"]
        download(archive, folder)
    assert server.asked == [None]
    assert contents(folder) == FILES
    assert names(folder) == ["mvtec"]


def test_a_server_that_knows_no_parts_begins_again(folder):
    with Server(CONTENT, ranges=False, breaks=[100_000, len(CONTENT)]) as server:
        download(describe(CONTENT, server.url), folder)
    assert server.asked == [None, "bytes=100000-"]
    assert contents(folder) == FILES


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_brings_nothing_more_is_given_up(folder, ranges):
    with Server(CONTENT, ranges=ranges, breaks=[100_000, 0]) as server:
        said = refused(describe(CONTENT, server.url), folder)
    assert said.startswith(f"{server.url}: the connection broke")
    assert "the same command goes on from there" in said
    assert len(server.asked) == 2


def test_what_was_fetched_is_kept_when_the_server_goes_away(folder):
    with Server(CONTENT, breaks=[100_000, 0]) as server:
        refused(describe(CONTENT, server.url), folder)
    said = refused(describe(CONTENT, server.url), folder)
    assert "cannot be reached" in said
    assert (folder.parent / "data.tar.xz.part").read_bytes() == CONTENT[:100_000]


def test_another_file_of_the_same_size_is_removed_and_not_unpacked(folder):
    other = CONTENT[:-1] + b"x"
    with Server(other) as server:
        said = refused(describe(CONTENT, server.url), folder)
    assert describe(CONTENT).sha256 in said
    assert describe(other).sha256 in said
    assert_tells_the_way_by_hand(said)
    assert names(folder) == []


@pytest.mark.parametrize("page", [b"<html>Log in</html>", CONTENT * 2])
def test_a_page_in_place_of_the_archive_is_known_by_its_size(folder, page):
    with Server(page) as server:
        said = refused(describe(CONTENT, server.url), folder)
    assert f"offers {len(page)} bytes instead of {len(CONTENT)}" in said
    assert_tells_the_way_by_hand(said)
    assert names(folder) == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_address_that_has_moved_is_said(folder, status):
    with Server(CONTENT, status=status) as server:
        said = refused(describe(CONTENT, server.url), folder)
    assert said.startswith(f"{server.url}: the server answers {status}")
    assert_tells_the_way_by_hand(said)


def test_without_a_network_the_way_by_hand_is_said(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said = refused(describe(CONTENT, f"http://127.0.0.1:{port}/data.tar.xz"), folder)
    assert "cannot be reached (Connection refused)" in said or "cannot be reached" in said
    assert_tells_the_way_by_hand(said)


def test_a_server_that_falls_silent_is_not_waited_for_forever(folder, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        said = refused(describe(CONTENT, f"http://127.0.0.1:{mute.getsockname()[1]}/x"), folder)
    assert "timed out" in said


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x", "x", ""])
def test_only_the_web_is_asked(folder, url):
    with pytest.raises(SettingsError, match="https://"):
        download(describe(CONTENT, url), folder)


@pytest.mark.parametrize("url", ["http://", "http://[", "http://a b/", "http://ä..ö/"])
def test_an_address_that_is_none_is_named(folder, url):
    assert refused(describe(CONTENT, url), folder).startswith(f"{url}: ")


def test_a_part_of_another_file_is_thrown_away(folder):
    part = folder.parent / "data.tar.xz.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT * 2)
    with Server(CONTENT) as server:
        download(describe(CONTENT, server.url), folder)
    assert server.asked == [None]
    assert contents(folder) == FILES


def test_a_part_the_server_cannot_continue_is_thrown_away(folder):
    part = folder.parent / "data.tar.xz.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1000)
    with Server(CONTENT[:1000]) as server:
        assert "416" in refused(describe(CONTENT, server.url), folder)
    assert names(folder) == []


# An archive that was fetched by hand


def test_an_archive_fetched_by_hand_is_used_and_left(folder, tmp_path):
    file = tmp_path / "by hand.tar"
    file.write_bytes(CONTENT)
    download(describe(CONTENT), folder, file=file)
    assert contents(folder) == FILES
    assert file.read_bytes() == CONTENT
    assert names(folder) == ["mvtec"]


def test_another_archive_is_refused_and_left(folder, tmp_path):
    file = tmp_path / "other.tar"
    file.write_bytes(pack({"x": b"1"}))
    said = refused(describe(CONTENT), folder, file=file)
    assert said.startswith(f"{file}: not the archive of A Set")
    assert file.exists()


def test_an_archive_that_is_not_there_is_named(folder, tmp_path):
    assert refused(describe(CONTENT), folder, file=tmp_path / "x").startswith(f"{tmp_path / 'x'}: ")


def test_an_evil_archive_is_refused_though_its_checksum_is_right(folder):
    evil = pack(FILES, entry("../evil"))
    with Server(evil) as server:
        said = refused(describe(evil, server.url), folder)
    assert "'../evil'" in said
    assert names(folder) == ["data.tar.xz.part"]


# The folder and the disk


def test_a_folder_that_is_not_empty_is_left_alone(folder):
    folder.mkdir(parents=True)
    (folder / "mine").write_text("precious")
    for place in (folder, folder / "mine"):
        with pytest.raises(DataError, match="name a new folder"):
            download(describe(CONTENT), place)
    assert contents(folder) == {"mine": b"precious"}


def test_an_empty_folder_is_filled(folder):
    folder.mkdir(parents=True)
    with Server(CONTENT) as server:
        download(describe(CONTENT, server.url), folder)
    assert contents(folder) == FILES


def test_the_folder_one_is_in_is_not_taken_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="you are in that folder"):
        download(describe(CONTENT), tmp_path)


def test_a_disk_that_is_too_small_is_known_before_anything_is_fetched(folder):
    large = dataclasses.replace(describe(CONTENT), unpacked=10**18)
    said = refused(large, folder)
    assert "1000000000.0 GB" in said
    assert "are free" in said
    assert not folder.parent.exists()


def test_the_room_that_is_needed_is_less_by_what_is_there(folder, monkeypatch):
    needed = len(CONTENT) + describe(CONTENT).unpacked
    part = folder.parent / "data.tar.xz.part"
    part.parent.mkdir()

    def free(amount):
        usage = type("Usage", (), {"free": amount})
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)

    with Server(CONTENT) as server:
        archive = describe(CONTENT, server.url)
        free(needed - 1)
        assert "make room" in refused(archive, folder)
        part.write_bytes(CONTENT[:1])
        download(archive, folder)
    assert contents(folder) == FILES


def test_the_published_archive_is_described_in_full():
    assert len(bytes.fromhex(MVTEC_AD.sha256)) == 32
    assert MVTEC_AD.sha256 == MVTEC_AD.sha256.lower()
    assert MVTEC_AD.url.startswith("https://")
    assert MVTEC_AD.url.endswith(MVTEC_AD.filename)
    for word in ("CC BY-NC-SA 4.0", "commercial", "MVTec Software GmbH", "Bergmann", "citation"):
        assert word in MVTEC_AD.terms
