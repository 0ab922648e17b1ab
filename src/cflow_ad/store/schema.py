"""The version of the contents of model files and exported files."""

from __future__ import annotations

from cflow_ad.errors import ModelFileError

SCHEMA = 7
"""Only files of this version are read. It rises where their fields change, or what a score means:
the threshold in a file is that of its scores."""

EXPORTED = (".onnx", ".xml", ".pt2")
"""The suffixes of exported files."""


def check_schema(schema: object, name: str) -> None:
    """Check the version of a file's contents.

    Raises:
        ModelFileError: it is another than this version reads.
    """
    if schema != SCHEMA:
        raise ModelFileError(
            f"{name}: written by another version of cflow-ad (file schema {schema!r}; this version "
            f"reads {SCHEMA}); train it again, or install the version that wrote it"
        )
