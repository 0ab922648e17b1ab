"""An archive is unpacked whole or not at all, and nowhere but in its folder."""

from __future__ import annotations

import random
import stat
import tarfile

import pytest

from cflow_ad import DataError
from cflow_ad.data.unpack import unpack
from tests.data.archives import FILES, contents, entry, pack

pytestmark = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="Python 3.11.4 is the first to unpack safely"
)


@pytest.fixture
def archive(tmp_path):
    def write(content):
        path = tmp_path / "in" / "a.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_every_file_is_there_with_its_content(archive, tmp_path, kind):
    seen = []
    file = archive(pack(kind=kind))
    unpack(file, tmp_path / "deep" / "out", lambda done, total: seen.append((done, total)))
    assert contents(tmp_path / "deep" / "out") == FILES
    assert len(list((tmp_path / "deep").iterdir())) == 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(0 < done <= total == file.stat().st_size for done, total in seen)


def test_an_empty_folder_may_be_there_and_a_full_one_is_kept(archive, tmp_path):
    (tmp_path / "out").mkdir()
    unpack(archive(pack()), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    with pytest.raises(OSError, match="out"):
        unpack(archive(pack({"other": b""})), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_what_a_killed_run_left_is_replaced(archive, tmp_path):
    (tmp_path / "out.unpacking" / "bottle").mkdir(parents=True)
    (tmp_path / "out.unpacking" / "old").write_text("")
    unpack(archive(pack()), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert not (tmp_path / "out.unpacking").exists()


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
        entry("/evil"),
        entry("\\evil"),
        entry("..\\evil"),
        entry("C:\\evil"),
        entry("C:evil"),
        entry("evil", tarfile.SYMTYPE, "/etc/passwd"),
        entry("evil", tarfile.SYMTYPE, "../.."),
        entry("evil", tarfile.SYMTYPE, "bottle"),
        entry("evil", tarfile.LNKTYPE, "../in/a.tar"),
        entry("evil", tarfile.LNKTYPE, "bottle/train/good/000.png"),
        entry("evil", tarfile.CHRTYPE),
        entry("evil", tarfile.BLKTYPE),
        entry("evil", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name} {member.type.decode()} {member.linkname}",
)
def test_what_would_get_out_is_refused_and_nothing_is_left(archive, tmp_path, evil):
    file = archive(pack(FILES, evil))
    with pytest.raises(DataError) as caught:
        unpack(file, tmp_path / "sub" / "out")
    said = str(caught.value)
    assert said.startswith(f"{file}: refused, since {evil.name!r}")
    assert "\n" not in said
    assert list((tmp_path / "sub").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "sub"]


def test_an_absolute_path_is_not_written_to(archive, tmp_path):
    target = tmp_path / "evil.txt"
    content = {target.as_posix(): b"evil"}
    with pytest.raises(DataError, match="outside"):
        unpack(archive(pack(content)), tmp_path / "out")
    assert not target.exists()
    assert not (tmp_path / "out").exists()


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
    assert str(caught.value).startswith(f"{file}: the archive is damaged, or is none")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out*"))


def test_an_interruption_leaves_nothing(archive, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive(pack()), tmp_path / "out", stop)
    assert not list(tmp_path.glob("out*"))


def test_a_long_name_within_the_folder_is_no_way_out(archive, tmp_path):
    """Many nested folders and long names are fine; only where they lead counts."""
    name = "/".join(["d" * 50] * 8) + "/x..y/...txt"
    unpack(archive(pack({name: b"1"})), tmp_path / "out")
    assert contents(tmp_path / "out") == {name: b"1"}


def test_the_archive_itself_is_left_as_it_is(archive, tmp_path):
    file = archive(pack())
    before = file.read_bytes()
    unpack(file, tmp_path / "out")
    assert file.read_bytes() == before
