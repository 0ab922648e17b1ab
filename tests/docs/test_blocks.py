"""What is wrong on a page is found."""

from __future__ import annotations

import pytest

from tests.docs.blocks import is_like, read_blocks
from tests.docs.running import check_install, reading


@pytest.mark.parametrize(
    ("output", "shown", "alike"),
    [
        ("threshold 1.25", "threshold 3", True),
        ("threshold 1.25 of 7", "threshold ...", True),
        ("a  b\n c", "a b c", True),
        ("────  x", "──\nx", True),
        ("threshold 1.25", "limit 1.25", False),
        ("threshold 1.25, exceeded", "threshold 1.25", False),
        ("error: 1.png", "error: 1.jpg", False),
    ],
)
def test_words_are_compared_and_figures_are_not(output, shown, alike):
    assert is_like(output, shown) is alike


@pytest.mark.parametrize(
    "block",
    [
        "```console\n$ cflow-ad data check nowhere\n```\n",
        "```console\n$ cflow-ad info settings --jsn\n```\n",
        "```console\n$ cflow-ad --version\ncflow 1\n```\n",
        "```console\n$ cat nowhere\n```\n",
        "```console\n$ true\nerror: it fails\n```\n",
        "```console\n$ pip install 'cflow-ad[nothing]'\n```\n",
        "```console\n$ make nothing\n```\n",
        "```python\nassert False\n```\n",
    ],
)
def test_a_block_that_is_wrong_fails(block, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{block}")
    (found,) = read_blocks(page)
    with reading(tmp_path, monkeypatch, {}) as reader, pytest.raises(AssertionError):
        reader.run(found)


def test_a_reason_marks_what_is_not_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a camera -->\n```console\n$ a \\\n    b  # c\n1\n$ d\n```\n\n"
        "```python\n1\n```\n"
    )
    first, second = read_blocks(page)
    assert (first.reason, second.reason) == ("needs a camera", None)
    assert [tuple(command) for command in first.commands] == [("a      b  # c", "1\n"), ("d", "")]


def test_installs_are_looked_up():
    check_install(["pip", "install", "cflow-ad[station,train]"])
    check_install(["make", "docs"])
