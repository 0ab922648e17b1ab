"""Named settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {
        "size": "192x192",
        "steps": 200,
        "method": {"blocks": 2, "average": (16, 32)},
    },
    "default": {},
    "accurate": {"method": {"blocks": 8, "wide_subnets": True, "permutation": "soft"}},
    "paper": {
        "backbone": "wide_resnet50_2.tv_in1k",
        "size": "512x512",
        "resize": "stretch",
        "batch_size": 256,
        "learning_rate": 2e-4,
        "folds": 0,
        "paper": {},
        "method": {
            "join": False,
            "memory": 0,
            "average": (),
            "padding": "reflect",
            "interpolation": "lanczos",
            "whiten": False,
            "place_means": False,
            "place_scales": 0.0,
            "blocks": 8,
            "wide_subnets": True,
            "permutation": "soft",
            "positions": "absolute",
            "image_score": "peak",
        },
    },
}
"""By name, the changes of the defaults.

`fast` has a smaller input and smaller flows. `accurate` has the paper's flows, which take longer to
train and to score. These and the default have a memory in place of the second level's flow. `paper`
is CFLOW-AD as its authors train it on most classes of MVTec AD; they take 256x256 for some, see
`evaluation.published`.
"""
