"""A file is written completely or not at all."""

from __future__ import annotations

import os

import pytest

from cflow_ad.errors import DataError
from cflow_ad.files import replacing, require_writable, write_whole


@pytest.mark.parametrize("there", [True, False])
def test_a_file_takes_its_name_when_it_is_complete(tmp_path, there):
    path, old = tmp_path / "a.txt", tmp_path / "old.txt"
    if there:
        path.write_text("old")
        old.hardlink_to(path)
    with replacing(path) as new:
        new.write_text("new")
        assert path.exists() == there
        assert not there or path.read_text() == "old"
        assert new.parent == path.parent  # else it might be another disk
    assert path.read_text() == "new"
    assert not there or old.read_text() == "old"
    assert {file.name for file in tmp_path.iterdir()} == {"a.txt", *(["old.txt"] if there else [])}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as new:  # noqa: PT012
        new.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_is_an_error(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match=f": '{folder}'$"), replacing(folder) as new:
        new.write_text("x")
    assert list(tmp_path.iterdir()) == [folder]
    path = tmp_path / "none" / "a.txt"
    with pytest.raises(OSError, match="none") as caught, replacing(path) as new:
        new.write_text("x")
    assert caught.value.filename == str(path)  # and not the name that it has until it is whole


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_device_is_not_replaced_by_a_file(tmp_path):
    """For root a file could take the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="pipe: this is a device, not a file"):
        require_writable(pipe)


def test_a_file_has_the_permissions_of_the_mask(tmp_path):
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "a.txt") as new:
            new.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("character", ["a", "ä"])
def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path, character):
    path = tmp_path / (character * (255 // len(os.fsencode(character))))
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
