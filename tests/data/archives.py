"""Small archives, good and evil."""

from __future__ import annotations

import hashlib
import io
import tarfile

from cflow_ad.data.download import Archive

FILES = {
    "bottle/train/good/000.png": b"an image" * 40_000,
    "bottle/test/good/000.png": bytes(range(256)) * 900,
    "license.txt": b"CC BY-NC-SA 4.0",
}


def entry(name, kind=tarfile.REGTYPE, link="", mode=0o644):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    return member


def pack(files=FILES, *more, kind="xz"):
    """The bytes of an archive of these files, and then of these entries without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:
        for name, content in files.items():
            member = entry(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    return buffer.getvalue()


def describe(content, url="http://127.0.0.1:9/data.tar.xz"):
    """What is known of an archive with this content."""
    return Archive(
        name="A Set",
        url=url,
        filename="data.tar.xz",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        unpacked=1000,
        contents="bottle/train/good",
        page="https://example.org/page",
        terms="Licence: none. Cite nobody.",
    )


def contents(folder):
    """Each file below a folder, by its name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
