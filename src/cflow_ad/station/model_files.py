"""The files of models, copied into the station's own folder under their hash.

The model that scored a part stays there as it was, whatever becomes of the file that it came from.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from cflow_ad.errors import StationError
from cflow_ad.runtime.opening import files_of


def name_of(path: Path) -> str:
    """Return a model's name, from its file's: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip(".-")[:100] or "model"


def hash_model(path: Path) -> str:
    """Hash a model's files (SHA-256), in hexadecimal.

    Raises:
        StationError: a file cannot be read.
    """
    total = hashlib.sha256()
    try:
        for each in files_of(path):
            with each.open("rb") as file:
                while block := file.read(2**20):
                    total.update(block)
    except OSError as error:
        raise StationError(f"{path}: the model cannot be read ({error.strerror})") from error
    return total.hexdigest()


def keep_copy(path: Path, sha256: str, place: Path) -> Path:
    """Copy a model's files into a folder of their own in `place`, whole or not at all.

    Returns:
        The copy; the one of before where it is there and whole.

    Raises:
        StationError: it cannot be copied.
    """
    folder = place / sha256[:32]
    target = folder / path.name
    if folder.is_dir():
        found = next((each for each in folder.iterdir() if each.suffix == path.suffix), None)
        if found is not None and hash_model(found) == sha256:
            return found
        shutil.rmtree(folder)
    new = folder.with_name(folder.name + ".new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for each in files_of(path):
            shutil.copyfile(each, new / each.name)
        new.replace(folder)
    except OSError as error:
        raise StationError(f"{path}: it cannot be copied to {folder} ({error})") from error
    return target
