"""anomalib's side of the benchmarks: run by them, in the environment that has anomalib 2.

    PYTHON anomalib_side.py score BACKBONE SIZE          then one batch size a line on its input
    PYTHON anomalib_side.py train BACKBONE SIZE DATA WEIGHTS OUT EPOCHS

`train` is anomalib's own training step, optimiser and Engine, with the same backbone weights and
scaling of pixels; it writes OUT/EPOCH.npz with the anomaly maps of the test images after every
epoch, and the seconds of training alone.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

warnings.filterwarnings("ignore")

EFFICIENTNET_LAYERS = ["blocks.2", "blocks.4", "blocks.6"]
RESNET_LAYERS = ["layer2", "layer3", "layer4"]
MEAN, STD = 127 / 255, 128 / 255  # of the EfficientNet-Lite weights


def layers_of(backbone: str) -> list[str]:
    """The levels of strides 8, 16 and 32."""
    return RESNET_LAYERS if "resnet" in backbone else EFFICIENTNET_LAYERS


def score(backbone: str, size: int) -> None:
    """Score a batch of random images for each line read."""
    from anomalib.models.image.cflow.torch_model import CflowModel

    model = CflowModel(backbone=backbone, layers=layers_of(backbone), pre_trained=False).eval()
    images = torch.rand(1, 3, size, size)
    for line in sys.stdin:
        with torch.inference_mode():
            model(images.expand(int(line), -1, -1, -1).contiguous())
        print("done", flush=True)


def train(backbone: str, size: int, data: Path, weights: Path, out: Path, epochs: int) -> None:
    """Train on a class in the MVTec layout."""
    import safetensors.torch
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Cflow
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch.callbacks import Callback
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    transform = Compose([Resize((size, size), antialias=True), Normalize([MEAN] * 3, [STD] * 3)])
    folder = Folder(
        name=data.name,
        root=data,
        normal_dir="train/good",
        normal_test_dir="test/good",
        train_batch_size=32,
        eval_batch_size=8,
        num_workers=0,
        val_split_mode="none",
    )
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
    paths = sorted((data / "test").rglob("*.png"))

    class Watch(Callback):
        """Stops the clock after every epoch, and scores the test images."""

        seconds = 0.0
        epoch = 0

        def on_train_epoch_start(self, trainer: object, module: object) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self, trainer: object, module: object) -> None:
            self.seconds += time.perf_counter() - self.began
            self.epoch += 1
            maps = []
            with torch.inference_mode():
                for path in paths:  # one at a time: a score then belongs to its image
                    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
                    image = transform(pixels.permute(2, 0, 1)[None] / 255)
                    maps.append(model.model(image).anomaly_map.reshape(size, size).numpy())
            model.model.decoders.train()
            np.savez(
                out / f"{self.epoch}.npz",
                maps=np.stack(maps),
                names=[str(path) for path in paths],
                seconds=self.seconds,
            )

    engine = Engine(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=out / "engine",
        callbacks=[Watch()],
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    engine.fit(model, datamodule=folder)


def main() -> None:
    """Score or train."""
    kind, backbone, size, *rest = sys.argv[1:]
    if kind == "score":
        score(backbone, int(size))
    else:
        data, weights, out, epochs = rest
        train(backbone, int(size), Path(data), Path(weights), Path(out), int(epochs))


if __name__ == "__main__":
    main()
