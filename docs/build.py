"""Build the manual as HTML, without a network: its pages, and the Python API from the docstrings.

    make docs

The order of the pages is that of the links in `index.md`. Everything is written anew to
`build/manual`.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import warnings
from collections.abc import Iterator
from html import escape
from pathlib import Path
from unittest import mock

import latex2mathml.converter
import pdoc
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from cflow_ad.scoring.base import BaseDetector

DOCS = Path(__file__).parent
THEME = DOCS / "theme"
BESIDE = (DOCS.parent / "benchmarks" / "RESULTS.md", DOCS.parent / "benchmarks" / "ABLATION.md")
"""Pages elsewhere that the manual links to."""
FIRST = ("Detector", "Prediction", "Region", "Settings")
"""Of the public names, those that a reader looks for."""
API = "cflow_ad.html"
MODULES = ("cflow_ad", "!cflow_ad.", "cflow_ad.runtime.detector", "cflow_ad.station.client")
"""Modules whose names a program of one's own uses; `!` leaves out those of a name."""


def main(out: Path) -> None:
    """Write everything to a folder, which is emptied."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    write_api(out)
    for page in [*sorted(DOCS.glob("*.md")), *BESIDE]:
        write_page(page, contents, out)
    shutil.copy(THEME / "manual.css", out)
    print(out / "index.html")


def slug(heading: str) -> str:
    """Return a heading's anchor, as GitHub has it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def build_parser() -> MarkdownIt:
    """Build what reads the pages: CommonMark with tables, math and anchors of headings."""
    parser = MarkdownIt("commonmark", {"highlight": colour}).enable("table")
    parser.use(dollarmath_plugin, renderer=to_mathml, allow_digits=False, allow_space=False)
    return parser.use(anchors_plugin, max_level=3, slug_func=slug)


def colour(code: str, language: str, _: str) -> str:
    """Colour a block of code; `console` has commands after `$` and their output."""
    if not language:
        return escape(code)
    lexer = get_lexer_by_name(language)
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


def to_mathml(formula: str, options: dict[str, bool]) -> str:
    """Convert a formula, which browsers draw themselves."""
    display = "block" if options["display_mode"] else "inline"
    return latex2mathml.converter.convert(formula.strip(), display=display)


def links_of(text: str) -> Iterator[str]:
    """Yield the addresses of a page's links and pictures."""
    for token in flatten(build_parser().parse(text)):
        if (address := token.attrGet("href") or token.attrGet("src")) is not None:
            yield str(address)


def flatten(tokens: list[Token]) -> Iterator[Token]:
    """Yield tokens and those within them."""
    for token in tokens:
        yield token
        yield from flatten(token.children or [])


def write_page(page: Path, contents: str, out: Path) -> None:
    """Write a page, with the list of all pages beside it, and copy the files that it links to."""
    parser = build_parser()
    text = page.read_text(encoding="utf-8")
    tokens = parser.parse(text)
    for token in flatten(tokens):
        for name in ("href", "src"):
            if (address := token.attrGet(name)) is not None:
                token.attrSet(name, resolve(str(address), page, out))
    title = next(t.content for t in tokens if t.type == "inline")
    target = out / f"{page.stem}.html"
    target.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} - cflow-ad</title>\n"
        f'<link rel="stylesheet" href="manual.css"></head><body>\n'
        f"<nav>{build_navigation(contents, target.name)}</nav>\n"
        f"<main>{parser.renderer.render(tokens, parser.options, {})}</main></body></html>\n",
        encoding="utf-8",
    )


def resolve(address: str, page: Path, out: Path) -> str:
    """Return where a link leads in the built manual; a file that it names is copied there."""
    if re.match(r"[a-z]+:|#", address):
        return address
    path, _, anchor = address.partition("#")
    found = (page.parent / path).resolve()
    if found.suffix == ".md":
        return f"{found.stem}.html" + (f"#{anchor}" if anchor else "")
    target = out / found.name
    if found.is_file():
        shutil.copy(found, target)
    return target.name


def build_navigation(contents: str, current: str) -> str:
    """Build the list of pages: the headings and links of `index.md`."""
    lines = ['<a class="home" href="index.html">cflow-ad</a>']
    for heading, title, address in re.findall(
        r"^## (.+)$|^- \[(.+?)\]\((.+?)\)", contents, re.MULTILINE
    ):
        if heading:
            lines.append(f"<h2>{escape(heading)}</h2>")
            continue
        name = address.removesuffix(".md")
        here = ' aria-current="page"' if f"{Path(name).name}.html" == current else ""
        lines.append(f'<a href="{Path(name).name}.html"{here}>{escape(title)}</a>')
    lines.append(f'<h2>Reference</h2><a href="{API}">Python API</a>')
    return "\n".join(lines)


def write_api(out: Path) -> None:
    """Write the reference of the public modules."""
    face = importlib.import_module("cflow_ad")
    runtime = importlib.import_module("cflow_ad.runtime.detector")
    for name in face.__all__:  # they are imported when they are first used, and pdoc must see them
        setattr(face, name, getattr(face, name))
    others = [name for name in face.__all__ if name not in FIRST]
    errors = [name for name in others if name.endswith(("Error", "Warning"))]
    order = [*FIRST, *(name for name in others if name not in errors), *errors]
    pdoc.render.configure(
        docformat="google",
        show_source=False,
        template_directory=THEME,
        footer_text=f"cflow-ad {face.__version__}",
    )
    with contextlib.ExitStack() as changed, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pdoc.doc_types")  # names that only mypy imports
        changed.enter_context(mock.patch.object(face, "__all__", order))
        for detector in (face.Detector, runtime.Detector):
            for name, member in vars(BaseDetector).items():  # shown where they are used
                if not name.startswith("_") and name not in vars(detector):
                    changed.enter_context(mock.patch.object(detector, name, member, create=True))
        pdoc.pdoc(*MODULES, output_directory=out)


if __name__ == "__main__":
    main(DOCS.parent / "build" / "manual")
