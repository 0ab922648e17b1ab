"""The manifest of a fleet: a CSV file with a line for each product."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cflow_ad.data.table import read_table
from cflow_ad.errors import DataError, SettingsError, StoreError
from cflow_ad.fleet.objects import is_url
from cflow_ad.fleet.versions import check_product
from cflow_ad.settings import Settings

REQUIRED = ("product", "good")
PRESET = "preset"


@dataclass(frozen=True)
class Product:
    """One line of a manifest."""

    name: str
    good: str
    """The folder of good images, or whatever else `Detector.fit` takes."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from those of the preset."""
    preset: str = "default"
    error: str = ""
    """Why the line cannot be used; the other lines can."""

    def settings(self) -> Settings:
        """Return the settings.

        Raises:
            SettingsError: A value is out of its range.
        """
        if self.error:
            raise SettingsError(self.error)
        return Settings.preset(self.preset, **self.changes)


def read_manifest(
    file: Path, *, preset: str = "default", changes: Mapping[str, Any] | None = None
) -> list[Product]:
    """Read a manifest.

    Its columns are `product`, a name; `good`, the folder of good images, relative to the folder
    that the manifest is in; and, if wanted, `preset` and one for each setting. An empty cell leaves
    a setting as it is.

    Args:
        file: The CSV file.
        preset: Settings to start from where a line names none.
        changes: Settings that differ, of every product; a line's own come first.

    Returns:
        At least one product. A line with a wrong value has its `error`.

    Raises:
        DataError: The file cannot be read, or names no or one product twice.
        SettingsError: A column is no setting.
    """
    products: list[Product] = []
    lines: dict[str, int] = {}
    for line, row in read_table(file, REQUIRED):
        where = f"{file}, line {line}"
        if not lines:
            _check_columns(file, row)
        product = _read_row(row, file.parent, where, preset, changes or {})
        if (first := lines.setdefault(product.name, line)) != line:
            raise DataError(
                f"{where}: the product {product.name!r} is on line {first} already; list each once"
            )
        products.append(product)
    if not products:
        raise DataError(f"{file}: no products are listed; add a line for each: product,good")
    return products


def _check_columns(file: Path, row: Mapping[str, str]) -> None:
    for column in row:
        if column not in (*REQUIRED, PRESET):
            try:
                Settings.parse(column, "")
            except SettingsError as error:
                if "unknown setting" in str(error):
                    raise SettingsError(f"{file}: {error}") from None


def _read_row(
    row: dict[str, str], root: Path, where: str, preset: str, changes: Mapping[str, Any]
) -> Product:
    name, good = row.pop("product"), row.pop("good")
    own = row.pop(PRESET, "") or preset
    error = ""
    given = dict(changes)
    try:
        check_product(name)
    except StoreError as found:
        raise DataError(f"{where}: {found}") from None
    try:
        if not good:
            raise DataError("the cell good is empty; name a folder of good images")
        given |= {column: Settings.parse(column, text) for column, text in row.items() if text}
        Settings.preset(own, **given)
    except (DataError, SettingsError) as found:
        error = f"{where}: {found}"
    place = good if is_url(good) else os.path.normpath(root / good)
    return Product(name, place, given, own, error)
