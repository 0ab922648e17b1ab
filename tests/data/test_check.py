"""Laws of the check of a data set: what is wrong is found, named, and nothing else is."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cflow_ad.data.check import check_dataset
from cflow_ad.data.layouts import open_dataset
from cflow_ad.data.look import distances, look_at, nearly_alike

SIDE = 64


def texture(seed):
    """A smooth pattern that all images share, and noise that is each one's own."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    values = 120 + 60 * np.sin(9 * rows) * np.cos(7 * columns)
    return Image.fromarray((values + random.normal(0, 12, (SIDE, SIDE))).clip(0, 255).astype("u1"))


@pytest.fixture
def parts(tmp_path):
    root = tmp_path / "parts"
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[3:9, 3:9] = 255
    for folder in ("train/good", "test/good", "test/dent", "ground_truth/dent"):
        (root / folder).mkdir(parents=True)
    for seed in range(16):
        texture(seed).save(root / "train" / "good" / f"{seed}.png")
    texture(20).save(root / "test" / "good" / "0.png")
    texture(21).save(root / "test" / "dent" / "0.png")
    texture(22).save(root / "test" / "dent" / "1.png")
    for name in ("0_mask.png", "1_mask.png"):
        Image.fromarray(mask).save(root / "ground_truth" / "dent" / name)
    return root


def found(root, *, errors=False):
    check = check_dataset(open_dataset(root))
    some = check.errors if errors else check.findings
    return [(f.kind, f.path.relative_to(root).as_posix()) for f in some]


def test_a_sound_set_has_no_findings(parts):
    done = []
    check = check_dataset(open_dataset(parts), progress=lambda *counts: done.append(counts))
    assert check.findings == ()
    assert check.counts == {"train": {"good": 16}, "test": {"dent": 2, "good": 1}}
    assert (check.masks, check.sizes, check.modes) == (2, {(SIDE, SIDE): 19}, {"L": 19})
    assert done[-1] == (19, 19)


def test_what_stops_training_or_evaluating_is_an_error(parts):
    image = parts / "train" / "good" / "3.png"
    image.write_bytes(image.read_bytes()[:200])
    Image.new("L", (SIDE, SIDE + 1)).save(parts / "ground_truth" / "dent" / "0_mask.png")
    (parts / "ground_truth" / "dent" / "1_mask.png").write_text("no image")
    assert found(parts, errors=True) == [
        ("unreadable image", "train/good/3.png"),
        ("unusable mask", "test/dent/0.png"),
        ("unusable mask", "test/dent/1.png"),
    ]


def test_regions_of_interest_that_cannot_be_used_are_errors(parts):
    for name, image in (
        ("fits", Image.new("L", (SIDE, SIDE), 255)),
        ("empty", Image.new("L", (SIDE, SIDE))),
        ("tall", Image.new("L", (SIDE, SIDE + 1), 255)),
    ):
        image.save(parts / f"{name}.png")
    (parts / "text.png").write_text("no image")
    names = ["fits", "empty", "tall", "text", "missing"]
    rows = [f"train/good/{n}.png,,{name}.png" for n, name in enumerate(names)]
    (parts / "list.csv").write_text("\n".join(["path,label,roi", *rows, "train/good/9.png,,"]))
    check = check_dataset(open_dataset(parts / "list.csv"))
    assert check.regions == 5
    assert [(f.kind, f.path.name) for f in check.errors] == [
        ("unusable region", f"{n}.png") for n in range(1, 5)
    ]
    for name, finding in zip(names[1:], check.errors, strict=True):
        assert str(parts / f"{name}.png") in finding.reason


def test_strange_masks(parts):
    Image.new("L", (SIDE, SIDE)).save(parts / "ground_truth" / "dent" / "0_mask.png")
    Image.new("L", (SIDE, SIDE), 1).save(parts / "ground_truth" / "dent" / "1_mask.png")
    assert found(parts) == [
        ("strange mask", "test/dent/0.png"),
        ("strange mask", "test/dent/1.png"),
    ]
    assert found(parts, errors=True) == []


def test_an_image_on_both_sides_is_found_though_its_file_differs(parts):
    texture(5).save(parts / "test" / "good" / "1.bmp")
    texture(6).save(parts / "test" / "dent" / "2.jpg", quality=98)
    check = check_dataset(open_dataset(parts))
    reasons = {f.path.name: f.reason for f in check.warnings if f.kind == "duplicate"}
    assert reasons == {
        "1.bmp": "the same pixels as train/good/5.png, a training image",
        "2.jpg": "nearly the same as train/good/6.png, a training image",
    }
    texture(7).save(parts / "test" / "dent" / "3.png")
    check = check_dataset(open_dataset(parts))
    assert any("which is labelled good" in finding.reason for finding in check.warnings)


def test_files_of_another_kind(parts):
    texture(30).convert("RGB").save(parts / "train" / "good" / "30.png")
    assert found(parts) == [("mixed files", "train/good/30.png")]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda image: image.point(lambda value: value // 2), "low brightness"),
        (lambda image: image.filter(ImageFilter.GaussianBlur(3)), "low sharpness"),
        (lambda image: image.transpose(Image.Transpose.ROTATE_90), "high difference"),
    ],
)
def test_a_good_image_unlike_the_others(parts, spoil, words):
    spoil(texture(31)).save(parts / "train" / "good" / "31.png")
    check = check_dataset(open_dataset(parts))
    assert [(f.kind, f.path.name) for f in check.findings] == [("outlier", "31.png")]
    assert words in check.findings[0].reason
    assert not check.errors


def test_measures_do_not_depend_on_bits(tmp_path):
    values = np.asarray(texture(0))
    Image.fromarray(values).save(tmp_path / "8.png")
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "16.png")
    eight, sixteen = look_at(tmp_path / "8.png"), look_at(tmp_path / "16.png")
    np.testing.assert_allclose(eight.measures, sixteen.measures, rtol=1e-5)
    np.testing.assert_array_equal(eight.thumbnail, sixteen.thumbnail)
    assert nearly_alike([eight], [sixteen]) == [(0, 0)]
    assert nearly_alike([eight], []) == []
    assert (distances([eight] * 10) == 0).all()


def test_the_command(parts):
    from tests.cli.commands import run

    result = run("data", "check", parts, "--json")
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    assert (values["dataset"]["layout"], values["errors"]) == ("mvtec", [])
    (parts / "test" / "dent" / "1.png").write_bytes(b"")
    texture(5).save(parts / "test" / "good" / "1.png")
    result = run("data", "check", parts)
    assert result.exit_code == 1
    out = result.stdout
    assert "error: test/dent/1.png: the file is empty" in out
    assert "warning: test/good/1.png: the same pixels as train/good/5.png" in out
    assert "1 error, 1 warning" in out
    assert run("data", "check", parts / "absent").exit_code == 2
