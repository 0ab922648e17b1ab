"""The model store: versions of each product's model, and which of them is promoted.

Keys of the store, none of which is ever overwritten::

    models/SHA256.safetensors       a model file, by the SHA-256 of its bytes
    versions/PRODUCT/VERSION.json   what a version is, and the SHA-256 of its model
    promotions/PRODUCT/NUMBER.json  the pointer: the first entry counts, as numbers fall
    runs/RUN/products.json          what a run of `fleet train` was asked for
    runs/RUN/failed/PRODUCT.json    why a product failed in it
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cflow_ad.errors import StoreError
from cflow_ad.files import replacing
from cflow_ad.fleet.objects import open_objects
from cflow_ad.fleet.versions import Version, now, part_of

_LAST = 10**9 - 1  # the number of the first promotion; later ones count down
_DEPTH = 100  # promotions that can be taken back
_READERS = 16


class ModelStore:
    """Models of many products, in a folder or in an object store.

    Args:
        place: as for `open_objects`.

    Raises:
        StoreError: `place` is no place for a store.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.objects = open_objects(place)

    @property
    def name(self) -> str:
        """The folder or the URL."""
        return self.objects.name

    def versions(self, product: str | None = None) -> list[Version]:
        """Return the versions of a product, or of all, the oldest first.

        Raises:
            StoreError: The store cannot be read, or a record in it is damaged.
        """
        prefix = "versions/" if product is None else f"versions/{part_of(product)}/"
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(self._version_at, self.objects.keys(prefix)))
        return sorted(found, key=lambda version: (version.finished, version.version))

    def find(self, product: str, version: str) -> Version | None:
        """Return a version, or None where there is none of this name."""
        key = _version_key(product, version)
        return self._version_at(key) if self.objects.exists(key) else None

    def get(self, product: str, version: str | None = None) -> Version:
        """Return a version; unset, the promoted one.

        Raises:
            StoreError: There is none.
        """
        version = version or self.promoted(product)
        if version is None:
            raise StoreError(
                f"{self.name}: there is no model of {product!r}; `cflow-ad fleet status` lists the "
                "products"
            )
        return self._version_at(_version_key(product, self._whole(product, version)))

    def add(self, version: Version, model: bytes) -> Version:
        """Add a version and its model; the first of a product is promoted.

        Whatever is killed, a version is there with its model or not at all. Where one of this name
        is there already, that one stays.

        Returns:
            The version that is in the store.
        """
        if hashlib.sha256(model).hexdigest() != version.sha256:
            raise StoreError(f"{version.product}: the model is not the one that the version names")
        self.objects.create(_model_key(version.sha256), model)
        key = _version_key(version.product, version.version)
        if not self.objects.create(key, _json(asdict(version))):
            version = self._version_at(key)
        self.settle(version)
        return version

    def settle(self, version: Version) -> None:
        """Promote a version that is in the store if the product has none promoted."""
        if self.promoted(version.product) is None:
            entry = _Promotion(_LAST, [version.version], "train")
            self._create(version.product, entry)

    def read(self, version: Version) -> bytes:
        """Read the model file of a version.

        Raises:
            StoreError: It is missing, or its bytes are not those that were stored.
        """
        model = self.objects.read(_model_key(version.sha256))
        if hashlib.sha256(model).hexdigest() != version.sha256:
            raise StoreError(
                f"{self.name}: the model of {version.product} is damaged; remove "
                f"{_model_key(version.sha256)} and {_version_key(version.product, version.version)}"
                ", and train it again"
            )
        return model

    def pull(self, product: str, out: Path, version: str | None = None) -> Version:
        """Write a product's model file; unset, the promoted version's.

        Raises:
            StoreError: There is none, or it is damaged.
            OSError: The file cannot be written.
        """
        found = self.get(product, version)
        model = self.read(found)
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as new:
            new.write_bytes(model)
        return found

    def promoted(self, product: str) -> str | None:
        """Return the name of the version that is promoted; None where the product has none."""
        pointer = self._pointer(product)
        return None if pointer is None else pointer.stack[-1]

    def all_promoted(self) -> dict[str, str]:
        """Return the promoted version's name of every product, by one listing of the store."""
        first: dict[str, str] = {}
        for key in self.objects.keys("promotions/"):
            first.setdefault(key.split("/")[1], key)
        with ThreadPoolExecutor(_READERS) as pool:
            pointers = list(pool.map(self._pointer_at, first.values()))
        names = map(unquote, first)
        return {name: found.stack[-1] for name, found in zip(names, pointers, strict=True)}

    def promote(self, product: str, version: str | None = None) -> str:
        """Make a version the one that is used; unset, the newest.

        Returns:
            The version's whole name.

        Raises:
            StoreError: There is none.
        """
        if version is None:
            versions = self.versions(product)
            if not versions:
                raise StoreError(f"{self.name}: there is no model of {product!r}; train it first")
            version = versions[-1].version
        else:
            version = self._whole(product, version)
        while True:
            pointer = self._pointer(product)
            stack = [] if pointer is None else pointer.stack
            if stack and stack[-1] == version:
                return version
            number = _LAST if pointer is None else pointer.number - 1
            entry = _Promotion(number, [*stack, version][-_DEPTH:], "promote")
            if self._create(product, entry):
                return version

    def rollback(self, product: str) -> str:
        """Make the version that was promoted before the one that is used again.

        Returns:
            The version's name.

        Raises:
            StoreError: There is none.
        """
        while True:
            pointer = self._pointer(product)
            if pointer is None or len(pointer.stack) < 2:
                raise StoreError(
                    f"{self.name}: no other version of {product!r} was promoted before; "
                    "`cflow-ad fleet promote` chooses one"
                )
            entry = _Promotion(pointer.number - 1, pointer.stack[:-1], "rollback")
            if self._create(product, entry):
                return entry.stack[-1]

    def add_run(self, run: str, products: list[dict[str, Any]]) -> None:
        """Record what a run was asked for."""
        self.objects.create(f"runs/{run}/products.json", _json({"products": products}))

    def add_failure(self, run: str, product: str, failure: Mapping[str, Any]) -> None:
        """Record why a product failed in a run."""
        self.objects.create(f"runs/{run}/failed/{part_of(product)}.json", _json(failure))

    def last_run(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """Return what the last run was asked for, and its failures by product."""
        runs: dict[str, list[str]] = {}
        for key in self.objects.keys("runs/"):
            runs.setdefault(key.split("/")[1], []).append(key)
        whole = [run for run, keys in runs.items() if f"runs/{run}/products.json" in keys]
        if not whole:
            return [], {}
        run = max(whole)
        failed = [key for key in runs[run] if key.startswith(f"runs/{run}/failed/")]
        names = [unquote(key.split("/")[3].removesuffix(".json")) for key in failed]
        return (
            self._read_json(f"runs/{run}/products.json")["products"],
            dict(zip(names, map(self._read_json, failed), strict=True)),
        )

    def _whole(self, product: str, version: str) -> str:
        """Complete the beginning of a version's name."""
        keys = self.objects.keys(f"versions/{part_of(product)}/")
        names = [Path(key).stem for key in keys if Path(key).name.startswith(version)]
        if len(names) != 1:
            several = "several versions" if names else "no version"
            raise StoreError(
                f"{self.name}: {several} of {product!r} begin with {version!r}; `cflow-ad fleet "
                "status --all` lists them"
            )
        return names[0]

    def _version_at(self, key: str) -> Version:
        try:
            return Version(**self._read_json(key))
        except TypeError as error:
            raise StoreError(f"{self.name}: {key} is damaged, or of another version") from error

    def _pointer(self, product: str) -> _Promotion | None:
        newest = next(islice(self.objects.keys(f"promotions/{part_of(product)}/"), 1), None)
        return None if newest is None else self._pointer_at(newest)

    def _pointer_at(self, key: str) -> _Promotion:
        stack = self._read_json(key)["stack"]
        return _Promotion(int(Path(key).stem), stack, "")

    def _create(self, product: str, entry: _Promotion) -> bool:
        content = {"stack": entry.stack, "by": entry.by, "at": now()}
        key = f"promotions/{part_of(product)}/{entry.number:09}.json"
        return self.objects.create(key, _json(content))

    def _read_json(self, key: str) -> dict[str, Any]:
        try:
            found = json.loads(self.objects.read(key))
        except ValueError as error:
            raise StoreError(f"{self.name}: {key} is damaged; remove it") from error
        return dict(found)


@dataclass(frozen=True)
class _Promotion:
    number: int
    stack: list[str]
    """Versions that were promoted, the one that is used last."""
    by: str


def _model_key(sha256: str) -> str:
    return f"models/{sha256}.safetensors"


def _version_key(product: str, version: str) -> str:
    return f"versions/{part_of(product)}/{version}.json"


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, sort_keys=True, indent=1).encode()
