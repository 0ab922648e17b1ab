"""Examples of answers, for the description of the API."""

from typing import Any

INSPECTION: dict[str, Any] = {
    "id": "0d6a3f0e-3c8e-4b60-8a8e-0a4fa1ce1a4f",
    "seq": 1841,
    "time": "2026-05-04T06:12:09.120443Z",
    "station": "line-3",
    "source": "api",
    "model": "carpet",
    "version": 2,
    "sha256": "9f2c6f0c3b0f4f1f6d53c5a1c7f6f3f0a1d2b3c4d5e6f708192a3b4c5d6e7f80",
    "image_sha256": "1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014",
    "width": 1024,
    "height": 1024,
    "score": 3.18,
    "p_value": 0.0097,
    "odds": {"count": 3, "of": 412},
    "threshold": 2.39,
    "map_threshold": 3.02,
    "is_anomalous": True,
    "regions": [
        {"box": [412, 96, 478, 160], "area": 2310, "peak": 7.4, "centroid": [447.2, 129.8]}
    ],
    "latency_ms": {"queue": 0.4, "score": 61.2, "record": 2.1, "total": 64.0},
    "measures": {"brightness": 121.4, "sharpness": 88.0, "x": 0.51, "y": 0.49},
    "audit": False,
    "mark": {
        "label": "defect",
        "author": "eva",
        "time": "2026-05-04T07:00:00.000000Z",
        "audit": False,
    },
    "has_picture": True,
}

MODEL: dict[str, Any] = {
    "name": "carpet",
    "version": 2,
    "sha256": INSPECTION["sha256"],
    "threshold": 2.39,
    "map_threshold": 3.02,
    "threshold_row": {
        "id": 3,
        "version": 2,
        "value": 2.39,
        "author": "serve",
        "reason": "as calibrated",
        "time": "2026-05-04T05:58:00.000000Z",
    },
    "calibration": {"n_images": 412, "false_alarm_rate": 0.01, "folds": 3},
    "n_versions": 2,
    "ready": True,
    "rule": {"anomalous": 7, "of": 10},
}

NO_IMAGE: dict[str, Any] = {
    "error": "part.txt: this is not an image; convert it",
    "code": "image.format",
    "values": {"name": "part.txt"},
}
