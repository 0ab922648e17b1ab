"""`data`: generated data sets, and those to be fetched."""

from __future__ import annotations

import tarfile

import pytest
from typer.testing import CliRunner

from cflow_ad import open_dataset
from cflow_ad.cli import app
from tests.cli.commands import refused, run
from tests.data.archives import FILES, describe, pack
from tests.data.archives import contents as files_in
from tests.data.server import Server

SMALL = ("--train", 2, "--good", 1, "--per-defect", 1, "--size", 64)


def carpet(folder, *more):
    return ("data", "sample", "carpet", folder, *SMALL, *more)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_a_carpet_lies_in_the_mvtec_layout(tmp_path):
    result = run(*carpet(tmp_path / "new" / "carpet"))
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'new' / 'carpet'}\n"
    assert result.stderr == ""
    dataset = open_dataset(tmp_path / "new" / "carpet")
    assert (len(dataset.train), len(dataset.test)) == (2, 6)
    assert all(sample.mask for sample in dataset.test if not sample.is_good)


def test_a_seed_gives_the_same_carpet_and_another_seed_another(tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        assert run(*carpet(tmp_path / name, "--seed", seed)).exit_code == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "same")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    assert f"{tmp_path} is not empty" in refused(*carpet(tmp_path))
    assert str(tmp_path / "mine.txt") in refused(*carpet(tmp_path / "mine.txt"))
    assert contents(tmp_path) == {(tmp_path / "mine.txt").relative_to(tmp_path): b"precious"}


@pytest.mark.parametrize("option", ["--size 63", "--train -1", "--seed -1", "--per-defect many"])
def test_a_number_out_of_range_is_a_usage_error(tmp_path, option):
    result = run(*carpet(tmp_path / "carpet", *option.split()))
    assert result.exit_code == 2
    assert option.split()[0] in result.stderr
    assert not (tmp_path / "carpet").exists()


# To be fetched


@pytest.fixture
def served(monkeypatch):
    """A server of a small archive, which stands for that of MVTec AD."""
    monkeypatch.setenv("no_proxy", "*")
    with Server(pack()) as server:
        archive = describe(server.content, server.url)
        monkeypatch.setattr("cflow_ad.data.download.MVTEC_AD", archive)
        yield server


def test_the_licence_is_shown_and_nothing_is_fetched_without_agreement(served, tmp_path):
    for answer in ("n\n", "", "\n", "ye\n"):
        command = ["data", "download", "mvtec", str(tmp_path / "mvtec")]
        result = CliRunner().invoke(app, command, input=answer)
        assert result.exit_code == 2
        assert "Licence: none. Cite nobody." in result.stderr
        assert "error: not downloaded: the licence was not agreed to" in result.stderr
    assert served.asked == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="Python before 3.11.4")
@pytest.mark.parametrize(("options", "answer"), [([], "y\n"), (["--yes"], None)])
def test_with_agreement_it_is_fetched(served, tmp_path, options, answer):
    command = ["data", "download", "mvtec", str(tmp_path / "mvtec"), *options]
    result = CliRunner().invoke(app, command, input=answer)
    assert result.exit_code == 0, result.output
    assert "Licence: none. Cite nobody." in result.stderr
    assert result.stdout == f"{tmp_path / 'mvtec'}\n"
    assert files_in(tmp_path / "mvtec") == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["mvtec"]


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="Python before 3.11.4")
def test_the_archive_may_be_kept_given_and_fetched_from_elsewhere(served, tmp_path):
    command = ("data", "download", "mvtec")
    file = tmp_path / "a" / "data.tar.xz"
    assert run(*command, tmp_path / "a" / "mvtec", "-y", "--keep-archive").exit_code == 0
    assert file.read_bytes() == served.content
    assert run(*command, tmp_path / "b", "-y", "--archive", file).exit_code == 0
    assert len(served.asked) == 1
    with Server(served.content) as mirror:
        assert run(*command, tmp_path / "c", "-y", "--url", mirror.url).exit_code == 0
        assert len(mirror.asked) == 1
    assert files_in(tmp_path / "b") == files_in(tmp_path / "c") == FILES


def test_what_went_wrong_is_the_last_line(served, tmp_path):
    served.status = 404
    result = run("data", "download", "mvtec", tmp_path / "mvtec", "--yes")
    assert result.exit_code == 2
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: {served.url}: the server answers 404")
    assert "--archive" in last
