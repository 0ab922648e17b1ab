"""ShanghaiTech Campus: frames of surveillance clips, labelled frame by frame.

::

    ROOT/training/frames/01_001/*.jpg     (the set itself has ROOT/training/videos/01_001.avi)
    ROOT/testing/frames/01_0014/000.jpg
    ROOT/testing/test_frame_mask/01_0014.npy    a number for each frame, not 0 where anomalous
    ROOT/testing/test_pixel_mask/01_0014.npy    frames x height x width; may be missing

Every frame is an image of its own: what only a movement shows is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample
from cflow_ad.data.layouts.family import Family, is_used, name_of
from cflow_ad.data.listing import list_images, scan
from cflow_ad.data.masks import MaskSlice, open_array
from cflow_ad.errors import DataError

_ANOMALY = "anomaly"


def _is_here(root: Path) -> bool:
    places = ("testing/frames", "testing/test_frame_mask", "training/frames", "training/videos")
    return any((root / place).is_dir() for place in places)


def _read(root: Path) -> Dataset:
    train = [Sample(i, GOOD) for clip in _clips(root / "training") for i in list_images(clip)]
    test = [s for clip in _clips(root / "testing") for s in _read_clip(clip, root / "testing")]
    training = root / "training"
    return Dataset(
        root,
        name_of(root),
        tuple(train),
        tuple(test),
        "shanghaitech",
        ("every frame is scored on its own, without the frames before it",),
        train_place="take them from the videos: cflow-ad data frames "
        f"{training / 'videos'} {training / 'frames'} --every 25",
        test_place="put them in testing/frames/<clip>, and their labels in testing/test_frame_mask",
    )


def _clips(part: Path) -> Sequence[Path]:
    frames = part / "frames"
    return list(filter(is_used, scan(frames)[0])) if frames.is_dir() else []


def _read_clip(clip: Path, part: Path) -> list[Sample]:
    frames = list_images(clip)
    labels_file = part / "test_frame_mask" / f"{clip.name}.npy"
    if not labels_file.is_file():
        raise DataError(
            f"{clip}: has no labels; put them in {labels_file}, a number for each frame"
        )
    labels = np.asarray(open_array(labels_file)).ravel()
    _check_count(labels_file, len(labels), clip, len(frames))
    pixels = part / "test_pixel_mask" / f"{clip.name}.npy"
    if has_pixels := pixels.is_file():
        _check_count(pixels, len(open_array(pixels)), clip, len(frames))
    return [
        Sample(frame, _ANOMALY, MaskSlice(pixels, index) if has_pixels else None)
        if label
        else Sample(frame, GOOD)
        for index, (frame, label) in enumerate(zip(frames, labels, strict=True))
    ]


def _check_count(file: Path, count: int, clip: Path, frames: int) -> None:
    if count != frames:
        raise DataError(
            f"{file}: is of {count} frames but {clip} has {frames}; copy both again from their "
            "source"
        )


SHANGHAITECH = Family("shanghaitech", _is_here, _read)
