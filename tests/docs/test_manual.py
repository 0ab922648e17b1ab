"""Links lead somewhere, every page is in the contents, and the manual builds without a network."""

from __future__ import annotations

import re
import socket
from html.parser import HTMLParser

import pytest

from docs import build
from tests.docs.blocks import ROOT

TEXTS = sorted(
    path for folder in (".", "docs", "benchmarks") for path in (ROOT / folder).glob("*.md")
)


def anchors_of(text):
    """The anchors of a text's headings."""
    tokens = build.build_parser().parse(text)
    return {token.attrGet("id") for token in tokens if token.type == "heading_open"}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for address in build.links_of(path.read_text(encoding="utf-8")):
        if re.match("[a-z]+:", address):
            continue
        name, _, anchor = address.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), address
        if anchor:
            assert anchor in anchors_of(target.read_text(encoding="utf-8")), address


def test_every_page_is_in_the_contents():
    listed = set(build.links_of((build.DOCS / "index.md").read_text(encoding="utf-8")))
    pages = {page.name for page in build.DOCS.glob("*.md")} - {"index.md"}
    assert pages <= listed


class Links(HTMLParser):
    """The addresses that a built page names."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def test_the_manual_builds_without_a_network(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    build.main(tmp_path / "manual")
    pages = sorted((tmp_path / "manual").glob("*.html"))
    assert {page.stem for page in TEXTS if page.parent == build.DOCS} <= {p.stem for p in pages}
    for page in pages:
        for address in Links(page.read_text(encoding="utf-8")).found:
            if not re.match("[a-z]+:|#", address):
                target = page.parent / address.partition("#")[0]
                assert target.exists(), f"{page.name}: {address}"
    api = (tmp_path / "manual" / build.API).read_text(encoding="utf-8")
    assert 'id="Detector.predict"' in api  # of the base class
    assert "out of its range" in api  # from a docstring
