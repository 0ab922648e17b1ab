"""CFLOW-AD's flow once more, in double precision and the plainest numpy, to check the real one."""

from __future__ import annotations

import numpy as np
import torch

from cflow_ad.cflow.flow import ConditionalFlow, CouplingBlock
from cflow_ad.cflow.position import encode_axis


def encode_positions(height: int, width: int, channels: int) -> torch.Tensor:
    """Each position's column code, then its row code: shape `(height, width, channels)`."""
    columns, rows = (encode_axis(torch.arange(side), channels // 2) for side in (width, height))
    columns = columns[None, :, :].expand(height, -1, -1)
    return torch.cat((columns, rows[:, None, :].expand(-1, width, -1)), dim=-1)


def encode_position(row: int, column: int, channels: int) -> np.ndarray:
    """Shape `(P,)`, a channel at a time."""
    half = channels // 2
    code = np.empty(channels)
    for start, place in ((0, column), (half, row)):
        for i in range(half // 2):
            angle = place * np.exp(-2 * i * np.log(10000) / half)
            code[start + 2 * i] = np.sin(angle)
            code[start + 2 * i + 1] = np.cos(angle)
    return code


def run_block(
    block: CouplingBlock, x: np.ndarray, condition: np.ndarray
) -> tuple[np.ndarray, float]:
    """One block on one vector: output and log-determinant."""
    w = {name: value.detach().double().numpy() for name, value in block.state_dict().items()}
    channels = len(x)
    n2 = channels // 2
    x1, x2 = x[: channels - n2], x[channels - n2 :]
    hidden = w["first.weight"] @ np.concatenate([x1, condition]) + w["first.bias"]
    a = 0.1 * (w["second.weight"] @ np.maximum(hidden, 0) + w["second.bias"])
    log_scale = block.clamp * np.tanh(a[:n2])
    coupled = np.concatenate([x1, x2 * np.exp(log_scale) + a[n2:]])
    g = 0.1 * np.log1p(np.exp(0.5 * w["gamma"])) / 0.5
    return rotation_of(block) @ (coupled * g + w["offset"]), log_scale.sum() + np.log(g).sum()


def run_flow(
    flow: ConditionalFlow, x: np.ndarray, row: int, column: int
) -> tuple[np.ndarray, float]:
    """All blocks on one vector: output and log-determinant."""
    condition = encode_position(row, column, flow.condition_channels)
    total = 0.0
    for block in flow.blocks:
        x, log_det = run_block(block, x, condition)
        total += log_det
    return x, total


def rotation_of(block: CouplingBlock) -> np.ndarray:
    """The block's permutation as a matrix, whichever way it is kept."""
    kept = block.permutation.double().numpy()
    return kept if kept.ndim == 2 else np.eye(len(kept))[kept.astype(int)]
