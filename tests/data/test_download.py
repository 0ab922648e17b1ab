"""Laws of a download: a data set is there whole or not at all, and only in its folder."""

from __future__ import annotations

import dataclasses
import random
import socket
import stat
import tarfile

import pytest

from cflow_ad import DataError, SettingsError
from cflow_ad.data import download as module
from cflow_ad.data.download import MVTEC_AD, download, unpack
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


def test_a_download_resumes_where_its_connection_broke(folder):
    with Server(CONTENT, breaks=[100_000, 150_000, len(CONTENT)]) as server:
        archive = describe(CONTENT, server.url)
        for _ in range(2):
            said = refused(archive, folder)
            assert said.startswith(f"{server.url}: the connection broke (it was closed too early)")
            assert "the same command resumes there" in said
        download(archive, folder)
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
        refused(describe(CONTENT, server.url), folder)
        download(describe(CONTENT, server.url), folder)
    assert server.asked == [None, "bytes=100000-"]
    assert contents(folder) == FILES


def test_what_was_fetched_is_kept_when_the_server_goes_away(folder):
    with Server(CONTENT, breaks=[100_000]) as server:
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


@pytest.mark.parametrize("status", [404, 500])
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
    assert said.startswith(f"{file}: this is not the archive of A Set")
    assert file.exists()


def test_an_archive_that_is_not_there_is_named(folder, tmp_path):
    assert refused(describe(CONTENT), folder, file=tmp_path / "x").startswith(f"{tmp_path / 'x'}: ")


# The folder and the disk


def test_a_folder_that_is_not_empty_is_left_alone(folder):
    folder.mkdir(parents=True)
    (folder / "mine").write_text("precious")
    for place in (folder, folder / "mine"):
        with pytest.raises(DataError, match="does not exist yet"):
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


# Unpacking


@pytest.fixture
def archive(tmp_path):
    def write(content):
        path = tmp_path / "in" / "a.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_every_file_is_unpacked_with_its_content(archive, tmp_path, kind):
    seen = []
    file = archive(pack(kind=kind))
    unpack(file, tmp_path / "deep" / "out", lambda done, total: seen.append((done, total)))
    assert contents(tmp_path / "deep" / "out") == FILES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(0 < done <= total == file.stat().st_size for done, total in seen)


def test_what_a_killed_run_left_is_replaced_and_a_full_folder_is_kept(archive, tmp_path):
    (tmp_path / "out.unpacking" / "bottle").mkdir(parents=True)
    (tmp_path / "out.unpacking" / "old").write_text("")
    unpack(archive(pack()), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert not (tmp_path / "out.unpacking").exists()
    with pytest.raises(OSError, match="out"):
        unpack(archive(pack({"other": b""})), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_rights_in_the_archive_neither_lock_out_nor_let_run(archive, tmp_path):
    # As in the archive of MVTec AD: folders that may not be written to.
    members = [entry("bottle", tarfile.DIRTYPE, mode=0o555), entry("bottle/run", mode=0o6777)]
    unpack(archive(pack({}, *members)), tmp_path / "out")
    assert (tmp_path / "out" / "bottle").stat().st_mode & stat.S_IWUSR
    mode = (tmp_path / "out" / "bottle" / "run").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)


@pytest.mark.parametrize(
    "evil",
    [
        entry("../evil"),
        entry("bottle/../../evil"),
        entry("evil", tarfile.SYMTYPE, "/etc/passwd"),
        entry("evil", tarfile.SYMTYPE, "../.."),
        entry("evil", tarfile.LNKTYPE, "../in/a.tar"),
        entry("evil", tarfile.CHRTYPE),
        entry("evil", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name} {member.type.decode()} {member.linkname}",
)
def test_what_would_get_out_is_refused_and_nothing_is_left(archive, tmp_path, evil):
    file = archive(pack(FILES, evil))
    with pytest.raises(DataError, match="cannot be unpacked safely") as caught:
        unpack(file, tmp_path / "sub" / "out")
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "sub").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "sub"]


def test_an_absolute_path_is_not_written_to(archive, tmp_path):
    target = tmp_path / "evil.txt"
    unpack(archive(pack({target.as_posix(): b"evil"})), tmp_path / "out")
    assert not target.exists()


@pytest.mark.parametrize("damage", ["half", "flipped", "empty", "text"])
def test_a_damaged_archive_is_said_in_one_line_and_nothing_is_left(archive, tmp_path, damage):
    whole = pack({"a": random.Random(0).randbytes(100_000)})
    middle = len(whole) // 2
    content = {
        "half": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
        "empty": b"",
        "text": b"no archive",
    }
    file = archive(content[damage])
    with pytest.raises(DataError) as caught:
        unpack(file, tmp_path / "out")
    assert str(caught.value).startswith(f"{file}: the archive is damaged")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out*"))


def test_an_interruption_leaves_nothing_unpacked(archive, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive(pack()), tmp_path / "out", stop)
    assert not list(tmp_path.glob("out*"))
