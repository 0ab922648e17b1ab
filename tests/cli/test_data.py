"""`data`: generated data sets."""

from __future__ import annotations

import pytest

from cflow_ad import open_dataset
from tests.cli.commands import refused, run

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
