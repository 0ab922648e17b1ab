"""Laws of listing images: a natural order, and a plain sentence where there are none."""

import os
import threading
import time
import unicodedata
from pathlib import Path, PureWindowsPath

import pytest

from cflow_ad.data import unfinished
from cflow_ad.data.listing import IMAGE_SUFFIXES, common_folder, find_images, list_images
from cflow_ad.data.naming import name_results
from cflow_ad.errors import DataError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_listed_in_natural_order(tmp_path):
    touch(tmp_path, "10.png", "2.PNG", "1.jpeg", "b2.tif", "B1.webp", "a.txt", ".3.png", "._2.png")
    (tmp_path / "folder.png").mkdir()
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["1.jpeg", "2.PNG", "10.png", "B1.webp", "b2.tif"]
    assert all(path.parent == tmp_path for path in list_images(str(tmp_path)))


def test_recursive_listing(tmp_path):
    touch(tmp_path, "c10/1.png", "c2/d/1.png", "c2/2.png", "1.png", ".hidden/1.png")
    (tmp_path / "c2" / "up").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["1.png", "c2/2.png", "c2/d/1.png", "c10/1.png"]
    own = list_images(tmp_path, recursive=False)
    assert [path.name for path in own] == ["1.png"]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_found(tmp_path, suffix):
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert len(list_images(tmp_path)) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "it is empty"),
        (["a.txt", "b.txt", "c.TXT", "README"], r"3 \.txt files, 1 suffixless file"),
        (["a.1", "a.2", "a.3", "a.4", "a.5"], "and 2 more"),
        (["x/y/1.txt"], r"1 \.txt file"),
        (["x/.1.png"], "only sub-folders"),
        ([".a.png"], "it is empty"),
    ],
)
def test_no_images(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message) as caught:
        list_images(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: no images there (looked for .bmp .jpeg")


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "x")
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match="is a file"):
        list_images(tmp_path / "a.png")


def names(found, folder):
    return [path.relative_to(folder).as_posix() for path in found]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("lot[3]/*.png", ["lot[3]/1.png", "lot[3]/2.png"]),
        ("lot[34]/*.png", ["lot3/3.png", "lot4/4.png"]),
        ("*[[]3]/1.*", ["lot[3]/1.png"]),
        ("**/*.png", ["lot3/3.png", "lot4/4.png", "lot[3]/1.png", "lot[3]/2.png"]),
        ("lot?/?.PNG", []),
        ("[ab]*", ["a b.png"]),
    ],
)
def test_brackets_are_a_name_where_there_is_one(tmp_path, pattern, expected):
    touch(tmp_path, "lot[3]/1.png", "lot[3]/2.png", "lot3/3.png", "lot4/4.png", ".x/5.png")
    if pattern == "[ab]*":
        touch(tmp_path, "a b.png", "c.png")
    if not expected:
        with pytest.raises(DataError, match="no image matches this pattern"):
            find_images([str(tmp_path / pattern)])
    else:
        assert sorted(names(find_images([str(tmp_path / pattern)]), tmp_path)) == expected


def test_a_folder_with_brackets_is_taken_with_its_sub_folders(tmp_path):
    touch(tmp_path, "lot[3]/a/1.png", "lot[3]/2.png", "lot3/3.png")
    assert names(find_images([str(tmp_path / "lot[3]")]), tmp_path) == [
        "lot[3]/2.png",
        "lot[3]/a/1.png",
    ]


def test_the_common_folder_is_of_names_not_of_images(tmp_path):
    touch(tmp_path, "day/a/1.png", "other/2.png")
    day = str(tmp_path / "day")
    assert common_folder([day]) == tmp_path / "day"
    assert common_folder([f"{day}/a/1.png"]) == tmp_path / "day" / "a"
    assert common_folder([f"{day}/*/1.png"]) == tmp_path / "day"
    assert common_folder([day, str(tmp_path / "other" / "2.png")]) == tmp_path


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_folder_that_several_links_lead_to_counts_once(tmp_path):
    touch(tmp_path, "real/1.png")
    for link in ("a", "b"):
        (tmp_path / link).symlink_to("real")
    (tmp_path / "real" / "back").symlink_to(tmp_path)
    assert len(list_images(tmp_path)) == 1
    (tmp_path / "real" / "2.png").symlink_to("1.png")  # another name, so another image
    assert len(list_images(tmp_path)) == 2


# Names of results


def test_results_are_told_apart_where_only_case_or_accents_differ():
    accents = [Path("/a/caf\u00e9.png"), Path("/a/cafe\u0301.png")]
    images = [Path("/a/x.png"), Path("/a/X.png"), Path("/a/x.jpg"), *accents]
    found = name_results(images, Path("/a"))
    keys = {unicodedata.normalize("NFC", name).casefold() for name in found}
    assert len(keys) == len(images)


def test_results_of_images_on_several_drives():
    images = [PureWindowsPath(r"C:\lot 1\a.png"), PureWindowsPath(r"D:\lot 1\a.png")]
    assert name_results(images, None) == ["C/lot 1/a", "D/lot 1/a"]
    share = [PureWindowsPath(r"\\server\share\b.png"), PureWindowsPath(r"C:\b.png")]
    assert name_results(share, None) == ["servershare/b", "C/b"]
    inside = [PureWindowsPath(r"C:\Lot\Sub\a.png")]
    assert name_results(inside, PureWindowsPath(r"c:\lot")) == ["Sub/a"]


# Files that are still being written


def test_a_file_that_is_still_written_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "_QUIET", 0.2)
    old, new, gone = tmp_path / "old.png", tmp_path / "new.png", tmp_path / "gone.png"
    old.touch()
    os.utime(old, (0, 0))
    new.write_bytes(b"half")

    def write():
        for _ in range(4):
            time.sleep(0.1)
            with new.open("ab") as file:
                file.write(b"more")

    writer = threading.Thread(target=write)
    writer.start()
    assert unfinished.wait_for_writers([old, new, gone], time.time()) == [new]
    writer.join(timeout=0.01)
    assert not writer.is_alive()
    assert new.stat().st_size == 20
