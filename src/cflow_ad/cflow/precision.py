"""How exactly a GPU multiplies single-precision numbers.

By default cuDNN rounds the inputs of fp32 convolutions to TF32, with 10 bits of mantissa, so that
a score would depend on the algorithm that a batch's size selects. Torch has one setting for the
whole process. So it is changed while work is launched, and then put back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from cflow_ad.settings import Precision

_ONE_AT_A_TIME = threading.RLock()
"""Two threads that changed the settings together would put back each other's."""


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the type of tensors in a precision."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


@contextlib.contextmanager
def products_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Set how fp32 products are computed by what is launched in this block: exactly in `fp32`, by
    TF32 in `tf32` and in `bf16`, which has fewer bits than that.

    Only CUDA devices have TF32. The program's own settings are put back, and no other thread
    launches work of this package meanwhile.
    """
    if device.type != "cuda":
        yield
        return
    wanted = "ieee" if precision == "fp32" else "tf32"
    with _ONE_AT_A_TIME, contextlib.ExitStack() as changed:
        for holder, name, values in _settings():
            before = getattr(holder, name)
            if (value := values[wanted]) != before and (before, wanted) != ("none", "ieee"):
                setattr(holder, name, value)
                changed.callback(setattr, holder, name, before)
        yield


def _settings() -> Sequence[tuple[Any, str, dict[str, Any]]]:
    """List torch's settings of fp32 products: what holds each, its name, and its values."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):
        # Both of cuDNN's, since torch refuses to read them together where they differ.
        of_one = "fp32_precision", {"ieee": "ieee", "tf32": "tf32"}
        return [(holder, *of_one) for holder in (cudnn.conv, cudnn.rnn, matmul)]
    values = {"ieee": False, "tf32": True}  # torch before 2.9
    return [(holder, "allow_tf32", values) for holder in (cudnn, matmul)]
