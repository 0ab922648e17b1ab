"""Modules on a GPU that need not be there: tensors with a device and a shape, but no values."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def make_fake(module, mode: FakeTensorMode, device="cuda"):
    """Give a module tensors that only say where they are, in place of its own.

    Under `mode` an operation on tensors of two devices is an error, and so is reading a value.
    """
    for part in module.modules():
        for kind in (part._parameters, part._buffers):
            for name, value in kind.items():
                if value is not None:
                    fake = torch.empty_like(mode.from_tensor(value.detach()), device=device)
                    kind[name] = torch.nn.Parameter(fake) if value.requires_grad else fake
    return module
