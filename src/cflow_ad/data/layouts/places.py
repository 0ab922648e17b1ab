"""What the names of the folders that an image lies in say of it; see `named`."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cflow_ad.data.layouts.dataset import GOOD
from cflow_ad.data.layouts.reading import some
from cflow_ad.data.layouts.words import FolderNames
from cflow_ad.data.listing import walk
from cflow_ad.errors import DataError, FolderError


class Place(NamedTuple):
    """What the names of the folders that an image lies in say of it."""

    split: str = ""
    """``train``, ``test``, ``validation`` or nothing."""
    label: str = ""
    """``good``, the name of a folder of defective images, or nothing."""
    kind: str = ""
    """The defect: the first other name below a folder of defective images."""
    other: tuple[str, ...] = ()
    """Names that are no words, of folders that hold no defective images."""
    is_mask: bool = False
    key: tuple[str, ...] = ()
    """The names by which masks and images are matched: without words."""


def read_place(parts: Sequence[str], names: FolderNames) -> Place:
    """Read the names of folders, from the outermost in."""
    place = Place()
    for end, part in enumerate(parts, start=1):
        kind = names.kind_of(parts[:end])
        if kind == "masks":
            place = place._replace(is_mask=True)
        elif kind in ("train", "test", "validation"):
            place = place._replace(split=place.split or kind)
        elif kind in ("good", "bad") and not place.label:
            place = place._replace(label=_label(kind, GOOD, part))
        elif kind != "images":
            is_kind = place.label not in ("", GOOD) and not place.kind
            place = place._replace(
                kind=part if is_kind else place.kind,
                other=place.other if place.label else (*place.other, part),
                key=(*place.key, part),
            )
    if not place.label and (kind := names.kind_of(())) in ("good", "bad"):
        first = place.other[0] if place.other else "defect"
        place = place._replace(label=_label(kind, GOOD, first))
    return place


def _label(kind: str | None, good: str, bad: str) -> str:
    return good if kind == "good" else bad if kind == "bad" else ""


def words_of(place: Place) -> tuple[str, ...]:
    """Return names without a number: those of days, shifts' dates and lots have one."""
    return tuple(name for name in place.other if not has_digit(name))


def has_digit(name: str) -> bool:
    """Return whether a name has a number, as those of days, shifts and lots have."""
    return any(map(str.isdigit, name))


def check_names(root: Path, names: FolderNames) -> FolderNames:
    """Check that folders have the names given; one with brackets that exists is no pattern.

    Raises:
        DataError: A name is of no folder.
    """
    folders = [folder.relative_to(root).as_posix() for folder, _ in walk(root)]

    def check(option: str, items: Sequence[str]) -> list[str]:
        checked = []
        for item in items:
            literal = FolderNames(good=[glob.escape(item)])
            if any(literal.kind_of(PurePosixPath(folder).parts) == "good" for folder in folders):
                item = glob.escape(item)
            alone = FolderNames(good=[item])
            if not any(alone.kind_of(PurePosixPath(folder).parts) == "good" for folder in folders):
                raise DataError(
                    f"{root}: no folder there has the name {item!r}, given as --{option}; the "
                    f"folders are: {some([name for name in folders if name != '.']) or 'none'}"
                )
            checked.append(item)
        return checked

    return FolderNames(
        check("good", names.good), check("bad", names.bad), check("masks", names.masks)
    )


def unclear_error(
    root: Path, images: Sequence[tuple[Path, Place]], names: FolderNames
) -> FolderError:
    """Build the error that shows the folders and guesses which are good: the fullest."""
    counts: Counter[tuple[str, ...]] = Counter()
    for path, place in images:
        parts = path.parent.relative_to(root).parts
        first = words_of(place) if not place.label else ()
        end = parts.index(first[0]) + 1 if first else _end_of_word(parts, place, names)
        counts[parts[:end]] += 1
    known = {parts: names.kind_of(parts) for parts in counts}
    good = [parts for parts in counts if known[parts] == "good"]
    unknown = [parts for parts in counts if known[parts] not in ("good", "bad")]
    if not good:
        good = [max(unknown or counts, key=lambda parts: counts[parts])]
    bad = [parts for parts in counts if parts not in good]
    found = some([f"{'/'.join(parts) or '.'} ({n} images)" for parts, n in counts.items()])
    error = FolderError(
        f"{root}: the names of the folders do not say which images are good; found: {found}; say "
        "which are good (--good '*' if all are), and which defective"
    )
    options = [option for parts in good for option in ("--good", "/".join(parts) or ".")]
    options += [option for parts in bad for option in ("--bad", "/".join(parts) or ".")]
    error.options = tuple(options)
    return error


def _end_of_word(parts: Sequence[str], place: Place, names: FolderNames) -> int:
    """Return how many names lead to the folder that names an image's label."""
    ends = range(1, len(parts) + 1) if place.label else ()
    return next((end for end in ends if names.kind_of(parts[:end]) in ("good", "bad")), 0)
