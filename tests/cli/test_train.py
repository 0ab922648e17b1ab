"""`cflow-ad train`: the model, what is said of it, and going on after an interruption."""

import csv
import os
import shutil
import signal
import time

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from cflow_ad import Detector, Settings
from cflow_ad.store.model_file import read_metadata
from tests.cli.commands import SLOWLY, SMALL, TINY, refused, run, start


def tensors_of(path):
    return {name: value.numpy() for name, value in safetensors.torch.load_file(path).items()}


def same(one, other):
    return one.keys() == other.keys() and all((one[k] == other[k]).all() for k in one)


def test_the_model_can_be_loaded_and_the_message_names_it(carpet, tmp_path):
    path = tmp_path / "new" / "folder" / "m.safetensors"  # neither folder exists yet
    result = run("train", carpet, "-o", path, *TINY)
    assert result.exit_code == 0
    detector = Detector.load(path, device="cpu")
    assert result.stdout.startswith(f"{path}: trained on 10 images in ")
    assert f"threshold {detector.threshold:.3f}\n" in result.stdout
    assert detector.training["screening"]["n_images"] == 10
    assert sorted(path.parent.iterdir()) == [path]  # the work folder is gone


def test_too_few_images_for_the_rate_are_said_plainly(carpet, tmp_path):
    result = run("train", carpet, "-o", tmp_path / "m.safetensors", *TINY)
    assert result.stderr.startswith("warning: 10 good images are too few")
    assert result.stderr.count("\n") == 1
    assert "99 would allow it" in result.stderr


def test_enough_images_for_the_rate_are_said_too(carpet, tmp_path):
    rate = ["--false-alarm-rate", "0.4"]
    result = run("train", carpet, "-o", tmp_path / "m.safetensors", *TINY, *rate)
    assert result.stderr == ""
    assert "About 0.4 of good images score above the threshold" in result.stdout


def test_one_image_promises_nothing(carpet, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(carpet / "train" / "good" / "000.png", few)
    result = run("train", few, "-o", tmp_path / "m.safetensors", *TINY)
    assert result.exit_code == 0
    assert "promises no false-alarm rate" in result.stderr


def test_set_reaches_the_settings(carpet, tmp_path):
    path = tmp_path / "m.safetensors"
    more = ["--set", "smoothing=2.5", "--set", "batch-size = 8", "--seed", 3]
    assert run("train", carpet, "-o", path, *TINY, *more).exit_code == 0
    settings = read_metadata(path)["settings"]
    assert (settings["smoothing"], settings["batch_size"]) == (2.5, 8)
    assert (settings["seed"], settings["strides"], settings["steps"]) == (3, [8, 16], 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--set steps", "--set steps: write NAME=VALUE"),
        ("--set =4", "--set =4: write NAME=VALUE"),
        ("--set smoothing=1e9", "smoothing is 1000000000.0: it must be 0 to 1000"),
        ("--seed 99999999999", "seed is 99999999999: it must be 0 to 4294967295"),
        ("--set colour=red", "unknown setting colour; `cflow-ad info settings` lists them"),
        ("--set steps=two", "steps is 'two': it must be a whole number"),
        ("--set steps=2.5", "steps is '2.5': it must be a whole number"),
        ("--set method=x", "unknown setting method"),
        ("--set paper.epochs=3", "paper.epochs needs --preset paper"),
        ("--set strides=8,x", "strides is '8,x': it must be whole numbers"),
        ("--set strides=", "strides is (): it must be one or more strides"),
        ("--set strides=16,8", "in rising order"),
        ("--set smoothing=nan", "smoothing is nan: it must be a finite number"),
        ("--set feature_budget=0", "feature_budget is 0.0: it must be greater than 0"),
        ("--steps -1", "steps is -1: it must be at least 0"),
        (
            "--false-alarm-rate 1",
            "false_alarm_rate is 1.0: it must be greater than 0 and less than 1",
        ),
        ("--size 0x0", "size"),
        ("--size wide", "size"),
        ("--size -64x64", "size"),
        ("--resize crop", "fit or pad or stretch"),
        ("--seed -1", "seed is -1: it must be 0 to"),
    ],
)
def test_a_bad_setting_is_named(options, said, tmp_path):
    output = tmp_path / "out" / "m.safetensors"
    # The settings are checked before the data, which is not there.
    line = refused("train", tmp_path / "nowhere", "-o", output, *options.split())
    assert said in line
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--set strides=7", "stride"),
        ("--set strides=8,1024", "stride"),
        ("--backbone no_such_net", "no_such_net"),
        ("--weights nowhere.pth", "nowhere.pth"),
        ("--device nothing", "nothing"),
        ("--device cuda:99", "cuda:99"),
        ("--device meta", "meta"),
    ],
)
def test_what_is_not_to_be_had_is_named(options, said, carpet, tmp_path):
    line = refused("train", carpet, "-o", tmp_path / "m.safetensors", *TINY, *options.split())
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_needs_no_other_weights(carpet, tmp_path):
    weights = tmp_path / "w.safetensors"
    bundled, bare = tmp_path / "bundled.safetensors", tmp_path / "bare.safetensors"
    encoder = Detector.load(_trained(carpet, tmp_path / "first.safetensors")).model.encoder
    state = encoder.network.state_dict()
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, weights)
    given = [*TINY, "--weights", weights]
    first = run("train", carpet, "-o", bare, *given)
    assert first.exit_code == 0, first.output
    assert run("train", carpet, "-o", bundled, *given, "--bundle").exit_code == 0
    assert bundled.stat().st_size > bare.stat().st_size
    weights.unlink()

    image = carpet / "test" / "good" / "000.png"
    assert run("predict", bundled, image, "--exit-zero").exit_code == 0
    line = refused("predict", bare, image)
    assert str(weights) in line
    assert "--weights FILE" in line


