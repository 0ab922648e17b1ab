"""A version of a product's model, of any bytes."""

from __future__ import annotations

import hashlib

from cflow_ad.fleet.versions import Version


def build_version(product="screw", name="a1", model=b"model", finished="2026-01-01"):
    return Version(
        product=product,
        version=name,
        job="j",
        sha256=hashlib.sha256(model).hexdigest(),
        size=len(model),
        n_images=3,
        threshold=1.5,
        false_alarm_rate=0.01,
        achieved_rate=0.25,
        settings={"steps": 3},
        flags={"few": "too few"},
        finished=finished,
    )
