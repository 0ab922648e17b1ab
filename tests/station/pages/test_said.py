"""What the server says has a text in every language but English, which is its own."""

from __future__ import annotations

import ast
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import cflow_ad
from cflow_ad.errors import CflowError
from cflow_ad.fitting.progress import Stage
from cflow_ad.station.describing import REASONS
from cflow_ad.station.pages.rendering import LANGUAGES, read_texts
from cflow_ad.station.permission import ROLES
from cflow_ad.station.refusal import LIMITS, Refusal, refuse, say
from cflow_ad.station.training import child

ROOT = Path(cflow_ad.__file__).parent
REFUSALS = {"Refusal", "HTTPException", "QueueFullError", "UnavailableError"}
REFUSALS |= {"ImageError", "CameraError"}
ASKED = {"marks", "jobs", "parts"}
"""Files of the station whose every error answers a request."""


def calls(*folders: str) -> Iterator[tuple[Path, ast.Call]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield path, node


def codes_of(node: ast.AST) -> list[str]:
    """The codes that an expression may be."""
    if isinstance(node, ast.JoinedStr):
        assert ast.unparse(node) == "f'role.{role}'"
        return [f"role.{role}" for role in ROLES]
    return [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]


def coded() -> Iterator[tuple[str, set[str]]]:
    """Each code in the source, with the names of its values."""
    for _, call in calls("."):
        given = {each.arg: each.value for each in call.keywords if each.arg}
        if "code" in given and not isinstance(given["code"], ast.Name | ast.Attribute):
            for code in codes_of(given["code"]):
                if code:
                    yield code, given.keys() - {"code", "headers"}
    yield from ((code, {"origin"}) for code in REASONS.values())
    yield from ((code, {"file"}) for code in child.CODES.values())
    yield "invalid.rule", {"field"}
    yield from ((f"invalid.{kind}", {"field", "n"}) for kind in LIMITS)


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_each_code_has_a_text_that_names_only_what_comes_with_it(language):
    texts = read_texts(language)
    said = {key.removeprefix("said."): text for key, text in texts.items() if key[:5] == "said."}
    found = list(coded())
    assert {code for code, _ in found} == {code for code in said if code[:6] != "field."}
    for code, names in found:
        assert set(re.findall(r"\{(\w+)\}", said[code])) <= names - {"name"}, code


def test_what_is_refused_has_a_code():
    """No request is refused without one, and no picture."""
    missing = []
    for path, call in calls("station", "data/decoding", "scoring", "runtime"):
        name = getattr(call.func, "id", "")
        refuses = name in REFUSALS or (name == "StationError" and path.stem in ASKED)
        if refuses and not any(each.arg == "code" for each in call.keywords):
            missing.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert missing == []


def test_each_stage_of_a_training_has_a_text():
    stages = {*typing.get_args(Stage), "compare"}
    assert stages == {key[6:] for key in read_texts("en") if key.startswith("stage.")}


def test_an_error_says_the_same_as_an_answer_and_as_an_event():
    error = CflowError("part.png: too odd", code="image.odd", name="part.png", n=3)
    told = {"code": "image.odd", "values": {"name": "part.png", "n": 3}}
    assert say(error) == {"text": "part.png: too odd", **told}
    answer = refuse(422, error).answer()
    assert answer.status_code == 422
    assert answer.body == (
        b'{"detail":"part.png: too odd","code":"image.odd","values":{"name":"part.png","n":3}}'
    )
    assert say(CflowError("plain")) == {"text": "plain"}
    assert (
        Refusal(404, "no", code="x", headers={"Retry-After": "1"}).answer().headers["retry-after"]
        == "1"
    )
