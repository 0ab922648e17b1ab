"""Fields that are checked against their annotations: the one mechanism of validation."""

from __future__ import annotations

import functools
import math
import sys
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cflow_ad.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, declared at its field; `open` excludes the bounds themselves."""

    low: float
    high: float = math.inf
    open: bool = False

    def __contains__(self, value: float) -> bool:
        if self.open:
            return self.low < value < self.high
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.open:
            upper = f" and less than {self.high:g}" if math.isfinite(self.high) else ""
            return f"greater than {self.low:g}{upper}"
        bounded = math.isfinite(self.high)
        return f"{self.low:g} to {self.high:.10g}" if bounded else f"at least {self.low:g}"


class Checked:
    """A dataclass whose fields are checked against their annotations when it is made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, hint in field_types(typing.cast(Any, type(self))).items():
            _check(name, getattr(self, name), hint)


@functools.cache
def field_types(owner: type[Any]) -> dict[str, Any]:
    """Return the annotations of a class by field, with their ranges."""
    return typing.get_type_hints(owner, include_extras=True)


def _check(name: str, value: Any, hint: Any) -> None:
    """Check a value against its field's annotation; the message names the field."""
    bounds: list[Range] = []
    if typing.get_origin(hint) is Annotated:
        hint, *bounds = typing.get_args(hint)
    if not _is_of(value, hint):
        raise SettingsError(f"{name} is {value!r}: it must be {describe_type(hint)}")
    for allowed in bounds:
        if value is not None and value not in allowed:
            raise SettingsError(f"{name} is {value!r}: it must be {allowed}")


def _is_of(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(type(item) is int for item in value)
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, one) for one in arguments)
    if hint is float:
        # Of whole numbers some are beyond every float.
        return (type(value) is int and abs(value) <= sys.float_info.max) or (
            type(value) is float and math.isfinite(value)
        )
    if hint in (int, bool):
        return type(value) is hint
    return isinstance(value, hint)


def strip_none(hint: Any) -> Any:
    """Return the annotation without the None that it allows."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
    return hint


def describe_type(hint: Any) -> str:
    """Say in words what values an annotation allows."""
    if typing.get_origin(hint) is Literal:
        return " or ".join(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "whole numbers with commas between"
    hint = strip_none(hint)
    names = {float: "a finite number", int: "a whole number", bool: "true or false"}
    return names.get(hint, "text")


def parse_as(name: str, hint: Any, text: str) -> Any:
    """Read a field's value as it is written on a command line.

    Raises:
        SettingsError: the text is not a value of its kind.
    """
    kind = strip_none(typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint)
    try:
        if typing.get_origin(kind) is tuple:
            return tuple(int(part) for part in text.split(",")) if text else ()
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError) as error:
        raise SettingsError(f"{name} is {text!r}: it must be {describe_type(kind)}") from error