def _trained(carpet, path):
    assert run("train", carpet, "-o", path, *TINY).exit_code == 0
    return path


# The output


def test_a_folder_as_output_is_refused_before_any_training(carpet, tmp_path):
    line = refused("train", carpet, "-o", tmp_path, *TINY)
    assert f"{tmp_path}: this is a folder; name a file in it" in line
    assert not tmp_path.with_name(tmp_path.name + ".work").exists()


def test_an_output_below_a_file_is_refused_before_any_training(carpet, tmp_path):
    (tmp_path / "file").write_text("text")
    output = tmp_path / "file" / "m.safetensors"
    assert "is a file, not a folder" in refused("train", carpet, "-o", output, *TINY)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever may write anywhere")
def test_an_output_without_permission_is_refused_before_any_training(carpet, tmp_path):
    tmp_path.chmod(0o500)
    line = refused("train", carpet, "-o", tmp_path / "m.safetensors", *TINY)
    assert "no permission" in line


def test_a_second_run_overwrites(carpet, tmp_path):
    path = _trained(carpet, tmp_path / "m.safetensors")
    before = tensors_of(path)
    assert same(before, tensors_of(_trained(carpet, path)))  # and gives the same model
    assert run("train", carpet, "-o", path, *TINY, "--seed", 1).exit_code == 0
    assert not same(before, tensors_of(path))


# Interruption


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process")
def test_an_interrupted_run_goes_on_to_the_same_model(carpet, tmp_path):
    path, whole = tmp_path / "m.safetensors", tmp_path / "whole.safetensors"
    work = tmp_path / "m.safetensors.work"
    arguments = ["train", carpet, *TINY, "--steps", "60"]
    process = start(*arguments, "-o", path, before=SLOWLY)
    first_level = work / "fold-1" / "level-0.safetensors"
    deadline = time.monotonic() + 60
    while not first_level.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130, said
    assert b"the same command with --resume continues" in said
    assert b"Traceback" not in said
    assert not path.exists()
    assert first_level.exists()

    assert run(*arguments, "-o", path, "--resume").exit_code == 0
    assert not work.exists()
    assert run(*arguments, "-o", whole).exit_code == 0
    assert same(tensors_of(path), tensors_of(whole))


def test_without_resume_training_begins_anew(carpet, tmp_path):
    path = tmp_path / "m.safetensors"
    stale = tmp_path / "m.safetensors.work" / "level-0.safetensors"
    stale.parent.mkdir()
    stale.write_text("of another run")
    assert run("train", carpet, "-o", path, *TINY).exit_code == 0
    assert not stale.exists()


def test_resume_takes_nothing_from_other_settings_or_damaged_work(carpet, tmp_path):
    plain = _trained(carpet, tmp_path / "plain.safetensors")
    path, work = tmp_path / "m.safetensors", tmp_path / "m.safetensors.work"
    # What a run with other settings left behind, and a file cut short.
    Detector.fit(carpet, _settings(seed=1), device="cpu", work=work)
    (work / "level-1.safetensors").write_bytes(b"\0" * 20)
    assert run("train", carpet, "-o", path, *TINY, "--resume").exit_code == 0
    assert same(tensors_of(path), tensors_of(plain))


def _settings(**more):
    return Settings(
        backbone="test_efficientnet",
        weights="random",
        size="64x64",
        strides=(8, 16),
        steps=3,
        batch_size=64,
        false_alarm_rate=0.5,
        **more,
    )


def test_the_default_backbone_trains_with_the_network_unplugged(carpet, tmp_path):
    path = tmp_path / "m.safetensors"
    assert run("train", carpet, "-o", path, *SMALL, "--device", "cpu").exit_code == 0
    assert read_metadata(path)["encoder"]["backbone"] == Settings().backbone


