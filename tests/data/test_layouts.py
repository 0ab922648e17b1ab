"""Laws of layouts: what is found, and a plain sentence for what would quietly be left out."""

import shutil

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.layouts import Dataset, Sample, open_dataset
from cflow_ad.errors import DataError

COUNTER = iter(range(1, 10**6))


def put(root, *names):
    """Make small images, no two alike, and their folders; a name ending in / is a folder only."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif path.suffix in (".txt", ".csv"):
            path.write_text("text")
        else:
            Image.fromarray(np.full((2, 2), next(COUNTER), np.uint16)).save(path, format="PNG")
    return root


@pytest.fixture
def mvtec(tmp_path):
    return put(
        tmp_path / "bottle",
        *(f"train/good/{i}.png" for i in (1, 2, 10)),
        *("test/good/0.png", "test/broken/0.png", "test/broken/1.png", "test/a scratch/0.jpg"),
        *("ground_truth/broken/0_mask.png", "ground_truth/a scratch/0.png"),
        "readme.txt",
    )


def refused(path, *parts):
    with pytest.raises(DataError) as caught:
        open_dataset(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


# MVTec


def test_mvtec(mvtec):
    data = open_dataset(mvtec)
    assert (data.layout, data.name, data.root) == ("mvtec", "bottle", mvtec)
    good = mvtec / "train" / "good"
    assert data.train == tuple(Sample(good / f"{i}.png", "good") for i in (1, 2, 10))
    truth = mvtec / "ground_truth"
    assert data.test == (
        Sample(mvtec / "test/a scratch/0.jpg", "a scratch", truth / "a scratch/0.png"),
        Sample(mvtec / "test/broken/0.png", "broken", truth / "broken/0_mask.png"),
        Sample(mvtec / "test/broken/1.png", "broken"),
        Sample(mvtec / "test/good/0.png", "good"),
    )
    assert data.defects == ("a scratch", "broken")
    assert any(sample.mask for sample in data.test)
    assert [s.is_good for s in data.test] == [False, False, False, True]
    assert data.require_train() == data.train
    assert data.require_test() == data.test
    assert open_dataset(str(mvtec)) == data


def test_only_train_or_only_test(mvtec):
    shutil.rmtree(mvtec / "ground_truth")
    assert not any(sample.mask for sample in open_dataset(mvtec).test)
    shutil.rmtree(mvtec / "test" / "good")
    assert all(not s.is_good for s in open_dataset(mvtec).test)
    train = shutil.copytree(mvtec / "train", mvtec.parent / "only" / "train")
    with pytest.raises(DataError, match="no images to evaluate on; put them in test/good"):
        open_dataset(train.parent).require_test()
    shutil.rmtree(mvtec / "train")
    with pytest.raises(DataError, match="no good images to train on; put them in train/good"):
        open_dataset(mvtec).require_train()


def test_what_does_no_harm_is_passed_over(mvtec):
    expected = open_dataset(mvtec)
    put(mvtec, "test/empty/", "ground_truth/empty/", "test/.hidden/0.png", "train/bad/0.png")
    (mvtec / "test" / ".DS_Store").touch()
    assert open_dataset(mvtec) == expected


def test_good_is_good_in_any_case(mvtec):
    (mvtec / "test" / "good").rename(mvtec / "test" / "Good")
    assert open_dataset(mvtec).defects == ("a scratch", "broken")


def test_a_mask_whose_image_ends_in_mask(mvtec):
    put(mvtec, "test/broken/7_mask.png", "ground_truth/broken/7_mask.png")
    masks = {s.path.name: s.mask for s in open_dataset(mvtec).test if s.label == "broken"}
    assert masks["7_mask.png"] == mvtec / "ground_truth/broken/7_mask.png"


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["ground_truth/broken/9_mask.png"], ["9_mask.png: no image in"]),
        (["ground_truth/brokn/0_mask.png"], ["brokn", "0_mask.png: no image in"]),
        ([f"ground_truth/broken/{i}_mask.png" for i in range(5, 12)], ["7_mask", "and 4 more"]),
        (["ground_truth/broken/0.png"], ["broken", "has two masks", "0_mask.png", "remove one"]),
        (["test/broken/0.bmp"], ["0_mask.png: the mask fits 0.bmp and 0.png", "different names"]),
        (["ground_truth/0_mask.png"], ["move them to ground_truth/<defect>"]),
        (["ground_truth/loose/0/000.png"], ["000.png: no image in"]),
        (["test/1.png"], ["move them to test/good or test/<defect>"]),
        (["train/1.png"], ["move them to train/good"]),
        (["test/notes/a.txt"], ["notes: no images there", "1 .txt file"]),
    ],
)
def test_what_would_quietly_be_left_out_is_an_error(mvtec, extra, parts):
    refused(put(mvtec, *extra), *parts)


def test_train_good_without_images(mvtec):
    shutil.rmtree(mvtec / "train")
    with pytest.raises(DataError, match="no good images to train on; put them in train/good"):
        open_dataset(put(mvtec, "train/good/")).require_train()
    refused(put(mvtec, "train/good/a.txt"), "good: no images there", "1 .txt file")


def test_several_classes(mvtec):
    shutil.copytree(mvtec, mvtec.parent / "carpet")
    refused(mvtec.parent, "several data sets (bottle, carpet); name one of them")


# A folder


def test_a_folder_of_images(tmp_path):
    root = put(tmp_path / "parts", "10.png", "9.png", "note.txt")
    data = open_dataset(root)
    assert (data.layout, data.name, data.test) == ("folder", "parts", ())
    assert data.train == (Sample(root / "9.png", "good"), Sample(root / "10.png", "good"))
    assert data.notes == ()
    assert not any(sample.mask for sample in data.test)
    assert data.defects == ()
    with pytest.raises(DataError, match="no images to evaluate on; put them in test/good"):
        data.require_test()


def test_a_folder_good_inside(tmp_path):
    root = put(tmp_path / "parts", "good/1.png", "bad/1.png")
    assert open_dataset(root).train == (Sample(root / "good" / "1.png", "good"),)


def test_train_good_itself(mvtec):
    data = open_dataset(mvtec / "train" / "good")
    assert (data.layout, data.name, len(data.train)) == ("folder", "bottle", 3)
    assert open_dataset(mvtec / "train").train == data.train


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["x/"], ["only sub-folders"]),
        ([], ["x: the folder is empty", "train/good"]),
        (["a.txt", "b.txt"], ["no images there", "2 .txt files"]),
        (["masks/1.png"], ["x: it holds masks, but no images", "train/good"]),
    ],
)
def test_unusable_folders(tmp_path, names, parts):
    (tmp_path / "x").mkdir()
    refused(put(tmp_path / "x", *names), *parts)


def test_unusable_paths(tmp_path):
    put(tmp_path, "1.png", "a.txt")
    refused(tmp_path / "x", "x: there is no such folder or file", "train/good")
    refused(tmp_path / "1.png", "1.png: this is one image, not a data set")
    refused(tmp_path / "a.txt", "a.txt: this is no folder")


# A manifest


@pytest.fixture
def write(tmp_path):
    root = put(tmp_path / "set", "a.png", "b.png", "c,1.png", "d.png", "d_mask.png", "sub/e.png")

    def write(text, encoding="utf-8"):
        path = root / "list.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_manifest(write, encoding, newline):
    lines = [
        "path,label,mask,split",
        "a.png,,,",
        "./sub/e.png, Good ,,train",
        "b.png,good,,TEST",
        "",
        '"c,1.png",scratch',
        "d.png,dent,d_mask.png,test",
    ]
    path = write(newline.join(lines), encoding)
    data, root = open_dataset(path), path.parent
    assert (data.layout, data.name, data.root) == ("manifest", "list", root)
    assert data.train == (Sample(root / "a.png", "good"), Sample(root / "sub/e.png", "good"))
    assert data.test == (
        Sample(root / "b.png", "good"),
        Sample(root / "c,1.png", "scratch"),
        Sample(root / "d.png", "dent", root / "d_mask.png"),
    )


def test_a_manifest_from_a_spreadsheet_and_absolute_paths(write):
    root = write("").parent
    data = open_dataset(write(f"Label;Path\ndent;{root / 'a.png'}\n"))
    assert data.test == (Sample(root / "a.png", "dent"),)
    with pytest.raises(DataError, match="no good images to train on; list good images"):
        data.require_train()
    with pytest.raises(DataError, match="no images to evaluate on; list images"):
        open_dataset(write("path,label\na.png,\n")).require_test()


def test_a_manifest_from_windows(write):
    data = open_dataset(write("path,label,mask\nsub\\e.png,,\n.\\d.png,dent,.\\d_mask.png\n"))
    assert data.train == (Sample(data.root / "sub/e.png", "good"),)
    assert data.test == (Sample(data.root / "d.png", "dent", data.root / "d_mask.png"),)


def test_a_manifest_says_where_to_look(write):
    data = open_dataset(write("path,label,roi\na.png,,sub/../r.png\nb.png,,\nd.png,dent,r.png\n"))
    assert [sample.roi for sample in data.train] == [data.root / "r.png", None]
    assert data.test == (Sample(data.root / "d.png", "dent", roi=data.root / "r.png"),)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no column 'path'", "path, label, mask, split, roi"]),
        ("path,label\n", ["no images are listed"]),
        ("path\na.png\n", ["no column 'label'"]),
        ("path,label,masks\n", ["unknown column 'masks'", "path, label, mask, split"]),
        ("path,label,path\n", ["'path' is there twice"]),
        ("path,label\na.png,good\nx.png,good\n", ["line 3: there is no file", "x.png"]),
        ("path,label\nsub,good\n", ["line 2: there is no file"]),
        ("path,label\n,good\n", ["line 2: the path is empty"]),
        ("path,label\na\0b.png,good\n", ["line 2"]),
        ("path,label\nc,1.png,good\n", ["line 2: 3 cells under 2 columns", "quotation marks"]),
        ("path,label\na.png,\n\nsub/../a.png,\n", ["line 4", "on line 2 already"]),
        ("path,label,split\na.png,,val\n", ["line 2: the split is 'val'; write train or test"]),
        ("path,label,split\na.png,dent,train\n", ["line 2: 'dent' is a defect"]),
        ("path,label,mask\nd.png,good,d_mask.png\n", ["line 2: a good image has no mask"]),
        ("path,label,mask\nd.png,dent,e_mask.png\n", ["line 2: there is no file", "e_mask.png"]),
        ("path,label\n" + "a" * 200_000 + ",good\n", ["line 2", "not CSV"]),
    ],
)
def test_bad_manifests(write, text, parts):
    assert refused(write(text), *parts).startswith(str(write("").parent / "list.csv"))


def test_a_manifest_that_is_not_text(write):
    refused(write("path,label\nä.png,good\n", "latin-1"), "list.csv: this is not UTF-8")


# Fingerprints


def test_a_fingerprint_is_of_names_and_contents_only(mvtec):
    first = open_dataset(mvtec).fingerprint()
    assert len(first) == 16
    assert int(first, 16) >= 0
    (mvtec / "train/good/1.png").touch()
    put(mvtec, "test/broken/5.png")
    assert open_dataset(mvtec).fingerprint() == first
    moved = mvtec.rename(mvtec.parent / "elsewhere")
    data = open_dataset(moved)
    assert data.fingerprint() == first
    backwards = Dataset(moved, "x", data.train[::-1], (), "mvtec")
    assert backwards.fingerprint() == first
    assert open_dataset(moved / "train").fingerprint() != first


@pytest.mark.parametrize("change", ["rename", "edit", "add", "remove", "swap"])
def test_a_fingerprint_changes_with_what_is_learnt_from(mvtec, change):
    first = open_dataset(mvtec).fingerprint()
    good = mvtec / "train" / "good"
    one, two = good / "1.png", good / "2.png"
    match change:
        case "rename":
            one.rename(good / "3.png")
        case "edit":
            one.write_bytes(one.read_bytes()[:-1] + b"x")
        case "add":
            put(good, "4.png")
        case "remove":
            one.unlink()
        case "swap":
            before = one.read_bytes()
            one.write_bytes(two.read_bytes())
            two.write_bytes(before)
    assert open_dataset(mvtec).fingerprint() != first


def test_a_fingerprint_of_a_missing_file(mvtec):
    data = open_dataset(mvtec)
    data.train[0].path.unlink()
    with pytest.raises(DataError, match=r"1\.png: the image cannot be read"):
        data.fingerprint()
