"""Files that are written whole or not at all, and folders to write to."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cflow_ad.errors import CflowError, DataError

_BLOCK = 2**22
_LONG_NAME = 224  # bytes; a file system takes 255


@contextlib.contextmanager
def replacing(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """Write a file in place of an earlier one, which stays until the new one is complete.

    Args:
        path: The file. Its folder must exist; the file need not.
        flushed: Wait until the disk has the file, so that it outlives a crash of the machine. Not
            worth its time for many small files that can be made again.

    Yields:
        Where to write it. At the end of the block it gets its name; if the block raises, it is
        removed. Only a process that is killed leaves it behind.

    Raises:
        OSError: It cannot be written, or put in its place; it names the file.
    """
    # A name of the greatest length leaves no room for more.
    name = path.name if len(os.fsencode(path.name)) < _LONG_NAME else path.name[:32]
    new = path.with_name(f".{name}.{os.getpid()}.new")
    try:
        with naming(path):
            yield new
            if flushed:
                with new.open("r+b") as file:
                    os.fsync(file.fileno())  # else a crash could leave the name on an empty file
            new.replace(path)
            if flushed:
                _flush_names(path.parent)
    except OSError as error:
        if error.filename in (new, os.fspath(new)):  # a name that means nothing to a person
            error.filename = os.fspath(path)
            del error.filename2
        raise
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write one of many small files, or overwrite it, whole or not at all; text as UTF-8.

    Raises:
        OSError: It cannot be written; it names the file.
    """
    # A file name in a text may hold any bytes.
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    with replacing(path, flushed=False) as new:
        new.write_bytes(data)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file or folder in an OSError that names none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


@contextlib.contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Turn what a system raises for a file that cannot be written into a DataError.

    Args:
        what: the file is, in a word.
        path: of the file.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: the {what} cannot be written ({error.strerror}); check its "
            "permissions and the free space of the disk"
        ) from error


def _flush_names(folder: Path) -> None:
    """Write a folder's names to its disk, where the system can: a new one then outlives a crash."""
    with contextlib.suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_or_copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give a file that never changes a second name; on another disk, copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def reserve(path: Path, n_bytes: int) -> None:
    """Lengthen a file to so many bytes, which its disk then has; what it holds stays.

    A file that is only made long has its space when it is written. Where the disk is full by then,
    a write to a memory map ends the process.

    Raises:
        OSError: There is not enough space, or files may not be so long.
    """
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, max(1, n_bytes))
            return
        file.seek(0, os.SEEK_END)
        while (left := n_bytes - file.tell()) > 0:
            file.write(bytes(min(left, _BLOCK)))


def is_full(error: OSError) -> bool:
    """Return whether an error says that there is no space: on the disk, of a quota or limit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_space(folder: Path) -> int:
    """Return how many bytes may be written to a folder's disk."""
    return shutil.disk_usage(folder).free


def require_writable(path: Path, error: type[CflowError] = DataError) -> None:
    """See that a file or folder can be made, before the work whose result it is; nothing is made.

    Raises:
        CflowError: of the type `error`: it is a device, or lies below a file, or where nothing can
            be written.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise error(f"{path}: {folder} is a file, not a folder; choose another path")
    if not os.access(folder, os.W_OK):
        raise error(f"{path}: no permission to write in {folder}; choose another path")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise error(f"{path}: this is a device, not a file; choose another path")


def require_empty(folder: Path) -> None:
    """Raise a DataError if a folder is a file, or not empty; it need not exist."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder that is empty or does not exist yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(
            f"the folder {folder} is not empty; empty it, or name one that is or does not exist yet"
        )


def claim(out: Path) -> None:
    """Make a folder, or check that it is empty.

    Raises:
        DataError: `out` is a file, or a folder that is not empty, or cannot be made.
    """
    require_empty(out)
    make_folder(out)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        DataError: it is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be made ({error.strerror})") from error