def test_a_preset_is_where_the_settings_start_from(carpet, tmp_path):
    path = tmp_path / "m.safetensors"
    small = ["--set", "paper.epochs=1", "--set", "paper.passes_per_epoch=2", "--set", "folds=0"]
    result = run("train", carpet, "-o", path, *TINY, "--preset", "paper", *small)
    assert result.exit_code == 0
    assert "promises no false-alarm rate" in result.stderr  # the paper holds no images out
    made = Detector.load(path, device="cpu").settings
    assert (made.method.whiten, made.method.image_score) == (False, "peak")
    # Options take precedence over the preset.
    assert (made.backbone, made.paper.epochs) == ("test_efficientnet", 1)


def test_a_wrong_preset_is_named(carpet, tmp_path):
    said = refused("train", carpet, "-o", tmp_path / "m.safetensors", "--preset", "papre")
    assert "preset 'papre' is unknown; give fast or default or accurate or paper" in said


# Good images that stand out


@pytest.fixture
def contaminated(carpet, tmp_path):
    """The good images to train on, and a defective one among them."""
    folder = tmp_path / "parts"
    shutil.copytree(carpet / "train" / "good", folder)
    image = np.asarray(Image.open(folder / "003.png")).copy()
    image[10:50, 10:50] = 255 - image[10:50, 10:50]
    image[16:40, 16:40] = 0
    Image.fromarray(image).save(folder / "bad, <b>.png")
    return folder


def test_without_scores_for_it_the_report_is_written_all_the_same(carpet, tmp_path):
    page = tmp_path / "page.html"
    once = (*TINY, "--set", "folds=0", "--report", page)
    result = run("train", carpet, "-o", tmp_path / "m.safetensors", *once)
    assert result.exit_code == 0
    assert "No good image was scored out-of-fold" in page.read_text(encoding="utf-8")
    assert len(result.stderr.splitlines()) == 1  # of the threshold
    assert result.stderr.startswith("warning: The threshold was set on the training images")


def test_images_that_stand_out_are_named_shown_and_left_out(contaminated, tmp_path):
    model, page = tmp_path / "m.safetensors", tmp_path / "new" / "suspects.html"
    # A model fitted to half of so few images does not tell which one stands out.
    each = (*TINY, "--set", "folds=11")
    result = run("train", contaminated, "-o", model, *each, "--report", page)
    assert result.exit_code == 0
    assert " of the 11 good images is an outlier" in result.stdout
    assert "the highest: bad, <b>.png (" in result.stdout
    assert f"--exclude {page.with_suffix('.csv')}" in result.stdout
    text = page.read_text(encoding="utf-8")
    assert "bad, &lt;b&gt;.png" in text
    assert "<b>.png" not in text
    assert 'src="data:image/jpeg' in text
    with page.with_suffix(".csv").open() as file:
        listed = [row["path"] for row in csv.DictReader(file)]
    assert listed[0] == "bad, <b>.png"
    assert list(read_metadata(model)["training"]["screening"]["flagged"]) == listed

    again = run("train", contaminated, "-o", model, *each, "--exclude", page.with_suffix(".csv"))
    assert again.exit_code == 0
    training = read_metadata(model)["training"]
    assert sorted(training["excluded"]) == sorted(listed)
    assert training["screening"]["n_images"] == 11 - len(listed)


def test_too_few_images_to_stand_out_are_said_so(carpet, tmp_path):
    page = tmp_path / "p.html"
    names = [f"--exclude={n:03d}.png" for n in range(3, 10)]
    result = run("train", carpet, "-o", tmp_path / "m.safetensors", *TINY, "--report", page, *names)
    assert "3 good images are too few to find outliers among; 8 are needed" in result.stdout
    assert page.exists()
    assert page.with_suffix(".csv").read_text() == "path,score\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--report page.txt", "--report page.txt: the name must end in .html"),
        ("--report list.html --exclude list.csv", "would overwrite list.csv"),
        ("--report list.csv/page.html", "list.csv is a file, not a folder; choose another path"),
        ("--report page.html", "page.csv is a folder; choose another name"),
        ("--exclude nowhere.csv", "nowhere.csv: the file cannot be read"),
        ("--exclude nowhere.png", "nowhere.png: no good image"),
    ],
)
def test_what_cannot_be_excluded_or_reported_is_named(options, said, carpet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("path\n000.png\n")
    (tmp_path / "page.csv").mkdir()
    line = refused("train", carpet, "-o", "m.safetensors", *TINY, *options.split())
    assert said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.csv", "page.csv"]


def test_a_report_without_permission_is_refused_before_any_training(carpet, tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    page, path = tmp_path / "closed" / "page.html", tmp_path / "m.safetensors"
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda at, mode: at != page.parent or mode == os.R_OK)
    line = refused("train", carpet, "-o", path, *TINY, "--report", page)
    assert f"{page}: no permission to write in {page.parent}; choose another path" in line
    assert not path.exists()
