"""Laws of public data sets: each is read from a small tree in its published layout."""

import sys

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.layouts import LAYOUTS, open_dataset
from cflow_ad.data.layouts.reading import split
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError, DependencyError, SettingsError

SHAPE = (4, 6)


def put(root, *names, pixels=100):
    """Make images, a value everywhere or an array, at these names."""
    values = np.broadcast_to(np.asarray(pixels, np.uint8), SHAPE)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    return root


def spot(value=255, column=0):
    """A mask with one defective pixel in the first row."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, column] = value
    return mask


def listed(samples, root):
    return [(sample.path.relative_to(root).as_posix(), sample.label) for sample in samples]


def defective(sample):
    """The columns of the first row that the mask calls defective."""
    return np.flatnonzero(read_mask(sample.mask, SHAPE)[0]).tolist()


def refused(path, *parts, layout=None):
    with pytest.raises(DataError) as caught:
        open_dataset(path, layout)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


# MVTec AD 2 and LOCO


@pytest.fixture
def can(tmp_path):
    root = tmp_path / "can"
    put(root, "train/good/000_regular.png", "validation/good/000_regular.png")
    put(root, "test_public/good/001_regular.png", "test_public/good/001_shift_1.png")
    put(root, "test_public/bad/002_regular.png", "test_public/bad/002_shift_1.png")
    put(root, "test_private/000.png", "test_private_mixed/000.png")
    truth = "test_public/ground_truth/bad"
    return put(
        root, f"{truth}/002_regular_mask.png", f"{truth}/002_shift_1_mask.png", pixels=spot()
    )


def test_mvtec_ad_2(can):
    data = open_dataset(can)
    assert (data.layout, data.name) == ("mvtec-ad-2", "can")
    assert listed(data.train, can) == [("train/good/000_regular.png", "good")]
    assert listed(data.test, can) == [
        ("test_public/bad/002_regular.png", "bad, regular"),
        ("test_public/bad/002_shift_1.png", "bad, shift_1"),
        ("test_public/good/001_regular.png", "good"),
        ("test_public/good/001_shift_1.png", "good"),
    ]
    assert [defective(sample) for sample in data.test[:2]] == [[0], [0]]
    assert ["validation" in data.notes[0], "test_private" in data.notes[1]] == [True, True]
    put(can, "test_public/ground_truth/bad/009_regular_mask.png")
    refused(can, "009_regular_mask.png: no image in", "test_public")


@pytest.fixture
def breakfast(tmp_path):
    root = tmp_path / "breakfast_box"
    put(root, "train/good/000.png", "validation/good/000.png", "test/good/000.png")
    put(root, "test/structural_anomalies/000.png", "test/logical_anomalies/000.png")
    put(root, "ground_truth/structural_anomalies/000/000.png", pixels=spot(252, column=1))
    put(root, "ground_truth/structural_anomalies/000/001.png", pixels=spot(243, column=3))
    return put(root, "ground_truth/logical_anomalies/000/000.png", pixels=spot(255, column=5))


def test_mvtec_loco_unites_the_masks_of_an_image(breakfast):
    data = open_dataset(breakfast)
    assert data.layout == "mvtec-loco"
    assert data.defects == ("structural_anomalies",)
    assert defective(data.test[0]) == [1, 3]
    assert listed(data.test, breakfast)[1:] == [("test/good/000.png", "good")]
    assert "--layout mvtec-loco-all" in data.notes[1]


def test_mvtec_loco_with_logical_anomalies_where_asked_for(breakfast):
    data = open_dataset(breakfast, "mvtec-loco-all")
    assert data.defects == ("logical_anomalies", "structural_anomalies")
    assert len(data.test) == 3
    assert defective(data.test[0]) == [5]
    put(breakfast, "ground_truth/logical_anomalies/007/000.png", pixels=spot())
    refused(breakfast, "007: no image in", layout="mvtec-loco-all")


# VisA


@pytest.fixture
def visa(tmp_path):
    root = put(
        tmp_path / "VisA",
        *(f"candle/Data/Images/Normal/000{i}.JPG" for i in range(3)),
        *(f"candle/Data/Images/Anomaly/00{i}.JPG" for i in range(2)),
    )
    put(root, "candle/Data/Masks/Anomaly/000.png", pixels=spot(3, column=2))
    put(root, "candle/Data/Masks/Anomaly/001.png", pixels=spot(1) + spot(2, column=1))
    normal, bad = "candle/Data/Images/Normal", "candle/Data/Images/Anomaly"
    masks = "candle/Data/Masks/Anomaly"
    (root / "candle" / "image_anno.csv").write_text(
        "image,label,mask\n"
        f"{normal}/0000.JPG,normal,\n"
        f"{bad}/000.JPG,melded,{masks}/000.png\n"
        f'{bad}/001.JPG,"melded,other",{masks}/001.png\n'
    )
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text(
        "object,split,label,image,mask\n"
        f"candle,train,normal,{normal}/0002.JPG,\n"
        f"candle,train,normal,{normal}/0000.JPG,\n"
        "capsules,train,normal,capsules/Data/Images/Normal/0000.JPG,\n"
        f"candle,test,normal,{normal}/0001.JPG,\n"
        f"candle,test,anomaly,{bad}/000.JPG,{masks}/000.png\n"
        f"candle,test,anomaly,{bad}/001.JPG,{masks}/001.png\n"
    )
    return root


def test_visa_as_published(visa):
    candle = visa / "candle"
    data = open_dataset(candle)
    assert (data.layout, data.name) == ("visa", "candle")
    assert [sample.path.name for sample in data.train] == ["0000.JPG", "0002.JPG"]
    assert listed(data.test, candle) == [
        ("Data/Images/Anomaly/000.JPG", "melded"),
        ("Data/Images/Anomaly/001.JPG", "combined"),
        ("Data/Images/Normal/0001.JPG", "good"),
    ]
    assert [defective(sample) for sample in data.test[:2]] == [[2], [0, 1]]


def test_visa_without_its_split_or_an_image(visa):
    refused(visa, "several data sets (candle)")
    (visa / "candle" / "Data" / "Images" / "Normal" / "0000.JPG").unlink()
    refused(visa / "candle", "1cls.csv, line 3: there is no file", "0000.JPG")
    (visa / "split_csv" / "1cls.csv").unlink()
    refused(visa / "candle", "1cls.csv: this file is missing", "copy split_csv")


def test_visa_in_another_folder(visa):
    refused((visa / "candle").rename(visa / "lights"), "lists no image of lights")


# BTAD and Kolektor


def test_btad(tmp_path):
    root = put(tmp_path / "01", "train/ok/0.bmp", "test/ok/1.bmp", "test/ko/2.bmp", "test/ko/3.png")
    put(root, "ground_truth/ko/2.png", "ground_truth/ko/3.bmp", pixels=spot())
    data = open_dataset(root)
    assert data.layout == "btad"
    assert listed(data.train, root) == [("train/ok/0.bmp", "good")]
    assert listed(data.test, root) == [
        ("test/ko/2.bmp", "ko"),
        ("test/ko/3.png", "ko"),
        ("test/ok/1.bmp", "good"),
    ]
    assert [defective(sample) for sample in data.test[:2]] == [[0], [0]]


def test_kolektor_sdd_keeps_an_item_on_one_side(tmp_path):
    root = tmp_path / "KolektorSDD"
    for item in range(1, 11):
        names = [f"kos{item:02d}/Part{part}" for part in range(3)]
        put(root, *(f"{name}.jpg" for name in names))
        put(root, *(f"{name}_label.bmp" for name in names[:2]), pixels=0)
        put(root, f"{names[2]}_label.bmp", pixels=spot())
    data = open_dataset(root)
    assert data.layout == "kolektor-sdd"
    assert (len(data.train), len(data.test)) == (16, 4 + 10)
    assert all(sample.is_good for sample in data.train)
    trained = {sample.path.parent for sample in data.train}
    assert trained.isdisjoint(sample.path.parent for sample in data.test if sample.is_good)
    assert all(defective(sample) == [0] for sample in data.test if not sample.is_good)
    assert "no split of its own" in data.notes[0]
    (root / "kos03" / "Part1_label.bmp").unlink()
    refused(root, "Part1.jpg: has no mask Part1_label")


def test_kolektor_sdd2(tmp_path):
    root = tmp_path / "KolektorSDD2"
    put(root, "train/10000.png", "train/10001.png", "test/20000.png", "test/20001.png")
    put(root, "train/10000_GT.png", "test/20000_GT.png", pixels=0)
    put(root, "train/10001_GT.png", "test/20001_GT.png", pixels=spot())
    data = open_dataset(root)
    assert data.layout == "kolektor-sdd2"
    assert listed(data.train, root) == [("train/10000.png", "good")]
    assert listed(data.test, root) == [("test/20000.png", "good"), ("test/20001.png", "defect")]
    assert data.notes == ("1 defective training images are left out",)
    put(root, "test/20002_GT.png", pixels=0)
    refused(root, "20002_GT.png: no image in")


# Magnetic Tile and DAGM


def test_magnetic_tile(tmp_path):
    root = tmp_path / "Magnetic-tile-defect-datasets"
    put(root, *(f"MT_Free/Imgs/exp1_num_{i}.jpg" for i in range(10)))
    put(root, *(f"MT_Free/Imgs/exp1_num_{i}.png" for i in range(10)), pixels=0)
    put(root, "MT_Blowhole/Imgs/exp2_num_5.jpg")
    put(root, "MT_Blowhole/Imgs/exp2_num_5.png", pixels=spot(127) + spot(128, column=4))
    data = open_dataset(root)
    assert data.layout == "magnetic-tile"
    assert (len(data.train), len(data.test)) == (8, 3)
    assert data.defects == ("blowhole",)
    assert defective(data.test[-1]) == [4], "a smoothed mask counts from its middle"
    names = {f"exp1_num_{i}.jpg" for i in range(10)}
    assert {s.path.name for s in (*data.train, *data.test) if s.is_good} == names
    put(root, "MT_Break/Imgs/exp2_num_7.png", "MT_Break/Imgs/exp2_num_8.jpg", pixels=0)
    refused(root, "exp2_num_7.png: no image in")


def test_dagm(tmp_path):
    root = put(tmp_path / "Class1", "Train/0001.PNG", "Train/0002.PNG")
    put(root, "Test/0001.PNG", "Test/0002.PNG")
    put(root, "Train/Label/0002_label.PNG", "Test/Label/0001_label.PNG", pixels=spot())
    (root / "Test" / "Label" / "Labels.txt").write_text("1\n")
    data = open_dataset(root)
    assert data.layout == "dagm"
    assert listed(data.train, root) == [("Train/0001.PNG", "good")]
    assert listed(data.test, root) == [("Test/0001.PNG", "defect"), ("Test/0002.PNG", "good")]
    assert defective(data.test[0]) == [0]
    assert data.notes == ("1 defective training images are left out",)
    refused(tmp_path, "several data sets (Class1)")


# ELPV


def cells(root, n=10):
    lines = []
    for number in range(1, n + 1):
        name = f"images/cell{number:04d}.png"
        put(root, name)
        lines.append(f"{name}  0.0   mono")
    for number, probability in enumerate((1 / 3, 2 / 3, 1.0), start=n + 1):
        name = f"images/cell{number:04d}.png"
        put(root, name)
        lines.append(f"{name}  {probability:.16f}   {'poly' if probability == 1 else 'mono'}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def test_elpv_of_one_type(tmp_path):
    root = cells(tmp_path / "elpv")
    data = open_dataset(root / "mono")
    assert (data.layout, data.name, data.root) == ("elpv", "elpv-mono", root)
    assert (len(data.train), len(data.test)) == (8, 4)
    assert data.defects == ("defect 1/3", "defect 2/3")
    assert not any(sample.mask for sample in data.test)
    assert open_dataset(root / "poly").defects == ("defect certain",)
    refused(root, "does not name one type", "FOLDER/mono or FOLDER/poly")
    (root / "labels.csv").write_text("images/cell0001.png 0.0\n")
    refused(root / "mono", "labels.csv, line 1: expected an image")


def test_elpv_from_its_package(tmp_path, monkeypatch):
    package = tmp_path / "site" / "elpv_dataset"
    cells(package / "data")
    (package / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    monkeypatch.syspath_prepend(package.parent)
    assert len(open_dataset("elpv-mono").train) == 8
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install 'cflow-ad\[elpv\]'"):
        open_dataset("elpv-mono")


# All of them


def test_the_command_reads_the_layout_that_it_is_given(breakfast):
    from tests.cli.commands import refused, run

    line = refused("data", "check", breakfast, "--layout", "mvtek")
    assert "no layout 'mvtek'; the layouts are" in line
    result = run("data", "check", breakfast, "--layout", "mvtec-loco-all")
    assert "1 logical_anomalies, 1 structural_anomalies" in result.stdout


def test_a_layout_can_be_forced(breakfast):
    data = open_dataset(put(breakfast / "train", "bad/1.png"), "folder")
    assert (data.layout, len(data.train)) == ("folder", 2)
    with pytest.raises(DataError, match="no good images to train on; put them in train/ok"):
        open_dataset(breakfast / "train", "btad").require_train()
    with pytest.raises(SettingsError, match=r"no layout 'mvtek'; the layouts are .*btad"):
        open_dataset(breakfast, "mvtek")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_that_is_not_there_is_refused_in_a_line(tmp_path, layout):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        with pytest.raises(DataError) as caught:
            open_dataset(tmp_path / folder, layout).require_train()
        assert "\n" not in str(caught.value)


def test_a_split_depends_on_names_alone():
    names = [f"{index}.png" for index in range(100)]
    train, test = split(names, str)
    assert (len(train), len(test)) == (80, 20)
    assert sorted(train + test) == sorted(names)
    backwards, _ = split(names[::-1], str)
    assert set(backwards) == set(train)
    assert train != names[:80]
