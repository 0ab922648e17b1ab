"""The settings as the source documents them: their defaults and the texts beside the fields."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
from typing import Any, NamedTuple

import typer

from cflow_ad.method import PaperSchedule
from cflow_ad.settings import Settings


class SettingDescription(NamedTuple):
    """One setting, for people."""

    name: str
    default: str
    meaning: str


@functools.cache
def describe_settings() -> tuple[SettingDescription, ...]:
    """Describe every setting that `--set` takes, those of the paper's schedule last."""
    own = [each for each in _describe(Settings, "") if each.name not in ("method", "paper")]
    return (*own, *_describe(PaperSchedule, "paper."))


def setting_option(name: str) -> Any:
    """A command-line option for a setting, with its text and its default."""
    setting = next(each for each in describe_settings() if each.name == name)
    default = f" [default: {setting.default}]" if setting.default else ""
    return typer.Option(help=setting.meaning + default, show_default=False)


def _describe(owner: type[Any], prefix: str) -> list[SettingDescription]:
    """Describe the fields of a dataclass by the string that follows each in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in itertools.pairwise(body.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(meaning))
            ):
                texts[name] = " ".join(meaning.split())
    return [
        SettingDescription(prefix + field.name, _format(field.default), texts[field.name])
        for field in dataclasses.fields(owner)
    ]


def _format(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "" if default is None else str(default)
