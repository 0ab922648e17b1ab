"""Unpack an archive that need not be trusted: whole or not at all, and nowhere but its folder."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from cflow_ad.errors import DataError


def unpack(
    file: Path, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Unpack a tar archive, compressed or not, into a folder of its own.

    The files go into `FOLDER.unpacking`, which takes the folder's name when all of them are there;
    it is removed if that does not come about. Owners and access rights in the archive are ignored.

    Args:
        file: the archive.
        folder: made here; it may exist if it is empty.
        progress: called with the bytes of the archive read and those it has.

    Raises:
        DataError: the archive is damaged; or it holds a link or a device, or a file that would lie
            outside the folder. Nothing is left of it.
        OSError: a file cannot be read or written.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError(
            f"{file}: this Python cannot unpack it safely; use 3.11.4 or newer, or unpack it by "
            f"hand into {folder}"
        )
    new = folder.with_name(folder.name + ".unpacking")
    if new.exists():
        shutil.rmtree(new)
    try:
        new.mkdir(parents=True)
        _extract(file, new, progress)
        if folder.exists():
            folder.rmdir()
        new.replace(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _extract(file: Path, folder: Path, progress: Callable[[int, int], None]) -> None:
    total = file.stat().st_size
    try:
        with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as archive:
            for member in archive:
                if fault := _fault(member):
                    raise DataError(
                        f"{file}: refused, since {member.name!r} in it {fault}; nothing was "
                        "unpacked; get the archive from its maker"
                    )
                archive.extract(member, folder, filter="data")
                progress(raw.tell(), total)
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{file}: the archive is damaged, or is none ({reason}); nothing was unpacked; get it "
            "again"
        ) from error


def _fault(member: tarfile.TarInfo) -> str:
    """Why a member is refused; empty where it is not.

    The data filter of `tarfile` would mend some of these instead, and lets links within the folder
    pass, through which others have got out. Data sets need neither.
    """
    path = PureWindowsPath(member.name)  # knows slashes of both kinds, and drives
    if path.anchor or ".." in path.parts:
        return "would be written outside the folder"
    if not (member.isreg() or member.isdir()):
        return "is neither a file nor a folder"
    return ""
