"""Convert FrEIA's decoders to flows.

A decoder is a `SequenceINN` of `AllInOneBlock`. FrEIA 0.2 and the versions before it compute what
`CouplingBlock` computes, under other names. Later ones clamp the log-scale as
`clamp * tanh(a / clamp)` rather than `clamp * tanh(a)`: the same function, with the subnet's last
layer divided by the clamp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from cflow_ad.cflow.flow import ConditionalFlow, CouplingBlock
from cflow_ad.errors import ModelFileError

_NAMES = {
    "gamma": ("global_scale", "act_norm"),
    "offset": ("global_offset", "act_offset"),
    "permutation": ("w_perm", "w"),
    "first.weight": ("subnet.0.weight", "s.0.weight"),
    "first.bias": ("subnet.0.bias", "s.0.bias"),
    "second.weight": ("subnet.2.weight", "s.2.weight"),
    "second.bias": ("subnet.2.bias", "s.2.bias"),
}
"""`CouplingBlock`'s name of a tensor, and FrEIA's: since version 0.2, and before."""

_AGAIN = "copy it again from where it was made"

_DERIVED = ("w_perm_inv", "w_inv")


def convert_decoders(
    path: Path, decoders: Iterable[Mapping[str, Tensor]], *, clamp: float, later_clamp: bool = False
) -> list[ConditionalFlow]:
    """Convert the decoders of a checkpoint; see `convert_decoder`."""
    return [
        convert_decoder(
            decoder, clamp=clamp, later_clamp=later_clamp, where=f"{path}: decoder {number}"
        )
        for number, decoder in enumerate(decoders, start=1)
    ]


def convert_decoder(
    state: Mapping[str, Tensor], *, clamp: float, later_clamp: bool = False, where: str
) -> ConditionalFlow:
    """Convert a decoder to a flow with the same weights.

    Number of blocks, width of the condition and kind of permutation follow from the tensors. The
    condition's channels have the same order: the column first, then the row.

    Args:
        state: the decoder's state dict, `module_list.0.global_scale` and so on.
        clamp: its `affine_clamping`.
        later_clamp: it was trained with the formula of a FrEIA later than 0.2.
        where: file and decoder, for the error.

    Raises:
        ModelFileError: tensors are missing, do not fit together, or are of another kind of block.
    """
    blocks = [
        _block(tensors, clamp, later_clamp, f"{where}, block {number + 1}")
        for number, tensors in enumerate(_by_block(state, where))
    ]
    kinds = {(len(b.gamma), b.first.in_features, b.permutation.ndim) for b in blocks}
    if len(kinds) > 1:
        raise ModelFileError(f"{where}: its blocks differ in kind, which cflow-ad does not support")
    channels, inputs, _ = next(iter(kinds))
    flow = ConditionalFlow(
        channels, blocks=0, condition_channels=inputs - (channels - channels // 2)
    )
    flow.blocks.extend(blocks)
    return flow.requires_grad_(False).eval()


def is_soft(flow: ConditionalFlow) -> bool:
    """Return whether a flow's permutations are rotations, rather than reorderings."""
    return bool(flow.get_buffer("blocks.0.permutation").is_floating_point())


def _by_block(state: Mapping[str, Tensor], where: str) -> list[dict[str, Tensor]]:
    """Sort the tensors by block, under the names of `CouplingBlock`."""
    ours = {theirs: name for name, names in _NAMES.items() for theirs in names}
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        match = re.fullmatch(r"module_list\.(\d+)\.(.+)", key)
        if match is None or match[2] not in (*ours, *_DERIVED):
            raise ModelFileError(
                f"{where}: {key} is not a tensor of a CFLOW-AD decoder (FrEIA's AllInOneBlock); "
                "another kind of flow cannot be imported"
            )
        if match[2] in ours:
            found.setdefault(int(match[1]), {})[ours[match[2]]] = value
    if not found or sorted(found) != list(range(len(found))):
        raise ModelFileError(f"{where}: blocks are missing; {_AGAIN}")
    return [found[number] for number in range(len(found))]


def _block(
    tensors: Mapping[str, Tensor], clamp: float, later_clamp: bool, where: str
) -> CouplingBlock:
    missing = [names[0] for name, names in _NAMES.items() if name not in tensors]
    if missing:
        raise ModelFileError(f"{where}: {missing[0]} is missing; {_AGAIN}")
    given = dict(tensors)
    gamma = given["gamma"].flatten()
    channels = len(gamma)
    condition_channels = given["first.weight"].shape[-1] - (channels - channels // 2)
    if channels < 2 or condition_channels < 0 or condition_channels % 4:
        raise ModelFileError(
            f"{where}: a condition of {condition_channels} channels beside {channels} of features; "
            "it must have a multiple of 4"
        )
    permutation = _permutation(given["permutation"], channels, where)
    block = CouplingBlock(permutation, condition_channels, clamp=clamp)
    given |= {"gamma": gamma, "offset": given["offset"].flatten(), "permutation": permutation}
    for name, wanted in block.state_dict().items():
        if given[name].shape != wanted.shape:
            raise ModelFileError(
                f"{where}: {_NAMES[name][0]} has the shape {tuple(given[name].shape)}, not "
                f"{tuple(wanted.shape)}; another kind of subnet cannot be imported"
            )
        if not given[name].isfinite().all():
            raise ModelFileError(f"{where}: {_NAMES[name][0]} is not finite: training diverged")
    block.load_state_dict(given)
    if later_clamp:
        with torch.no_grad():
            block.second.weight[: block.n2] /= clamp
            block.second.bias[: block.n2] /= clamp
    return block


def _permutation(w: Tensor, channels: int, where: str) -> Tensor:
    """Return a rotation as it is, and a reordering, a matrix or an index, as an index."""
    if w.numel() == channels and not w.is_floating_point():
        index = w.flatten().long()
    elif w.numel() == channels**2:
        w = w.reshape(channels, channels)
        if not ((w == 0) | (w == 1)).all():
            return w.float()
        index = w.argmax(dim=1)
    else:
        index = w.new_zeros(0).long()
    if not torch.equal(index.sort().values, torch.arange(channels)):
        raise ModelFileError(f"{where}: w_perm is not a permutation; {_AGAIN}")
    return index
