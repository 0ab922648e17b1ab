"""Find the images that a model was trained on, where they lie now, by their content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cflow_ad.data.images import ImageSource, source_name
from cflow_ad.data.layouts.dataset import hash_file
from cflow_ad.data.listing import is_image, walk
from cflow_ad.errors import DataError
from cflow_ad.fitting.good_images import GoodImages, hash_all, shorten_hash

_MOST_FOLDERS = 100


def list_folders(sources: Iterable[ImageSource]) -> list[str]:
    """Return the folders that image files lie in, absolute; for many, the one that holds all."""
    names = filter(None, map(source_name, sources))
    folders = sorted({str(Path(name).absolute().parent) for name in names})
    return folders if len(folders) <= _MOST_FOLDERS else [os.path.commonpath(folders)]


def recognise_trained(training: Mapping[str, Any], images: Sequence[Path]) -> list[Path]:
    """Return the image files that a model was trained on, wherever they lie, by their content.

    None of an imported model, which does not say it.
    """
    known = set(training.get("hashes", {}).get("trained_on", ()))
    return [path for path in images if known and shorten_hash(hash_file(path)) in known]


def find_trained_images(
    training: Mapping[str, Any],
    folders: Sequence[str | os.PathLike[str]] = (),
    *,
    name: str = "the model",
) -> list[Path]:
    """Find the images that a model was trained on.

    Args:
        training: the model's facts of its training.
        folders: where they lie, at any depth; unset, where they were.
        name: of the model, for errors.

    Returns:
        A path for each; they may have other names now.

    Raises:
        DataError: one is not there, or was changed.
    """
    wanted = set(training.get("hashes", {}).get("trained_on", []))
    places = [Path(folder) for folder in folders or training.get("folders", [])]
    if not wanted or not places:
        raise DataError(
            f"{name} does not say which images it was trained on: it was imported, or trained on "
            "images from memory; train a new model on all images"
        )
    found: dict[str, Path] = {}
    for place in places:
        for folder, files in walk(place) if place.is_dir() else ():
            for file in filter(is_image, files):
                if len(found) == len(wanted):
                    break
                if (digest := shorten_hash(hash_file(file))) in wanted:
                    found.setdefault(digest, folder / file.name)
    if missing := len(wanted) - len(found):
        where = ", ".join(map(str, places[:3])) + (" and others" if len(places) > 3 else "")
        raise DataError(
            f"{missing} of the {len(wanted)} images that the model was trained on are not in "
            f"{where}, or were changed; say where they are with --old FOLDER. Without them, "
            "`cflow-ad calibrate` sets the threshold on the new images and keeps the model"
        )
    return [found[digest] for digest in training["hashes"]["trained_on"]]


def join_images(old: Sequence[Path], more: GoodImages, training: Mapping[str, Any]) -> GoodImages:
    """Join the images of training and others; those that training had are not taken again.

    Raises:
        DataError: training had all of them, or only some have regions of interest of their own.
    """
    hashes = training["hashes"]
    known = {*hashes["trained_on"], *hashes["excluded"]}
    new = [number for number, digest in enumerate(more.hashes) if digest not in known]
    if not new:
        raise DataError(f"{more.name}: the model was trained on these images already; give others")
    if more.regions is not None:
        raise DataError(
            f"{more.name}: these images have regions of interest of their own; train a new model "
            "on a manifest of all images"
        )
    names = [str(path) for path in old] + [more.names[i] for i in new]
    digests = [*hashes["trained_on"], *(more.hashes[i] for i in new)]
    return GoodImages(
        [*old, *(more.sources[i] for i in new)],
        f"{training['dataset']}, {more.name}",
        hash_all(digests),
        names,
        digests,
        dict(zip(training["excluded"], hashes["excluded"], strict=True)),
    )
