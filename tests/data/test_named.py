"""Laws of folders with names of their own: found by word or given, and never taken for good."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.layouts import FolderNames, open_dataset
from cflow_ad.errors import DataError, FolderError, SettingsError


def put(root, *names, mask=()):
    """Make small images; those named in `mask` have a white pixel."""
    for number, name in enumerate((*names, *mask)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((4, 4), np.uint8)
        values[0, 0] = 255 if name in mask else number % 200 if "mask" not in name else 0
        Image.fromarray(values).save(path)
    return root


def labels(samples, root):
    return {s.path.relative_to(root).as_posix(): s.label for s in samples}


def numbered(folder, count):
    return [f"{folder}/{number}.png" for number in range(count)]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("OK", "NG"),
        ("good", "bad"),
        ("Normal", "Defect"),
        ("gut", "schlecht"),
        ("Gutteile", "Ausschuß"),
        ("i.O.", "n.i.O."),
        ("良品", "不良品"),
        ("合格", "不合格"),
        ("正常", "异常"),
        ("正常画像", "欠陥画像"),
        ("01_ok", "02_not-ok"),
        ("ＯＫ", "ＮＧ"),
    ],
)
def test_folders_are_recognised_by_words(tmp_path, good, bad):
    root = put(tmp_path / "p", *numbered(good, 10), f"{bad}/0.png", f"{bad}/riss/1.png")
    data = open_dataset(root)
    assert data.layout == "named"
    assert {s.path.parent.name for s in data.train} == {good}
    assert len(data.train) == 8
    assert "80% of the good images" in data.notes[0]
    found = labels(data.test, root)
    assert found.pop(f"{bad}/0.png") == bad
    assert found.pop(f"{bad}/riss/1.png") == "riss"
    assert set(found.values()) == {"good"}
    assert len(found) == 2


@pytest.mark.parametrize("train", ["train", "Training", "训练", "学習"])
def test_a_split_of_ones_own_is_kept(tmp_path, train):
    test = {"train": "test", "Training": "Test", "训练": "测试", "学習": "テスト"}[train]
    root = put(tmp_path / "p", f"{train}/OK/a/1.png", f"{test}/OK/1.png", f"{test}/NG/1.png")
    data = open_dataset(root)
    assert labels(data.train, root) == {f"{train}/OK/a/1.png": "good"}
    assert labels(data.test, root) == {f"{test}/OK/1.png": "good", f"{test}/NG/1.png": "NG"}
    put(root, f"{train}/NG/9.png", "val/OK/3.png")
    again = open_dataset(root)
    assert (again.train, again.test) == (data.train, data.test)
    assert "1 defective training images are left out" in again.notes
    assert "1 images of validation are left out" in again.notes


def test_days_in_between_and_words_below(tmp_path):
    root = put(
        tmp_path / "p",
        *("2026-11-01/OK/1.png", "2026-11-02/OK/1.png", "2026-11-02/NG/dent/1.png"),
        *numbered("2026-11-03/OK", 8),
    )
    data = open_dataset(root)
    assert len(data.train) == 8
    assert labels(data.test, root)["2026-11-02/NG/dent/1.png"] == "dent"


@pytest.mark.parametrize(
    "mask",
    ["masks/dent/1.png", "mask/NG/dent/1_mask.png", "ground_truth/1.png", "NG/dent/1_mask.png"],
)
def test_masks_are_matched(tmp_path, mask):
    root = put(tmp_path / "p", *numbered("OK", 5), "NG/dent/1.png", "NG/dent/2.png", mask=[mask])
    found = {s.path.name: s.mask for s in open_dataset(root).test if s.label == "dent"}
    assert found == {"1.png": root / mask, "2.png": None}


def test_a_blank_mask_of_a_good_image_is_no_error_but_another_is(tmp_path):
    root = put(tmp_path / "p", "OK/1.png", "NG/2.png", "masks/1.png", mask=["masks/2.png"])
    assert open_dataset(root).test[-1].mask == root / "masks" / "2.png"
    put(root, mask=["masks/1.png"])
    with pytest.raises(DataError, match=r"1\.png: shows a defect, but .* a folder of good images"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["masks/9.png"], "9.png: no image in .* belongs to this mask"),
        (["NG/dent/2.png", "masks/2.png", "NG/crack/2.png"], "the mask fits .*same name"),
        (["masks/1.png", "NG/1_mask.png"], "has two masks"),
    ],
)
def test_a_mask_that_fits_none_or_several_is_an_error(tmp_path, names, said):
    root = put(tmp_path / "p", "OK/0.png", "NG/1.png", *names)
    with pytest.raises(DataError, match=said):
        open_dataset(root)


def test_sub_folders_of_days_are_all_taken(tmp_path):
    root = put(tmp_path / "p", "2026-11-01/a.png", "2026-11-02/shift1/a.png")
    data = open_dataset(root)
    assert data.layout == "folder"
    assert len(data.train) == 2
    assert data.notes == ("the images in 2 sub-folders are included, as good",)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ([*numbered("bueno", 3), "malo/0.png"], ["--good", "bueno", "--bad", "malo"]),
        ([*numbered("alt", 1), "0.png", "1.png"], ["--good", ".", "--bad", "alt"]),
        (["NG/0.png", *numbered("red", 2)], ["--good", "red", "--bad", "NG"]),
        (["OK/0.png", "1.png"], ["--good", "OK", "--bad", "."]),
        ([*numbered("d1/bueno", 2), "d1/malo/0.png"], ["--good", "d1/bueno", "--bad", "d1/malo"]),
    ],
)
def test_names_that_say_nothing_are_shown_with_options_that_work(tmp_path, names, options):
    root = put(tmp_path / "p", *names)
    with pytest.raises(FolderError, match=r"\(1 images\)") as caught:
        open_dataset(root)
    assert list(caught.value.options) == options
    given = FolderNames(good=options[1:2], bad=options[3:4])
    data = open_dataset(root, names=given)
    bad = "" if options[3] == "." else options[3]
    of_bad = {s.path for s in data.test if not s.is_good}
    assert of_bad == {root / name for name in names if name.rpartition("/")[0] == bad}
    assert len(data.train) + len(data.test) == len(names)


def test_names_are_given_by_name_path_or_pattern(tmp_path):
    root = put(tmp_path / "p", "a/x/1.png", "b/x/1.png", "c[1]/1.png", "c1/2.png")
    everything = open_dataset(root, names=FolderNames(good=["*"]))
    assert len(everything.train) == 4
    for good in (["b"], ["B/X"], ["b/*"]):
        data = open_dataset(root, names=FolderNames(good=good, bad=["a", "c*"]))
        assert [s.path for s in (*data.train,)] == [root / "b/x/1.png"]
    data = open_dataset(root, names=FolderNames(good=["c[1]"], bad=["*"]))
    assert [s.path.parent.name for s in data.train] == ["c[1]"]
    with pytest.raises(DataError, match=r"has the name 'z', given as --good; the folders are: a,"):
        open_dataset(root, names=FolderNames(good=["z"]))
    with pytest.raises(SettingsError, match="layout named, not mvtec"):
        open_dataset(root, "mvtec", FolderNames(good=["a"]))


def test_a_given_name_takes_the_place_of_the_words(tmp_path):
    root = put(tmp_path / "p", *numbered("golden", 5), "ok/1.png")
    data = open_dataset(root, names=FolderNames(good=["golden"]))
    assert labels(data.test, root)["ok/1.png"] == "ok"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_loops_of_links_end_and_no_image_counts_twice(tmp_path):
    root = put(tmp_path / "p", "OK/1.png", "OK/2.png")
    (root / "OK" / "up").symlink_to(root)
    (root / "OK" / "self").symlink_to(root / "OK")
    (root / "OK" / "broken").symlink_to(root / "nowhere")
    assert len(open_dataset(root).train) == 2
    assert len(open_dataset(root / "OK").train) == 2
