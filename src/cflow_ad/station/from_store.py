"""Serve the promoted models of a model store, and follow its promotions."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cflow_ad.errors import StationError
from cflow_ad.fleet.models import ModelStore
from cflow_ad.station.config import StationConfig
from cflow_ad.station.model_files import name_of
from cflow_ad.station.registry import PROMOTED_IN, Registry

_AUTHOR = "store"


class StoreFollower:
    """Takes over what is promoted in a store.

    Args:
        config: of the station, with a store.
        registry: of the station.

    Raises:
        StoreError: there is no such store.
    """

    def __init__(self, config: StationConfig, registry: Registry) -> None:
        assert config.store is not None, "only a station with a store has a follower"
        self._store = ModelStore(config.store)
        self._registry = registry
        self._seen: dict[str, str] = {}

    def follow(self) -> list[str]:
        """Put to use what was promoted since the last time, under the products' names.

        Returns:
            The models of which another version is in use now.

        Raises:
            StoreError: the store or a model in it cannot be read.
            StationError: two products have one name here.
        """
        promoted = self._store.all_promoted()
        names: dict[str, str] = {}
        for product in promoted:
            name = name_of(Path(f"{product}.safetensors"))
            if (other := names.setdefault(name, product)) != product:
                raise StationError(f"the products {other!r} and {product!r} are both {name} here")
        changed = []
        for name, product in names.items():
            if self._seen.get(product) != promoted[product]:
                if self._take_over(name, product, promoted[product]):
                    changed.append(name)
                self._seen[product] = promoted[product]
        return changed

    def _take_over(self, name: str, product: str, version: str) -> bool:
        """Put a version to use; False where it is in use already."""
        found = self._store.get(product, version)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.safetensors"
            path.write_bytes(self._store.read(found))
            origin = f"{self._store.name}: {product}, version {version}"
            number = self._registry.add(name, path, origin=origin, author=_AUTHOR)
        if self._registry.number_in_use(name) == number:
            return False
        self._registry.promote(name, number, _AUTHOR, f"{PROMOTED_IN}{self._store.name}")
        return True
