"""Find images that a file lists by paths of another machine."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from cflow_ad.data.layouts.reading import some
from cflow_ad.data.listing import is_image, walk
from cflow_ad.errors import DataError


class FilesBelow:
    """The images below a folder, found by the end of their paths."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._missing: list[str] = []
        self._by_name: dict[str, list[Path]] = {}
        for _, files in walk(folder):
            for file in filter(is_image, files):
                self._by_name.setdefault(file.name, []).append(file)

    def find(self, key: str) -> Path | None:
        """Find the image whose path has the longest end in common with a key's; None if none has.

        Raises:
            DataError: Two images have it.
        """
        parts = PurePosixPath(key.removeprefix("s3://").replace("\\", "/")).parts
        best: list[Path] = []
        longest = 0
        for file in self._by_name.get(parts[-1], []):
            own = file.relative_to(self._folder).parts
            same = 0
            for one, other in zip(reversed(parts), reversed(own), strict=False):
                if one != other:
                    break
                same += 1
            if same > longest:
                best, longest = [], same
            if same == longest:
                best.append(file)
        if len(best) > 1:
            raise DataError(
                f"{key}: {best[0]} and {best[1]} both fit; keep the folders of this name below "
                f"{self._folder}"
            )
        if not best:
            self._missing.append(key)
            return None
        return best[0]

    def require_all(self, file: Path, what: str) -> None:
        """Raise a DataError if images that `file` lists were not found."""
        if self._missing:
            raise DataError(
                f"{file}: {len(self._missing)} images are not below {self._folder} "
                f"({some(self._missing, 2)}); copy {what} there, in their folders"
            )
