"""Both languages have every text that the page uses, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cflow_ad.station import pages
from cflow_ad.station.pages.rendering import LANGUAGES, choose_language, read_texts
from cflow_ad.station.pages.routes import THEMES, VIEWS

ROOT = Path(pages.__file__).parent
SOURCES = [*ROOT.rglob("*.js"), *ROOT.rglob("*.html")]


def used_keys() -> tuple[set[str], set[str]]:
    """Keys that stand as they are, and patterns of those that are put together."""
    whole, patterns = set(), set()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        whole |= set(re.findall(r"""["'`]([a-z_]+(?:\.[a-z_]+)*)["'`]""", text))
        # t(`verdict.${name}`) and t('role.' ~ name)
        parts = re.findall(r"\bt\(`([^`]*\$\{[^`]*)`", text)
        patterns |= {re.sub(r"\\\$\\\{.*\\\}", "[a-z_]+", re.escape(part)) for part in parts}
        patterns |= {
            re.escape(a) + "[a-z_]+" + re.escape(b)
            for a, b in re.findall(r"\bt\('([a-z_.]*)' ~ \w+(?: ~ '([a-z_.]*)')?\)", text)
        }
        patterns |= {"[a-z]+" + re.escape(b) for b in re.findall(r"\bt\(\w+ ~ '([a-z_.]+)'", text)}
    return whole, patterns


def test_every_text_is_there_and_used():
    texts = read_texts("en")
    whole, patterns = used_keys()
    asked = {
        key
        for path in SOURCES
        for key in re.findall(r"""\bt\(["']([a-z_.]+)["'][,)]""", path.read_text(encoding="utf-8"))
    }
    assert asked - texts.keys() == set()
    unused = {
        key
        for key in (text.removesuffix("_one") for text in texts)
        if key not in whole and not any(re.fullmatch(pattern, key) for pattern in patterns)
    }
    assert unused == set()


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_languages_agree(language):
    english, other = read_texts("en"), read_texts(language)
    assert english.keys() == {key for key in other if not key.startswith("said.")}
    for key, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", other[key])), key
        assert other[key].strip()


def test_texts_of_one_have_texts_of_many():
    texts = read_texts("en")
    assert all(key.removesuffix("_one") in texts for key in texts)


def test_each_view_and_theme_has_its_texts():
    texts = read_texts("en")
    assert all(f"{view}.title" in texts for view in VIEWS)
    assert all(f"settings.theme_{theme}" in texts for theme in THEMES)


@pytest.mark.parametrize(
    ("wanted", "accepted", "chosen"),
    [
        (None, "", "en"),
        (None, "de-AT,de;q=0.9", "de"),
        (None, "fr,de;q=0.1,en;q=0.2", "en"),
        ("de", "en", "de"),
        ("xx", "de;q=nonsense", "en"),
    ],
)
def test_a_language_is_chosen(wanted, accepted, chosen):
    assert choose_language(wanted, accepted) == chosen


def test_nothing_is_inline():
    """The content security policy allows no script and no style in the page itself."""
    for path in ROOT.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<style|style=|\son[a-z]+=|<script(?![^>]*src=)|javascript:", text)
    for path in ROOT.rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\beval\(|new Function|innerHTML|outerHTML|document\.write", text)
