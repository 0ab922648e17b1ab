"""anomalib's side of the benchmarks, which run it in an environment that has anomalib 2.

    PYTHON anomalib_side.py score BACKBONE
    PYTHON anomalib_side.py train BACKBONE SIZE DATA WEIGHTS OUT EPOCHS
    PYTHON anomalib_side.py likelihoods BACKBONE SIZE WORK soft|index

`score` reads lines of an input size and a batch size, and scores random images. `train` is
anomalib's own training with the given backbone weights; after every epoch it writes OUT/EPOCH.npz
with the anomaly maps of the test images and the seconds of training alone. `likelihoods` trains on
the carpet in WORK/SIZE with anomalib's own layers, and writes the checkpoint and the
log-likelihoods of the test images of all carpets in WORK.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Cflow
from anomalib.models.image.cflow.torch_model import CflowModel
from PIL import Image
from torch import Tensor

warnings.filterwarnings("ignore")

EFFICIENTNET_LAYERS = ["blocks.2", "blocks.4", "blocks.6"]
RESNET_LAYERS = ["layer2", "layer3", "layer4"]
MEAN, STD = 127 / 255, 128 / 255  # of the EfficientNet-Lite weights


def layers_of(backbone: str) -> list[str]:
    """Name the levels of strides 8, 16 and 32."""
    return RESNET_LAYERS if "resnet" in backbone else EFFICIENTNET_LAYERS


def read_image(path: Path) -> Tensor:
    """Read an image, shape `(1, 3, H, W)`, in 0..1."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    return pixels.permute(2, 0, 1)[None] / 255


def fit(model: Cflow, data: Path, out: Path, batch_size: int, **options: Any) -> Engine:
    """Train on the good images of a class in the MVTec layout."""
    folder = Folder(
        name=data.name,
        root=data,
        normal_dir="train/good",
        normal_test_dir="test/good",
        train_batch_size=batch_size,
        eval_batch_size=2,
        num_workers=0,
        val_split_mode="none",
    )
    engine = Engine(
        accelerator="cpu",
        logger=False,
        default_root_dir=out / "engine",
        enable_progress_bar=False,
        limit_val_batches=0,
        **options,
    )
    engine.fit(model, datamodule=folder)
    return engine


def score(backbone: str) -> None:
    """Score a batch of random images for each line read."""
    model = CflowModel(backbone=backbone, layers=layers_of(backbone), pre_trained=False).eval()
    for line in sys.stdin:
        size, batch = map(int, line.split())
        image = torch.rand(1, 3, size, size)
        with torch.inference_mode():
            model(image.expand(batch, -1, -1, -1).contiguous())
        print("done", flush=True)


def train(backbone: str, size: str, data: str, weights: str, out: str, epochs: str) -> None:
    """Train, and write the anomaly maps of the test images after every epoch."""
    import safetensors.torch
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch.callbacks import Callback
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    side = int(size)
    transform = Compose([Resize((side, side), antialias=True), Normalize([MEAN] * 3, [STD] * 3)])
    model = Cflow(
        backbone=backbone,
        layers=layers_of(backbone),
        pre_trained=False,
        pre_processor=PreProcessor(transform=transform),
        evaluator=False,
        visualizer=False,
        post_processor=False,
    )
    extractor = model.model.encoder.feature_extractor
    missing, _ = extractor.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    lost = [name for name in missing if "num_batches" not in name]
    if any(name.startswith(("conv_stem", "blocks.0", "blocks.4")) for name in lost):
        raise SystemExit(f"weights do not fit: {lost[:3]}")
    paths = sorted(Path(data, "test").rglob("*.png"))

    class Watch(Callback):
        """Stops the clock after every epoch, and scores the test images."""

        seconds = 0.0
        epoch = 0

        def on_train_epoch_start(self, trainer: object, module: object) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self, trainer: object, module: object) -> None:
            self.seconds += time.perf_counter() - self.began
            self.epoch += 1
            with torch.inference_mode():  # one at a time: a score then belongs to its image
                maps = [model.model(transform(read_image(path))).anomaly_map for path in paths]
            model.model.decoders.train()
            np.savez(
                Path(out, f"{self.epoch}.npz"),
                maps=np.stack([values.reshape(side, side).numpy() for values in maps]),
                names=[str(path) for path in paths],
                seconds=self.seconds,
            )

    fit(model, Path(data), Path(out), 32, max_epochs=int(epochs), callbacks=[Watch()])


def likelihoods(backbone: str, size: str, work: str, permutation: str) -> None:
    """Train, and write the checkpoint and the log-likelihoods of test images."""
    folder = Path(work)
    soft = permutation == "soft"
    model = Cflow(backbone=backbone, pre_trained=False, permute_soft=soft, fiber_batch_size=64)
    engine = fit(model, folder / size, folder, 4, max_epochs=1)
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    network = model.model.cpu().eval()
    given: dict[str, Any] = {}
    network.anomaly_map_generator.register_forward_pre_hook(
        lambda module, args, named: given.update(named), with_kwargs=True
    )
    kept: dict[str, np.ndarray] = {}
    names = {}
    for path in sorted(folder.glob("*/test/*/*.png")):
        with torch.inference_mode():
            network(model.pre_processor.transform(read_image(path)))
        key = f"{path.parents[2].name}-{len(names)}"
        names[key] = str(path)
        shapes = zip(given["distribution"], given["height"], given["width"], strict=True)
        for level, (values, height, width) in enumerate(shapes):
            kept[f"{key}/{level}"] = values.reshape(height, width).numpy()
    np.savez(folder / "likelihoods.npz", **kept)
    (folder / "images.json").write_text(json.dumps(names))


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    {"score": score, "train": train, "likelihoods": likelihoods}[kind](*arguments)
