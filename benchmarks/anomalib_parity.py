"""Is a Cflow model of anomalib, imported, the same model? Run in two environments, in turn.

anomalib is no dependency of this project, so it has an environment of its own::

    python -m venv /tmp/anomalib && /tmp/anomalib/bin/pip install 'anomalib==2.7.*'
    PYTHONPATH=src /tmp/anomalib/bin/python benchmarks/anomalib_parity.py train WORK
    python benchmarks/anomalib_parity.py compare WORK

`train` weaves a small carpet, trains anomalib's own `Cflow` on it with its own `Engine` for a few
steps (the backbone's weights are random, since only equality is at stake), and keeps the checkpoint
and the log-likelihoods that anomalib's network hands to its anomaly map. `compare` imports the
checkpoint and prints the largest difference of the log-likelihoods per dimension, level by level:
for images of the network's size, and for larger ones, which the two programs resize on their own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256  # anomalib's default
LARGE = 320


def main() -> None:
    """Run one of the two halves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("half", choices=("train", "compare"))
    parser.add_argument("work", type=Path, help="folder that the two halves share")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--soft", action="store_true", help="rotations instead of reorderings")
    parser.add_argument("--images", type=int, default=8, help="to train on")
    arguments = parser.parse_args()
    if arguments.half == "train":
        train(arguments.work, arguments.backbone, arguments.soft, arguments.images)
    else:
        compare(arguments.work)


def train(work: Path, backbone: str, soft: bool, images: int) -> None:
    """Anomalib's half."""
    import anomalib
    import torch
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Cflow

    from cflow_ad.data.carpet import write_carpet

    carpet = work / "carpet"
    if not carpet.exists():
        write_carpet(carpet, train=images, good=2, per_defect=1, size=SIDE)
    large = work / "large"
    if not large.exists():
        write_carpet(large, train=1, good=1, per_defect=1, size=LARGE)
    data = Folder(
        name="carpet",
        root=carpet,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/hole",
        train_batch_size=4,
        eval_batch_size=2,
        num_workers=0,
    )
    model = Cflow(backbone=backbone, pre_trained=False, permute_soft=soft, fiber_batch_size=64)
    engine = Engine(max_epochs=1, accelerator="cpu", logger=False, default_root_dir=work / "engine")
    engine.fit(model, datamodule=data)
    checkpoint = work / "model.ckpt"
    engine.trainer.save_checkpoint(checkpoint)
    model.to_torch(work)

    seen: dict[str, object] = {}
    network = model.model
    network.anomaly_map_generator.register_forward_pre_hook(
        lambda module, given, named: seen.update(named), with_kwargs=True
    )
    kept: dict[str, np.ndarray] = {}
    names = {}
    for folder in (carpet, large):
        for path in sorted((folder / "test").rglob("*.png"))[:6]:
            pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
            image = model.pre_processor.transform(pixels.permute(2, 0, 1)[None] / 255)
            network(image)
            key = f"{folder.name}-{len(names)}"
            names[key] = str(path.relative_to(work))
            shapes = zip(seen["distribution"], seen["height"], seen["width"], strict=True)
            for level, (values, height, width) in enumerate(shapes):
                kept[f"{key}/{level}"] = values.reshape(height, width).numpy()
    np.savez(work / "likelihoods.npz", **kept)
    said = {"anomalib": anomalib.__version__, "torch": torch.__version__, "images": names}
    (work / "images.json").write_text(json.dumps(said, indent=2))
    print(f"anomalib {anomalib.__version__}: {checkpoint}, {len(names)} images")


def compare(work: Path) -> None:
    """The half that imports."""
    from cflow_ad.importers.anomalib import import_anomalib

    detector = import_anomalib(work / "model.ckpt", device="cpu")
    said = json.loads((work / "images.json").read_text())
    theirs = np.load(work / "likelihoods.npz")
    print(
        f"anomalib {said['anomalib']}, {detector.settings.backbone}, "
        f"{detector.settings.permutation} permutations"
    )
    print("| images | level | range of theirs | largest difference | mean |")
    print("|---|---|---|---|---|")
    for folder in ("carpet", "large"):
        keys = [key for key in said["images"] if key.startswith(folder)]
        ours = [detector.log_likelihoods(work / said["images"][key]) for key in keys]
        for level, stride in enumerate(detector.settings.strides):
            expected = np.stack([theirs[f"{key}/{level}"] for key in keys])
            difference = np.abs(expected - np.stack([maps[level] for maps in ours]))
            size = f"{LARGE}, resized" if folder == "large" else str(SIDE)
            print(
                f"| {len(keys)} of {size} | stride {stride} | {expected.min():.3f} to "
                f"{expected.max():.3f} | {difference.max():.1e} | {difference.mean():.1e} |"
            )


if __name__ == "__main__":
    main()
