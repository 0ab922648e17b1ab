"""What the pages of the manual show to be run: blocks of `console` and of `python`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


class Command(NamedTuple):
    """A command line, and the output that the page shows under it."""

    line: str
    output: str


@dataclass(frozen=True)
class Block:
    """A block of a page. One that cannot be run has the reason in a comment before it:
    `<!-- not run: REASON -->`.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def commands(self) -> list[Command]:
        """Of a `console` block: each `$ LINE`, with the lines that it continues on."""
        found: list[Command] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append(Command(line.removeprefix("$ "), ""))
            else:
                assert found, f"{self.page.name}: a block begins with {line!r}, not with a command"
                found[-1] = Command(found[-1].line, f"{found[-1].output}{line}\n")
        return found


def read_blocks(page: Path) -> list[Block]:
    """Read the blocks of a page that have a language, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start()) + 1,
            match["language"],
            match["text"],
            match["reason"],
        )
        for match in _BLOCK.finditer(text)
    ]


def is_like(output: str, shown: str) -> bool:
    """Whether a command's output has the words that a page shows.

    `...` stands for anything, and a number for any number: the pages show the figures of models of
    a real size. How lines are broken, and the length of rules, are left out.
    """
    parts = [re.escape(_plain(part)) for part in re.split(r"\.\.\.", shown)]
    return re.fullmatch(".*?".join(parts).replace(r"\ ", " *"), _plain(output)) is not None


def _plain(text: str) -> str:
    """Text with `0` for each number and one space for each gap."""
    return re.sub(r"─+", "─", " ".join(_NUMBER.sub("0", text).split()))
