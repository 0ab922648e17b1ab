"""Every choice that makes a model, in one frozen object that is stored in the model's file."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cflow_ad.errors import SettingsError
from cflow_ad.presets import PRESETS

if TYPE_CHECKING:
    from cflow_ad.scoring.canvas import Sizing

Precision = Literal["fp32", "bf16"]
"""What an encoder and its flows' subnets compute in."""

_POSITIVE = ("shrinkage", "clamp", "learning_rate", "feature_budget")
_AT_LEAST_ONE = (
    "blocks",
    "batch_size",
    "neighbourhood",
    "epochs",
    "passes_per_epoch",
    "images_per_batch",
)
_NOT_NEGATIVE = (
    "steps",
    "smoothing",
    "seed",
    "position_channels",
    "subnet_width",
    "rotation",
    "augment_copies",
    "augment_rotation",
    "augment_shift",
    "augment_brightness",
    "least_gain",
    "calibration_fraction",
    "local_scale",
    "coarse",
    "coarse_from",
    "coarse_weight",
    "canvas_multiple",
    "neighbourhood_from",
)
_AT_MOST = {
    "seed": 2**32 - 1,
    "smoothing": 1000,
    "rotation": 180,
    "augment_rotation": 180,
    "local_scale": 1,
}
_BEFORE: Mapping[str, Any] = {
    "subnet_width": 0,
    "positions": "absolute",
    "local_scale": 0.0,
    "neighbourhood_from": 0,
    "fine": False,
    "local_mean": False,
    "coarse": 0,
    "coarse_from": 0,
    "image_score": "peak",
}
"""Settings that older files do not have, and what they were."""

