"""Names that people have: of folders, on the command line, and in results."""

from __future__ import annotations

import io
import shlex
import shutil
import sys

import pytest
from PIL import Image

from cflow_ad.cli import main
from cflow_ad.data import unfinished
from cflow_ad.data.images import read_image
from cflow_ad.data.listing import list_images
from tests.cli.commands import TINY, run, start


@pytest.fixture
def named(carpet, tmp_path):
    """A copy of the carpet in folders that no word list has."""
    root = tmp_path / "my parts"
    shutil.copytree(carpet / "train" / "good", root / "bueno")
    shutil.copytree(carpet / "test" / "hole", root / "malo" / "agujero")
    return root


def run_main(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["cflow-ad", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr()
    return done.value.code, said.out, said.err


def test_the_command_that_an_error_shows_works(named, tmp_path, monkeypatch, capsys):
    model = tmp_path / "m.safetensors"
    given = ("train", named, "-o", model, *TINY)
    status, _, said = run_main(monkeypatch, capsys, *given)
    assert status == 2
    assert "found: bueno (10 images), malo (2 images)" in said
    shown = shlex.split(said.partition("as in: ")[2])
    assert shown[0] == "cflow-ad"
    status, _, said = run_main(monkeypatch, capsys, *shown[1:])
    assert status == 0, said
    assert "defective images: agujero (2)" in said
    options = shown[shown.index("--good") :]
    result = run("evaluate", model, named, "-o", tmp_path / "e", *options)
    assert result.exit_code == 0, result.output
    assert "agujero" in result.stdout


def test_home_is_expanded_where_no_shell_did(carpet, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copytree(carpet / "test" / "good", tmp_path / "in here")
    status, out, _ = run_main(
        monkeypatch, capsys, "predict", model, "~/in here", "--exit-zero", "--table=~/t.csv"
    )
    assert status == 0
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5
    monkeypatch.chdir(tmp_path)
    shutil.copy(carpet / "test" / "good" / "000.png", "~odd.png")
    status, out, _ = run_main(monkeypatch, capsys, "predict", model, "~odd.png", "--exit-zero")
    assert "~odd.png" in out


def test_results_keep_the_structure_of_the_folder_that_is_named(model, carpet, tmp_path):
    image = carpet / "test" / "good" / "000.png"
    for name in ("day/a/1.png", "day/b/1.png", "day/b/lot[3]/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / name)
    run("predict", model, tmp_path / "day", "-o", tmp_path / "out", "--masks")
    masks = tmp_path / "out" / "masks"
    made = {path.relative_to(masks).as_posix() for path in list_images(masks)}
    assert made == {"a/1.png", "b/1.png", "b/lot[3]/2.png"}
    shutil.rmtree(tmp_path / "day" / "a")
    run("predict", model, tmp_path / "day", "-o", tmp_path / "again", "--masks")
    again = tmp_path / "again" / "masks"
    assert {p.relative_to(again).as_posix() for p in list_images(again)} == made - {"a/1.png"}


def test_a_half_written_image_is_scored_when_it_is_whole(model, carpet, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    content = (carpet / "test" / "good" / "000.png").read_bytes()
    late = folder / "0.png"
    late.write_bytes(content[: len(content) // 2])
    shutil.copy(carpet / "test" / "good" / "001.png", folder / "1.png")
    wait = unfinished.wait_for_writers

    def finish(paths, since):
        late.write_bytes(content)
        return wait(paths, since)

    monkeypatch.setattr(unfinished, "wait_for_writers", finish)
    result = run("predict", model, folder, "--threshold", 1000)
    assert result.exit_code == 0, result.output
    assert [line.split()[2] for line in result.stdout.splitlines()] == [
        str(folder / "1.png"),
        str(late),
    ]


def test_an_image_that_goes_away_or_comes_while_others_are_read(model, carpet, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(40):
        shutil.copy(carpet / "test" / "good" / "000.png", folder / f"{number}.png")
    process = start("predict", model, folder, "--exit-zero")
    process.stdout.readline()
    shutil.copy(folder / "39.png", folder / "40.png")
    (folder / "39.png").unlink()
    output, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert len(output.splitlines()) == 38
    assert b"39.png: there is no such file" in said


@pytest.mark.parametrize("encoding", ["cp1252", "cp932"])
def test_any_code_page_prints_any_name(model, carpet, tmp_path, monkeypatch, encoding):
    root = tmp_path / "检查 Prüfung"
    shutil.copytree(carpet / "test" / "good", root / "良品")
    shutil.copytree(carpet / "test" / "hole", root / "不良品")
    table = tmp_path / "t.csv"
    commands = (
        ("predict", model, root, "--exit-zero", "--table", table),
        ("data", "check", root),
        ("info", model),
        ("evaluate", model, root, "-o", tmp_path / "e"),
        ("predict", model, root / "没有"),
    )
    for command in commands:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        monkeypatch.setattr("sys.stdout", streams[0])
        monkeypatch.setattr("sys.stderr", streams[1])
        monkeypatch.setattr("sys.argv", ["cflow-ad", *map(str, command)])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == (2 if command[-1] == root / "没有" else 0)
        for stream in streams:
            stream.flush()
            stream.buffer.getvalue().decode(encoding)
    assert "良品" in table.read_text("utf-8")
    assert "不良品" in (tmp_path / "e" / "report.html").read_text("utf-8")


def test_spaces_and_brackets_go_through_every_command(carpet, tmp_path):
    root = tmp_path / "a [1] b's" / "ok"
    shutil.copytree(carpet / "train" / "good", root)
    model = tmp_path / "m [2].safetensors"
    assert run("train", root, "-o", model, *TINY).exit_code == 0
    result = run("predict", model, f"{root}/*.png", "-o", tmp_path / "o [3]", "--overlays")
    assert result.exit_code < 2
    assert len(list_images(tmp_path / "o [3]")) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that tells case apart")
def test_names_that_differ_only_in_case(model, carpet, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "A.png", "a.PNG"):
        Image.fromarray(read_image(carpet / "test" / "good" / "000.png")).save(folder / name)
    run("predict", model, folder, "-o", tmp_path / "out", "--masks")
    made = [path.name.casefold() for path in list_images(tmp_path / "out")]
    assert len(made) == len(set(made)) == 3
