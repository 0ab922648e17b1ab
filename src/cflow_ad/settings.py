"""What a user chooses, in groups, in one frozen object that is stored in the model's file."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cflow_ad.errors import SettingsError
from cflow_ad.method import Method, PaperSchedule
from cflow_ad.presets import PRESETS
from cflow_ad.validation import Checked, Range, field_types, parse_as

if TYPE_CHECKING:
    from cflow_ad.data.decoding.raster import Reading
    from cflow_ad.scoring.canvas import Sizing

Precision = Literal["fp32", "tf32", "bf16"]
"""The number format of the encoder's and the subnets' arithmetic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings(Checked):
    """What a user chooses.

    Raises:
        SettingsError: a value is out of its range; the message names the field.

    Example:
        >>> Settings(size="320x640").sizing.width
        640
        >>> Settings(steps=-1)
        Traceback (most recent call last):
        cflow_ad.errors.SettingsError: steps is -1: it must be at least 0
    """

    # Input

    size: str = "384x384"
    """Size of the network's input: a box, HEIGHTxWIDTH in pixels, or one number for a square;
    `native`: each image at its own size; `longest=N`: the same, but scaled down where its longer
    side exceeds N pixels."""

    resize: Literal["snap", "fit", "pad", "stretch"] = "snap"
    """How an image is resized to the box: `snap` keeps its aspect ratio except for rounding each
    side to a multiple of 32, or of a vision transformer's patch; `fit` keeps it exactly and fills
    the sides up to such multiples by reflection; `pad` does so up to the whole box; `stretch`
    scales each side to the box."""

    foreground: Literal["none", "auto"] = "none"
    """`auto` restricts the region of interest to the part, where it can be separated from a plain
    background: its convex hull and a margin of 4 % of the image's longer side."""

    align: Literal["none", "shift", "rigid"] = "none"
    """Register each image to a reference image, the most central training image, before it is
    scored: by a translation (`shift`), or by a translation and a rotation (`rigid`)."""

    precision: Precision = "fp32"
    """Number format of the encoder and the subnets, in training and scoring. `bf16` is faster on
    processors with such instructions (AVX-512 BF16, AMX, GPUs); `tf32` on NVIDIA GPUs since 2020,
    and elsewhere the same as `fp32`."""

    bits: Annotated[int | None, Range(8, 16)] = None
    """Depth of images with 16 bits a value: with 12, white is 4095. Unset, it is found in the good
    images, by what the files state or by the largest value, and kept in the model."""

    page: Annotated[int | None, Range(1)] = None
    """Page or frame, from 1, of files that hold several images."""

    bayer: Literal["none", "rggb", "bggr", "grbg", "gbrg"] = "none"
    """Bayer pattern of images that have one colour a pixel: `rggb`, `bggr`, `grbg` or `gbrg`, the
    colours of the first two rows."""

    # Backbone

    backbone: str = "tf_efficientnet_lite0"
    """A timm model name; `cflow-ad info backbones` lists those whose weights are on this
    machine."""

    weights: str | None = None
    """File with the backbone's weights (`.pth`, `.pt` or `.safetensors`); `random` draws them, for
    tests and timing. Unset: the package that carries them, else timm's download."""

    strides: tuple[int, ...] = (8, 16, 32)
    """Strides of the feature pyramid's levels, in pixels, in rising order. For a vision
    transformer, all are the side of its patches."""

    transformer_blocks: tuple[int, ...] = ()
    """For a vision transformer: the blocks whose outputs are the levels, from 0, in rising order.
    Unset: the blocks at a quarter, half and three quarters of its depth."""

    # Training

    steps: Annotated[int | None, Range(0)] = None
    """Optimiser steps of each flow; with 0 it keeps its initial weights. Unset, 6 for each training
    image and each of its copies, at least 100 and at most 1,200."""

    batch_size: Annotated[int | None, Range(1)] = None
    """Feature vectors in a step of the finest level; coarser levels take fewer, as they have fewer
    positions. Unset, 1,024; with more than 600 steps fewer, so that the total stays the same."""

    learning_rate: Annotated[float, Range(0, open=True)] = 4e-3
    """Adam's peak learning rate: linear warm-up, then cosine decay to 0."""

    augment_copies: Annotated[int, Range(0)] = 0
    """Augmented copies of each training image to train on as well; for few images."""

    augment_rotation: Annotated[float, Range(0, 180)] = 3.0
    """The largest rotation of a copy, in degrees, to either side."""

    augment_shift: Annotated[float, Range(0, 0.999)] = 0.02
    """The largest shift of a copy, as a fraction of the image's sides."""

    augment_brightness: Annotated[float, Range(0, 0.999)] = 0.1
    """The largest change of a copy's brightness, as a fraction."""

    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of every random choice: initial weights, batches, the split of the images."""

    feature_budget: Annotated[float, Range(0, open=True)] = 2.0
    """GiB of feature vectors kept for training. If there are more, a random share is kept, the same
    share of each image."""

    paper: PaperSchedule | None = None
    """The paper's training schedule, in place of `steps`; set by the preset `paper`."""

    # Score and calibration

    smoothing: Annotated[float, Range(0, 1000)] = 0.0
    """Standard deviation of a Gaussian that smooths the anomaly map, in pixels of the network's
    input; 0 for none."""

    false_alarm_rate: Annotated[float, Range(0, 1, open=True)] = 0.01
    """The false-positive rate that the threshold is set for: the share of good images that may be
    called anomalous."""

    folds: Annotated[int | None, Range(0, 100)] = None
    """Folds of the good images. To set the threshold, each fold is scored by a model that is fitted
    to the others; the model that is kept is fitted to all. With 1, a fifth of the images is held
    out as a calibration set, and the model that is kept is fitted to the others. With 0, as in the
    paper, the threshold is set on training images, which makes it too low. Unset, 10; from 100
    images on, 4; from 500 on, 1."""

    # Internal

    method: Method = field(default_factory=Method)
    """How the model computes its score; see `Method`."""

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        blocks = self.transformer_blocks
        if list(blocks) != sorted(set(blocks)) or min(blocks, default=0) < 0:
            raise SettingsError(
                f"transformer_blocks is {blocks!r}: it must be blocks in rising order, from 0, "
                "such as (2, 5, 8)"
            )
        rising = list(self.strides) == sorted(set(self.strides))
        one_for_all_blocks = bool(blocks) and self.strides == self.strides[:1] * len(blocks)
        if not (rising or one_for_all_blocks) or min(self.strides, default=0) <= 0:
            raise SettingsError(
                f"strides is {self.strides!r}: it must be one or more strides in rising order, "
                "such as (8, 16, 32)"
            )
        if self.paper is not None:
            if self.method.memory:
                raise SettingsError("method.memory must be 0 with the paper's schedule")
            for name, wanted in (("augment_copies", 0), ("precision", "fp32")):
                if getattr(self, name) != wanted:
                    raise SettingsError(
                        f"{name} is {getattr(self, name)!r}: it must be {wanted} with the paper's "
                        "schedule"
                    )
        _ = self.sizing

    @property
    def sizing(self) -> Sizing:
        """How images are brought to the network's input."""
        from cflow_ad.scoring.canvas import Sizing  # numpy and Pillow, which `--help` does without

        return Sizing.parse(
            self.size,
            mode=self.resize,
            multiple=self.strides[-1] if self.transformer_blocks else max(32, *self.strides),
            interpolation=self.method.interpolation,
        )

    def steps_for(self, n_images: int) -> int:
        """Compute the optimiser steps of a flow that is trained on `n_images` images and their
        augmented copies.

        More steps of fewer vectors fit more images better: with 1,200 in place of 600, `pcb`,
        `screw` and `magnetic_tile` (200 to 400 images) gain 0.6 of image AUROC and 0.5 of AUPRO in
        the mean of two seeds. With few images a flow of coarse vectors overfits: with 600 in place
        of these, sets of 33 to 50 images lose 1.0 of image AUROC.

        Example:
            >>> [Settings().steps_for(n) for n in (10, 50, 150, 1000)]
            [100, 300, 900, 1200]
        """
        if self.steps is not None:
            return self.steps
        return min(max(100, 6 * n_images * (1 + self.augment_copies)), 1200)

    def batch_size_for(self, steps: int) -> int:
        """Compute the vectors in each of `steps` steps of the finest level.

        Example:
            >>> [Settings().batch_size_for(steps) for steps in (5, 600, 1200)]
            [1024, 1024, 512]
        """
        return self.batch_size or max(1, min(1024, 600 * 1024 // max(1, steps)))

    @property
    def reading(self) -> Reading:
        """How image files and arrays are read, where they do not say it."""
        from cflow_ad.data.decoding.raster import Reading  # numpy, which `--help` does without

        return Reading(self.bits, self.page, self.bayer)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Settings:
        """Build the settings of a preset, with some changed.

        Args:
            name: `fast`, `default`, `accurate` or `paper`; see `PRESETS`.
            changes: fields and their values, in place of the preset's.

        Raises:
            SettingsError: the preset or a field is unknown, or a value is out of its range.

        Example:
            >>> Settings.preset("paper", size="256x256").method.whiten
            False
        """
        if name not in PRESETS:
            raise SettingsError(f"preset {name!r} is unknown; give {' or '.join(PRESETS)}")
        return cls.from_dict(_merged(PRESETS[name], changes))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Build from `to_dict`'s form; what is left out has its default.

        Raises:
            SettingsError: a field is unknown or has a value out of its range.
        """
        return typing.cast(Settings, _build(cls, values))

    @classmethod
    def parse(cls, name: str, text: str) -> Any:
        """Read one setting's value as it is written on a command line.

        Args:
            name: of the setting; `paper.NAME` for one of the paper's schedule.
            text: its value; several numbers are separated by commas.

        Raises:
            SettingsError: the setting is unknown, or the text is not a value of its kind.

        Example:
            >>> Settings.parse("strides", "8,16"), Settings.parse("paper.epochs", "3")
            ((8, 16), 3)
        """
        owner: type = cls
        own = name
        if name.startswith("paper."):
            owner, own = PaperSchedule, name.removeprefix("paper.")
        hint = field_types(owner).get(own)
        if hint is None or own in ("method", "paper"):
            raise SettingsError(f"unknown setting {name}; `cflow-ad info settings` lists them")
        return parse_as(name, hint, text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge changes into values; `paper.epochs` changes one field of the nested `paper`."""
    merged = dict(values)
    for name, value in changes.items():
        outer, dot, inner = name.partition(".")
        if dot:
            if merged.get(outer) is None:
                raise SettingsError(f"{name} needs --preset paper")
            value = {**merged[outer], inner: value}
        elif isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            value = {**merged[name], **value}
        merged[outer] = value
    return merged


def _build(owner: type, values: Mapping[str, Any]) -> Any:
    hints = field_types(owner)
    if unknown := sorted(set(values) - set(hints)):
        raise SettingsError(f"unknown setting {', '.join(unknown)}")
    nested = {"method": Method, "paper": PaperSchedule}
    given = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and name in nested:
            value = _build(nested[name], value)
        given[name] = tuple(value) if isinstance(value, list) else value
    return owner(**given)
