"""Fetch a data set from its maker: resumed where it was broken off, checked, then unpacked."""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from cflow_ad._version import __version__
from cflow_ad.data.unpack import unpack
from cflow_ad.errors import DataError, SettingsError

Stage: TypeAlias = Literal["download", "verify", "unpack"]
ProgressCallback: TypeAlias = Callable[[Stage, int, int], None]

_PATIENCE = 30.0  # seconds without a byte after which a connection counts as broken
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A data set as its maker gives it out."""

    name: str
    """Of the data set."""

    url: str
    """Where the archive is; http or https."""

    filename: str
    """What it is called on disk."""

    sha256: str
    """Of the archive, 64 hexadecimal digits in lower case."""

    size: int
    """Of the archive, in bytes."""

    unpacked: int
    """What the files in it take on disk, in bytes, roughly."""

    contents: str
    """A folder in it, to tell where it has to lie."""

    page: str
    """Where a person gets it by hand."""

    terms: str
    """Licence and citation, to be agreed to before it is fetched."""


# Address and checksum as in anomalib's data module, and in independent projects that state the
# same SHA-256 and size of the file they were given.
MVTEC_AD = Archive(
    name="MVTec AD",
    url="https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/"
    "download/420938113-1629960298/mvtec_anomaly_detection.tar.xz",
    filename="mvtec_anomaly_detection.tar.xz",
    sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
    size=5_264_982_680,
    unpacked=5_400_000_000,
    contents="bottle/train/good",
    page="https://www.mvtec.com/company/research/datasets/mvtec-ad/downloads",
    terms="""\
MVTec AD, copyright 2019 MVTec Software GmbH.

Licence: Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International (CC BY-NC-SA 4.0),
https://creativecommons.org/licenses/by-nc-sa/4.0/
Not for commercial use; for that, ask MVTec Software GmbH.

MVTec asks for this citation in scientific work:
Paul Bergmann, Michael Fauser, David Sattlegger, Carsten Steger: MVTec AD - A Comprehensive
Real-World Dataset for Unsupervised Anomaly Detection; IEEE/CVF Conference on Computer Vision and
Pattern Recognition (CVPR), 9584-9592, 2019.""",
)


def download(
    archive: Archive,
    folder: Path,
    *,
    file: Path | None = None,
    keep: bool = False,
    progress: ProgressCallback = lambda stage, done, total: None,
) -> None:
    """Fetch a data set into a folder.

    What has been fetched lies beside the folder, as `FILENAME.part`, until all is unpacked: the
    same call goes on from there. An archive that lies there as `FILENAME` is used instead.

    Args:
        archive: whose terms have been agreed to.
        folder: a new or empty one.
        file: the archive, fetched by hand; it stays where it is.
        keep: leave the archive beside the folder, as `FILENAME`.
        progress: called with the stage, the bytes done and the bytes in all.

    Raises:
        DataError: the folder is not empty, the disk has too little room, the archive is not to be
            had, is another, or may not be unpacked. The message names the way out.
        SettingsError: the address is neither http nor https.
        OSError: a file cannot be read or written.
    """
    folder = folder.resolve()
    _check_folder(folder)
    part, kept = folder.parent / f"{archive.filename}.part", folder.parent / archive.filename
    if file is None and kept.is_file():
        file = kept
    missing = 0 if file is not None else max(0, archive.size - _size(part))
    _check_room(archive, folder, missing + archive.unpacked)
    if file is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _fetch(archive, part, progress)
        if (found := _sha256(part, progress)) != archive.sha256:
            part.unlink()
            raise DataError(
                f"{archive.url}: what was fetched is not {archive.name} as it was published: its "
                f"SHA-256 is {found}, not {archive.sha256}; it was removed; {_by_hand(archive)}"
            )
    else:
        if not file.is_file():
            raise DataError(f"{file}: there is no such file; {_by_hand(archive)}")
        if (found := _sha256(file, progress)) != archive.sha256:
            raise DataError(
                f"{file}: not the archive of {archive.name}, or cut short: its SHA-256 is {found}, "
                f"not {archive.sha256}; remove it, and {_by_hand(archive)}"
            )
    unpack(file or part, folder, lambda done, total: progress("unpack", done, total))
    if file is None and keep:
        part.replace(kept)
    elif file is None:
        part.unlink()


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: this is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; name a new folder")
    if Path.cwd().is_relative_to(folder):  # it will be replaced
        raise DataError(f"{folder}: you are in that folder; name a new one in it")


def _check_room(archive: Archive, folder: Path, needed: int) -> None:
    there = next(parent for parent in folder.parents if parent.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DataError(
            f"{there}: {archive.name} needs {_gigabytes(needed)} there to be fetched and unpacked, "
            f"and {_gigabytes(free)} are free; make room, or name a folder on another disk"
        )


def _fetch(archive: Archive, part: Path, progress: ProgressCallback) -> None:
    """Fetch what is missing, as long as each connection brings more than the one before."""
    if not archive.url.startswith(("http://", "https://")):
        raise SettingsError(f"url is {archive.url!r}: it must begin with https:// or http://")
    if _size(part) > archive.size:
        part.unlink()
    most, reason = -1, ""
    while (have := _size(part)) < archive.size:
        if have <= most:
            raise DataError(
                f"{archive.url}: the connection broke ({reason}) with {_gigabytes(have)} of "
                f"{_gigabytes(archive.size)} fetched; the same command goes on from there"
            )
        most = have
        reason = _receive(archive, part, have, progress)


def _receive(archive: Archive, part: Path, have: int, progress: ProgressCallback) -> str:
    """Fetch over one connection; why it broke, or an empty text."""
    with _connect(archive, part, have) as response:
        start = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if response.length is not None and start + response.length != archive.size:
            raise DataError(
                f"{archive.url}: the server offers {start + response.length} bytes instead of "
                f"{archive.size}: something else lies there; {_by_hand(archive)}"
            )
        with part.open("ab" if start else "wb") as file:
            done = start
            while done < archive.size:
                try:
                    block = response.read(min(_BLOCK, archive.size - done))
                except (OSError, http.client.HTTPException) as error:
                    return _reason(error)
                if not block:
                    return "it was closed too early"
                file.write(block)
                done += len(block)
                progress("download", done, archive.size)
    return ""


def _connect(archive: Archive, part: Path, have: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"cflow-ad/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(archive.url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # of another file than the one that lies there now
        raise DataError(
            f"{archive.url}: the server answers {error.code} {error.reason}, so the archive may "
            f"have moved; {_by_hand(archive)}"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(
            f"{archive.url}: cannot be reached ({_reason(error)}); try again, or "
            f"{_by_hand(archive)}"
        ) from error
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        said = response.headers.get("Content-Range", "")
        if not re.match(rf"bytes {have}-", said):
            response.close()
            raise DataError(
                f"{archive.url}: the server sends another part than asked for ({said}); "
                f"{_by_hand(archive)}"
            )
    return response


def _by_hand(archive: Archive) -> str:
    """The way out, as the end of a sentence."""
    return (
        f"get {archive.filename} by hand from {archive.page} and name it with --archive, or "
        f"unpack it yourself so that {archive.contents} lies in the folder"
    )


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return " ".join(str(text).split())


def _sha256(file: Path, progress: ProgressCallback) -> str:
    digest, done, total = hashlib.sha256(), 0, _size(file)
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
            done += len(block)
            progress("verify", done, total)
    return digest.hexdigest()


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
