"""Match masks and outlines to the images of the MVTec layouts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cflow_ad.data.annotations import Outlines
from cflow_ad.data.coco import is_coco, read_coco
from cflow_ad.data.layouts.reading import by_stem, is_used, name_in, read_samples, refuse_strays
from cflow_ad.data.layouts.words import is_good_name
from cflow_ad.data.listing import has_images, list_images, scan
from cflow_ad.data.masks import OUTLINES_SUFFIX, is_blank, outlines_beside
from cflow_ad.errors import DataError


def match_masks(
    ground_truth: Path, test: Path, folders: Sequence[Path]
) -> dict[Path, Path | Outlines]:
    """Match every mask to its image.

    A mask is ``DEFECT/STEM_mask.png`` or ``DEFECT/STEM.png``, a LabelMe file of such a name, or a
    LabelMe file beside its image. A COCO file in `ground_truth` lists images by their path in
    `test`. Masks of good images, if there are any, mark nothing.

    Args:
        ground_truth: Has a folder of masks for each defect, or a COCO file; may be missing.
        test: What the error calls the images' place.
        folders: Of test images; those of a defect have the name of its folder of masks.

    Raises:
        DataError: A mask has no image or two, an image has two masks, or that of a good image marks
            a defect.
    """
    beside = {
        image: outlines
        for folder in folders
        if not is_good_name(folder.name)
        for image in _images_in(folder)
        if (outlines := outlines_beside(image)) is not None
    }
    masks: dict[Path, Path | Outlines] = dict(beside)
    if not ground_truth.is_dir():
        return masks
    if has_images(ground_truth):
        raise DataError(
            f"{ground_truth}: masks lie there directly; move them to ground_truth/<defect>"
        )
    mask_folders, files = scan(ground_truth)
    for file in files:
        if file.suffix.lower() == OUTLINES_SUFFIX and is_coco(file):
            masks |= _match_coco(file, test, folders)
    named = {folder.name: folder for folder in folders}
    strays: list[Path] = []
    for mask_folder in filter(is_used, mask_folders):
        found = _masks_in(mask_folder)
        if is_good_name(mask_folder.name):
            _require_blank(found)
            continue
        images = by_stem(named.get(mask_folder.name))
        for mask in found:
            name = name_in(mask_folder, mask)
            candidates = images[name] or images[name.removesuffix("_mask")]
            if not candidates:
                strays.append(mask)
            elif len(candidates) > 1:
                raise DataError(
                    f"{mask}: the mask fits {candidates[0].name} and {candidates[1].name}; "
                    "give the images different names"
                )
            elif (other := masks.setdefault(candidates[0], mask)) != mask:
                first = other.file if isinstance(other, Outlines) else other
                raise DataError(f"{candidates[0]}: has two masks, {first} and {mask}; remove one")
    refuse_strays(strays, test)
    return masks


def _masks_in(folder: Path) -> list[Path]:
    """List the masks of a folder and its sub-folders: images and LabelMe files."""
    outlines = sorted(folder.rglob(f"*{OUTLINES_SUFFIX}"))
    try:
        return list_images(folder) + outlines
    except DataError:
        if outlines:
            return outlines
        raise


def _require_blank(masks: Sequence[Path]) -> None:
    for mask in masks:
        if not is_blank(mask):
            raise DataError(
                f"{mask}: it marks a defect in a good image; move the image to test/<defect>, or "
                "remove the mask"
            )


def _match_coco(file: Path, test: Path, folders: Sequence[Path]) -> dict[Path, Outlines]:
    """Match what a COCO file marks to the images of defects, by path in `test` or by name."""
    images = [image for folder in folders for image in _images_in(folder)]
    good = {i for folder in folders if is_good_name(folder.name) for i in _images_in(folder)}
    by_path = {image.relative_to(test).as_posix(): image for image in images}
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_name[image.name].append(image)
    found: dict[Path, Outlines] = {}
    for name, (_, outlines, has_boxes) in read_coco(file).items():
        if has_boxes:
            raise DataError(
                f"{file}: {name} has an annotation without a segmentation, a box alone; outline "
                "the defect, or remove it"
            )
        fitting = [by_path[name]] if name in by_path else by_name[Path(name).name]
        is_marked = bool(outlines.polygons or outlines.patches)
        if len(fitting) > 1:
            raise DataError(
                f"{file}: {name} may be {fitting[0]} or {fitting[1]}; write its path in {test}"
            )
        if is_marked and not fitting:
            raise DataError(f"{file}: no image in {test} is {name}; add it, or remove the entry")
        if is_marked and fitting[0] in good:
            raise DataError(
                f"{file}: it marks a defect in a good image, {fitting[0]}; move the image to "
                "test/<defect>, or remove the entry"
            )
        if is_marked:
            found[fitting[0]] = outlines
    return found


def _images_in(folder: Path) -> list[Path]:
    return [sample.path for sample in read_samples(folder)]
