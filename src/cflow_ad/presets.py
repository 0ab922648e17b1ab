"""Settings that belong together, under one name."""

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {
        "size": "192x192",
        "coarse": 0,
        "neighbourhood_from": 16,
        "blocks": 2,
        "steps": 200,
        "least_gain": 0.01,
    },
    "default": {},
    "accurate": {"blocks": 8, "subnet_width": 0, "permutation": "soft"},
    "paper": {
        "backbone": "wide_resnet50_2.tv_in1k",
        "padding": "reflect",
        "fine": False,
        "coarse": 0,
        "neighbourhood": 1,
        "size": "512x512",
        "resize": "stretch",
        "interpolation": "lanczos",
        "input_layer": "raw",
        "positions": "absolute",
        "local_mean": False,
        "local_scale": 0.0,
        "blocks": 8,
        "subnet_width": 0,
        "permutation": "soft",
        "schedule": "paper",
        "batch_size": 256,
        "learning_rate": 2e-4,
        "rotation": 5.0,
        "loss": "logsigmoid",
        "image_score": "peak",
        "smoothing": 0.0,
        "calibration_fraction": 0.0,
    },
}
"""Each as changes of the defaults. `fast` sees less, in less time. `accurate` has the paper's flow;
it finds and outlines a little better and takes nearly three times as long to train, and a third
longer to run. `paper` is CFLOW-AD as its authors train it on most classes of MVTec AD; they take
256x256 for some, see `evaluation.published`."""
