"""Images to leave out are named as a person would, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cflow_ad.data.excluding import find_excluded, read_exclusions
from cflow_ad.errors import DataError

ROOT = Path("parts")
PATHS = [ROOT / "train" / "good" / name for name in ("1.png", "2.png", "a, b.png")]


@pytest.mark.parametrize(
    "name",
    [
        "2.png",
        "good/2.png",
        "./train/good/2.png",
        "x/../parts/train/good/2.png",
        PATHS[1].absolute(),
    ],
)
def test_a_name_is_a_path_or_its_end(name):
    assert find_excluded(PATHS, ROOT, [str(name)]) == {1}


@pytest.mark.parametrize("name", ["3.png", "bad/2.png", "train/2.png", "/elsewhere/2.png"])
def test_a_name_that_means_no_image_is_an_error(name):
    with pytest.raises(DataError, match=f"{name}: no good image of parts has this name"):
        find_excluded(PATHS, ROOT, [name])


def test_a_name_that_means_two_images_is_an_error():
    two = [ROOT / "x" / "1.png", ROOT / "y" / "1.png"]
    with pytest.raises(DataError, match="give more of the path"):
        find_excluded(two, ROOT, ["1.png"])
    assert find_excluded(two, ROOT, ["y/1.png"]) == {1}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("list.txt", "1.png\n\n  a, b.png \n"),
        ("list.csv", 'path,score\n1.png,2.5\n"a, b.png",2.1\n'),
        ("list.csv", "\ufeffscore;Path\n2.5;1.png\n2.1;a, b.png\n"),
    ],
)
def test_a_list_is_read(tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8")
    names = read_exclusions([tmp_path / file, "2.png"])
    assert names == ["1.png", "a, b.png", "2.png"]
    assert find_excluded(PATHS, ROOT, names) == {0, 1, 2}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("none.csv", None, "cannot be read"),
        ("none.txt", None, "no list of images can be read there"),
        ("list.csv", b"file\n1.png\n", "no column 'path'"),
        ("empty.csv", b"", "no column 'path'"),
        ("list.txt", b"\xff\xfe1", "not UTF-8"),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path, file, content, said):
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=f"{file}: .*{said}"):
        read_exclusions([tmp_path / file])


def test_names_may_be_written_as_on_windows():
    paths = [Path("set/good/1.png"), Path("set/other/1.png")]
    assert find_excluded(paths, Path("set"), ["good\\1.png"]) == {0}