_OWN_STRIDES = "0, or such that no two levels have one stride, as 3"
_FRACTIONS = ("tail_quantile", "false_alarm_rate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Choices of encoder, input, flow, training, scoring and calibration.

    Raises:
        SettingsError: a value is out of its range; the message names the field.

    Example:
        >>> Settings(size="320x640").sizing.width
        640
        >>> Settings(blocks=0)
        Traceback (most recent call last):
        cflow_ad.errors.SettingsError: blocks is 0: it must be at least 1
    """

    backbone: str = "tf_efficientnet_lite0"
    """A timm model name; `cflow-ad info backbones` lists those whose weights are at hand."""

    weights: str | None = None
    """File with the backbone's weights (`.pth`, `.pt` or `.safetensors`); `"random"` draws them,
    for tests and timing. Unset: the package that carries them, else timm's download."""

    strides: tuple[int, ...] = (8, 16, 32)
    """Which levels of the feature pyramid are used, by their stride in pixels."""

    fine: bool = True
    """Join to the vectors of the first of `strides` those of half its stride, where the backbone
    has them, averaged over the 4x4 cells around. It finds and outlines small defects better."""

    coarse: int = 3
    """See each image also at 1/`coarse` of its size, in levels of `strides` once more, which find
    what is large and faint. 0 for not; else so that no two levels have one stride, as 3."""

    coarse_from: int = 16
    """The least of `strides` that the small image is seen in; 0 for all."""

    coarse_weight: float = 0.0
    """What those levels weigh in the anomaly map, where the others weigh 1. With 0 they speak for
    the image as a whole alone (`image_score`), and cannot hide a small defect."""

    padding: Literal["zeros", "reflect"] = "zeros"
    """How the backbone's convolutions continue their input beyond its border: `zeros` is what
    backbones are trained with, `reflect` what the paper's authors do."""

    neighbourhood: int = 3
    """Feature vectors are averaged over this many cells along either side, at the strides named by
    `neighbourhood_from`; odd, 1 for not. It finds large and faint defects better."""

    neighbourhood_from: int = 32
    """The least stride whose vectors are averaged; those of finer levels, which find what is small,
    are left as they are. 0 averages all."""

    canvas_multiple: int = 0
    """What the sides of the network's input are multiples of, in pixels, itself a multiple of the
    largest of `strides` and of 32. 0 for the least such."""

    size: str = "384x384"
    """How large images come into the network: a box, height x width in pixels; `native`, each at
    its own size; or `longest=N`, at its own size but for images with a longer side, which are
    scaled down to it."""

    resize: Literal["snap", "fit", "pad", "stretch"] = "snap"
    """How an image comes into the box: `fit` and `pad` keep its aspect ratio and mirror what is
    left of the canvas (`pad` fills the whole box, `fit` the next multiples of 32); `snap` keeps it
    but for bringing each side to the nearest multiple of 32, so that nothing is left; `stretch`
    does not keep it."""

    interpolation: Literal["bilinear", "lanczos"] = "bilinear"
    """The kernel that images are resized with; `lanczos` is the paper's."""

    tile: str = ""
    """The largest part, height x width in pixels, of a large image that is encoded at once, margins
    included. It bounds memory and changes no score by more than 0.001. Unset, it is chosen where an
    image needs it; 0 encodes every image whole."""

    precision: Precision = "fp32"
    """What the encoder and the flows' subnets compute in, when images are encoded for training and
    when they are scored. `bf16` is faster on processors with such instructions (AVX-512 BF16, AMX,
    GPUs) and, where both are in it, no worse. Not with `schedule=paper`."""

    foreground: Literal["none", "auto"] = "none"
    """`auto` looks only at the part, where it can be told from a plain background; its hull and a
    margin of 4 % of the image's longer side belong to it."""

    align: Literal["none", "shift", "rigid"] = "none"
    """Lay each part where it lies in a reference image, the most central of the good ones, before
    it is scored: by a `shift`, or also turned (`rigid`)."""

    input_layer: Literal["whiten", "standardise", "raw"] = "whiten"
    """The fixed first layer of each flow. `raw` is the paper's."""

    shrinkage: float = 1e-4
    """Added to the covariance before whitening, as a fraction of its mean diagonal."""

    blocks: int = 4
    """Coupling blocks `K` of each flow; the paper has 8."""

    subnet_width: int = 128
    """Width of the hidden layer of each block's subnet; 0 makes it twice the subnet's input, as in
    the paper."""

    clamp: float = 1.9
    """Bound on the absolute log-scale of one coupling."""

    position_channels: int = 128
    """Width `P` of the position encoding, a multiple of 4; 0 leaves the condition out."""

    positions: Literal["absolute", "relative"] = "relative"
    """Where a vector is: `relative`, by its place as a fraction of the image's height and width, so
    that images of several sizes share one frame; or `absolute`, by its row and column from the top
    left, as in the paper. At 256x256 they are the same."""

    permutation: Literal["soft", "index"] = "index"
    """Between blocks: a random rotation, as in the paper, or a random reordering of the channels,
    which costs nothing."""

    schedule: Literal["cached", "paper"] = "cached"
    """`cached` encodes each image once and takes `steps` of vectors drawn from all of them. `paper`
    encodes every image anew in each of `epochs` x `passes_per_epoch` passes, and takes as many
    steps as its vectors fill batches."""

    steps: int = 600
    """The most optimiser steps of each level. 0 leaves each flow at its start."""

    least_gain: float = 0.003
    """The training of a level ends early where 50 steps add less than this to the log-likelihood
    per dimension, in nats, of a tenth of the good images, which judge and are not trained on. 0
    takes all steps and trains on all; so do fewer than 20 images."""

    epochs: int = 25
    """With `schedule=paper`, after how many changes of the learning rate training ends."""

    passes_per_epoch: int = 8
    """With `schedule=paper`, passes over the images between two changes of the learning rate."""

    images_per_batch: int = 32
    """With `schedule=paper`, images encoded at once; their vectors are mixed."""

    rotation: float = 0.0
    """With `schedule=paper`, the most degrees that an image is turned at random, to either side."""

    augment_copies: int = 0
    """Variants of each training image that are trained on as well, for when there are only a
    handful. The images held out are not varied. Not with `schedule=paper`, which has `rotation`."""

    augment_rotation: float = 3.0
    """The most degrees that a variant is turned, to either side."""

    augment_shift: float = 0.02
    """The most that a variant is shifted either way, as a fraction of the image's sides."""

    augment_brightness: float = 0.1
    """The most that a variant is lighter or darker, as a fraction."""

    zero_fill: bool = False
    """With `schedule=paper`, a step of one level also moves the others by their momentum, as it did
    for the authors: gradients were filled with zeros rather than left out before torch 2."""

    batch_size: int = 1024
    """Feature vectors in a step; at coarser levels as many fewer as they have fewer positions, but
    not with `schedule=paper`."""

    learning_rate: float = 4e-3
    """Adam's peak learning rate. It warms up over the first tenth and falls to 0 as a cosine; with
    `schedule=paper`, over the first two epochs, and to a thousandth."""

    loss: Literal["likelihood", "logsigmoid"] = "logsigmoid"
    """`logsigmoid`, the paper's, maximises the mean of `log sigmoid(l)`, where `l` is the
    log-likelihood per dimension; `likelihood` the mean of `l`."""

    seed: int = 0
    """Of every random choice: rotations, initial weights, batches, the held-out images."""

    feature_budget: float = 2.0
    """GiB of features kept for training; beyond it each image keeps the same share of its own."""

    tail_quantile: float = 0.001
    """Good vectors less likely than this quantile of them set the scale of each level: from the
    median of good likelihoods, which scores 0, down to this quantile, which scores 3."""

    local_mean: bool = True
    """Take from each vector what good images have on average at its place: those of its aspect
    ratio, as far as there are any. Needs `positions=relative`."""

    local_scale: float = 0.5
    """How far each part of the image has a scale of its own, from 0, one scale for all as in the
    paper, to 1. Needs `positions=relative`."""

    image_score: Literal["peak", "levels"] = "levels"
    """What an image's score goes by: the `peak` of its anomaly map, as in the paper; or how far the
    peaks of all `levels`, wherever they lie, stand out from those of good images. The map is then
    brought to it: multiplied so that its peak is the score. Needs at least 80 images to train on,
    of which a tenth judge by `least_gain`; else it is the peak."""

    smoothing: float = 4.0
    """Standard deviation of a Gaussian over the anomaly map, in pixels of the network's input."""

    false_alarm_rate: float = 0.01
    """The share of good images that may be called anomalous."""

    calibration_fraction: float = 0.2
    """The share of the good images held out of training, to set the threshold on. With 0, as in the
    paper, it is set on the training images themselves, which makes it too low."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field.name, typing.get_type_hints(type(self))[field.name])
        for name in _POSITIVE:
            self._require(name, getattr(self, name) > 0, "greater than 0")
        for name in _AT_LEAST_ONE:
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in _NOT_NEGATIVE:
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name, most in _AT_MOST.items():
            self._require(name, getattr(self, name) <= most, f"at most {most}")
        for name in _FRACTIONS:
            self._require(name, 0 < getattr(self, name) < 1, "between 0 and 1")
        self._require("calibration_fraction", self.calibration_fraction < 1, "less than 1")
        for name in ("augment_shift", "augment_brightness"):
            self._require(name, getattr(self, name) < 1, "less than 1")
        if self.schedule == "paper":
            self._require("augment_copies", not self.augment_copies, "0 with schedule=paper")
            self._require("precision", self.precision == "fp32", "fp32 with schedule=paper")
        self._require("position_channels", self.position_channels % 4 == 0, "a multiple of 4")
        self._require("neighbourhood", self.neighbourhood % 2 == 1, "odd")
        self._require(
            "strides",
            bool(self.strides) and list(self.strides) == sorted(set(self.strides)),
            "one or more strides in rising order, such as (8, 16, 32)",
        )
        self._require("coarse", len(set(self.levels)) == len(self.levels), _OWN_STRIDES)
        if self.positions == "absolute":
            self._require("local_scale", self.local_scale == 0, "0 with positions=absolute")
            self._require("local_mean", not self.local_mean, "false with positions=absolute")
        _ = self.sizing, self.tile_shape

    @property
    def levels(self) -> tuple[int, ...]:
        """The stride of every level: those of `strides`, then the coarse ones."""
        return level_strides(self.strides, self.coarse, self.coarse_from)

    @property
    def level_weights(self) -> tuple[float, ...]:
        """What every level weighs in the anomaly map."""
        coarse = len(self.levels) - len(self.strides)
        return (1.0,) * len(self.strides) + (self.coarse_weight,) * coarse

    @property
    def tile_shape(self) -> tuple[int, int] | None:
        """The largest part of an image to encode at once; `(0, 0)` for any, None to choose it."""
        if not self.tile.strip():
            return None
        match = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:[xX×]\s*([0-9]{1,6})\s*)?", self.tile)
        what = "a number of pixels, HEIGHTxWIDTH, or 0 for none"
        self._require("tile", match is not None, what)
        assert match is not None
        height, width = int(match[1]), int(match[2] or match[1])
        self._require("tile", (height > 0) == (width > 0), what)
        return height, width

    @property
    def sizing(self) -> Sizing:
        """How images come into the network."""
        from cflow_ad.scoring.canvas import Sizing  # numpy and Pillow, which `--help` does without

        return Sizing.parse(
            self.size,
            mode=self.resize,
            multiple=self._multiple,
            interpolation=self.interpolation,
        )

    @property
    def _multiple(self) -> int:
        least = max(32, *self.strides)
        divides = self.canvas_multiple % least == 0
        self._require("canvas_multiple", divides, f"a multiple of {least}")
        return self.canvas_multiple or least

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Settings:
        """Settings that belong together, with some changed.

        Args:
            name: one of `presets.PRESETS`.
            changes: fields and their values, over those of the preset.

        Raises:
            SettingsError: there is no such preset or field, or a value is out of its range.

        Example:
            >>> Settings.preset("paper", size="256x256").input_layer
            'raw'
        """
        if name not in PRESETS:
            raise SettingsError(f"preset {name!r}: there is none; give {' or '.join(PRESETS)}")
        return cls.from_dict({**PRESETS[name], **changes})

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**dataclasses.asdict(self), "strides": list(self.strides)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """From `to_dict`'s form.

        Raises:
            SettingsError: a field is unknown or has a value it cannot have.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingsError(f"unknown setting {', '.join(unknown)}")
        given = dict(values)
        if isinstance(given.get("strides"), list):
            given["strides"] = tuple(given["strides"])
        return cls(**given)

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Settings:
        """As `from_dict`, of a file that an older version may have written.

        Raises:
            SettingsError: as for `from_dict`.
        """
        older = dict(_BEFORE)
        if "canvas_multiple" not in values:
            older["canvas_multiple"] = max(32, *values["strides"]) * max(1, values.get("coarse", 0))
        return cls.from_dict({**older, **values})

    @classmethod
    def parse(cls, name: str, text: str) -> Any:
        """Read one setting's value as it is written on a command line.

        Args:
            name: of the setting.
            text: its value; several numbers are separated by commas.

        Raises:
            SettingsError: there is no such setting, or the text is no value of its kind.

        Example:
            >>> Settings.parse("strides", "8,16")
            (8, 16)
        """
        hint = typing.get_type_hints(cls).get(name)
        if hint is None:
            raise SettingsError(f"unknown setting {name}; `cflow-ad info settings` lists them")
        try:
            if typing.get_origin(hint) is tuple:
                return tuple(int(part) for part in text.split(","))
            if hint is bool:
                return {"true": True, "false": False}[text.lower()]
            return hint(text) if hint in (int, float) else text
        except KeyError as error:
            raise SettingsError(f"{name} is {text!r}: it must be true or false") from error
        except ValueError as error:
            kind = "a number" if hint is float else "a whole number"
            kind = "whole numbers with commas between" if hint not in (int, float) else kind
            raise SettingsError(f"{name} is {text!r}: it must be {kind}") from error

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise SettingsError(f"{name} is {getattr(self, name)!r}: it must be {what}")

    def _check_type(self, name: str, hint: Any) -> None:
        value = getattr(self, name)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is Literal:
            self._require(name, value in arguments, " or ".join(arguments))
        elif origin is tuple:
            whole = isinstance(value, tuple) and all(type(item) is int for item in value)
            self._require(name, whole, "a tuple of whole numbers")
        elif origin is types.UnionType:
            self._require(name, isinstance(value, arguments), "text, or left out")
        elif hint is float:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            self._require(name, number and math.isfinite(value), "a finite number")
        elif hint in (int, bool):
            what = "a whole number" if hint is int else "true or false"
            self._require(name, type(value) is hint, what)
        else:
            self._require(name, isinstance(value, hint), "text")


def level_strides(strides: Sequence[int], coarse: int, coarse_from: int = 0) -> tuple[int, ...]:
    """The stride of every level, by the three settings.

    Example:
        >>> level_strides((8, 16), 3), level_strides((8, 16), 3, 16)
        ((8, 16, 24, 48), (8, 16, 48))
    """
    small = [stride for stride in strides if coarse and stride >= coarse_from]
    return (*strides, *(coarse * stride for stride in small))
