"""Download a data set from its publisher, verify it, and unpack it."""

from __future__ import annotations

import hashlib
import http.client
import lzma
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from cflow_ad._version import __version__
from cflow_ad.data.decoding.opening import reason
from cflow_ad.errors import DataError, SettingsError
from cflow_ad.files import require_empty

Stage: TypeAlias = Literal["download", "verify", "unpack"]
ProgressCallback: TypeAlias = Callable[[Stage, int, int], None]

_PATIENCE = 30.0  # seconds without a byte after which a connection counts as broken
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A data set as it is published: one tar archive, compressed or not."""

    name: str
    """The data set's name."""
    url: str
    """Address of the archive; http or https."""
    filename: str
    """Its name on disk."""
    sha256: str
    """Its SHA-256, 64 hexadecimal digits in lower case."""
    size: int
    """Its size, in bytes."""
    unpacked: int
    """The size of the files in it, in bytes, roughly."""
    contents: str
    """A folder in it, which shows how to unpack it by hand."""
    page: str
    """Where a person can get it in a browser."""
    terms: str
    """Licence and citation, to be agreed to before the download."""


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
    """Download a data set into a folder.

    What has been downloaded is kept beside the folder, as `FILENAME.part`, until all is unpacked: a
    second call resumes there. An archive beside the folder, `FILENAME`, is used instead.

    Args:
        archive: Whose terms have been agreed to.
        folder: A new or empty one.
        file: The archive, downloaded by hand; it is left where it is.
        keep: Keep the archive beside the folder, as `FILENAME`.
        progress: Called with the stage, the bytes done and the bytes in all.

    Raises:
        DataError: The folder is not empty, the disk has too little room, the archive cannot be
            downloaded, is another, or is damaged. The message says what to do.
        SettingsError: The address is neither http nor https.
        OSError: A file cannot be read or written.
    """
    folder = folder.resolve()
    require_empty(folder)
    if Path.cwd().is_relative_to(folder):  # it will be replaced
        raise DataError(f"{folder}: you are in that folder; name a new one in it")
    part, kept = folder.parent / f"{archive.filename}.part", folder.parent / archive.filename
    if file is None and kept.is_file():
        file = kept
    missing = 0 if file is not None else max(0, archive.size - _size(part))
    _check_room(archive, folder, missing + archive.unpacked)
    if file is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _fetch(archive, part, progress)
    elif not file.is_file():
        raise DataError(f"{file}: there is no such file; {_by_hand(archive)}")
    found = _sha256(file or part, progress)
    if found != archive.sha256:
        if file is None:
            part.unlink()
        raise DataError(
            f"{file or archive.url}: this is not the archive of {archive.name} as it was "
            f"published: its SHA-256 is {found}, not {archive.sha256}; {_by_hand(archive)}"
        )
    unpack(file or part, folder, lambda done, total: progress("unpack", done, total))
    if file is None and keep:
        part.replace(kept)
    elif file is None:
        part.unlink()


def unpack(
    file: Path, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Unpack a tar archive, compressed or not, into a folder of its own: whole or not at all.

    The files go into `FOLDER.unpacking`, which is renamed when all are there; the folder may exist
    if it is empty. Owners and access rights in the archive are ignored.

    Raises:
        DataError: The archive is damaged, or has something that would lie outside the folder, or
            a device. Nothing of it is left.
        OSError: A file cannot be read or written.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError(
            f"{file}: this Python cannot unpack it safely; use 3.11.4 or newer, or unpack it by "
            f"hand into {folder}"
        )
    new = folder.with_name(folder.name + ".unpacking")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as archive:
            for member in archive:
                archive.extract(member, new, filter="data")
                progress(raw.tell(), _size(file))
        if folder.exists():
            folder.rmdir()
        new.replace(folder)
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(
            f"{file}: the archive is damaged or cannot be unpacked safely ({_reason(error)}); "
            "nothing was unpacked; download it again"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check_room(archive: Archive, folder: Path, needed: int) -> None:
    there = next(parent for parent in folder.parents if parent.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DataError(
            f"{there}: {archive.name} needs {_gigabytes(needed)} to be downloaded and unpacked, "
            f"and {_gigabytes(free)} are free; make room, or name a folder on another disk"
        )


def _fetch(archive: Archive, part: Path, progress: ProgressCallback) -> None:
    """Download what is missing of the archive."""
    if not archive.url.startswith(("http://", "https://")):
        raise SettingsError(f"url is {archive.url!r}: it must begin with https:// or http://")
    if _size(part) > archive.size:
        part.unlink()
    have = _size(part)
    if have == archive.size:
        return
    with _connect(archive, part, have) as response:
        done = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if response.length is not None and done + response.length != archive.size:
            raise DataError(
                f"{archive.url}: the server offers {done + response.length} bytes instead of "
                f"{archive.size}, so this is another file; {_by_hand(archive)}"
            )
        with part.open("ab" if done else "wb") as file:
            why = "it was closed too early"
            try:
                while block := response.read(min(_BLOCK, archive.size - done)):
                    done += file.write(block)
                    progress("download", done, archive.size)
            except (OSError, http.client.HTTPException) as error:
                why = _reason(error)
    if done < archive.size:
        raise DataError(
            f"{archive.url}: the connection broke ({why}) after {_gigabytes(done)} of "
            f"{_gigabytes(archive.size)}; the same command resumes there"
        )


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
            part.unlink()  # it was of another file
        raise DataError(
            f"{archive.url}: the server answers {error.code} {error.reason}, so the archive may "
            f"have moved; {_by_hand(archive)}"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(
            f"{archive.url}: cannot be reached ({_reason(error)}); try again, or "
            f"{_by_hand(archive)}"
        ) from error
    return response


def _by_hand(archive: Archive) -> str:
    """What to do instead, as the end of a sentence."""
    return (
        f"get {archive.filename} by hand from {archive.page} and name it with --archive, or "
        f"unpack it yourself so that {archive.contents} lies in the folder"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(reason(getattr(error, "reason", error))).split())


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
