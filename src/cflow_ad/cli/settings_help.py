"""What there is to be set, told in the words of the source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from typing import NamedTuple

from cflow_ad.settings import Settings


class SettingDescription(NamedTuple):
    """One setting, for people."""

    name: str
    default: str
    meaning: str


def describe_settings() -> list[SettingDescription]:
    """Every setting with its default and the text that stands beside it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(Settings))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in itertools.pairwise(body.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(said))
            ):
                texts[name] = " ".join(said.split())
    return [
        SettingDescription(field.name, _written(field.default), texts[field.name])
        for field in dataclasses.fields(Settings)
    ]


def _written(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "" if default is None else str(default)
