"""What a model computes, and the paper's training schedule: set by presets and importers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cflow_ad.errors import SettingsError
from cflow_ad.validation import Checked, Range


@dataclass(frozen=True, kw_only=True, slots=True)
class Method(Checked):
    """How a model computes its score: choices under comparison, which benchmarks set.

    Presets and importers set them; the command line does not. They are stored in the model.
    """

    join: bool = True
    """Join the vectors of the backbone's last two stages of a level's stride, and to the first
    level's those of half its stride, averaged over 4x4 positions. The paper has
    one stage a level."""

    average: tuple[int, ...] = (32,)
    """The strides whose feature maps are averaged over 3x3 positions, as in PatchCore."""

    padding: Literal["zeros", "reflect"] = "zeros"
    """How the backbone's convolutions continue their input beyond its border."""

    interpolation: Literal["bilinear", "lanczos"] = "bilinear"
    """The kernel that images are resized with."""

    whiten: bool = True
    """Remove mean and covariance of good vectors first; the paper does not."""

    components: Annotated[int, Range(2)] = 256
    """Where vectors are whitened: how many of their principal components are kept, at most."""

    memory: Annotated[int, Range(0)] = 4000
    """How many vectors of good images the second level keeps in place of a flow, at most. A vector
    is the less likely the further it is from the nearest of them. The paper has flows alone: 0."""

    memory_radii: Annotated[float, Range(0, 1)] = 0.5
    """How much of its squared radius is subtracted from the squared distance to a vector of the
    memory. The radius is the distance to the nearest vector of another good image."""

    place_means: bool = True
    """Subtract from each vector the mean of good vectors at its place and aspect ratio."""

    place_scales: Annotated[float, Range(0, 1)] = 0.5
    """How far each part of the image has its own location and scale: 0, one for all; 1, its own."""

    blocks: Annotated[int, Range(1)] = 4
    """Coupling blocks `K` of each flow; the paper has 8."""

    wide_subnets: bool = False
    """Hidden layers twice as wide as the subnet's input, position included, as in the paper; else
    twice as wide as the level's vectors, where that is less."""

    permutation: Literal["soft", "index"] = "index"
    """Between blocks: a random rotation, as in the paper, or a random reordering of channels."""

    clamp: Annotated[float, Range(0, open=True)] = 1.9
    """Bound on the absolute log-scale of one coupling."""

    position_channels: Annotated[int, Range(0)] = 128
    """Width `P` of the position encoding, a multiple of 4; 0 for no condition."""

    positions: Literal["absolute", "relative"] = "relative"
    """Positions by row and column, as in the paper, or relative to the image's sides."""

    image_score: Literal["levels", "peak"] = "levels"
    """The image's score: see `scoring.score`; or the anomaly map's maximum, as in the paper."""

    def has_memory(self, number: int) -> bool:
        """Whether a level has a memory, by its number from 0; else it has a flow."""
        return self.memory > 0 and number == 1

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.position_channels % 4:
            raise SettingsError(
                f"position_channels is {self.position_channels}: it must be a multiple of 4"
            )
        if self.positions == "absolute" and (self.place_means or self.place_scales):
            raise SettingsError(
                "method.positions is 'absolute': place_means must be false and place_scales 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperSchedule(Checked):
    """Training as the paper's authors do it: every pass encodes every image again."""

    epochs: Annotated[int, Range(1)] = 25
    """Epochs; the learning rate changes after each."""

    passes_per_epoch: Annotated[int, Range(1)] = 8
    """Passes over the images in an epoch."""

    images_per_batch: Annotated[int, Range(1)] = 32
    """Images in a batch; the vectors of a batch are shuffled together."""

    rotation: Annotated[float, Range(0, 180)] = 5.0
    """The largest random rotation of an image, in degrees, to either side."""

    zero_fill: bool = False
    """Set gradients to zero in place of None, as torch before 2 did: a step of one level then also
    moves the other levels by their momentum."""
