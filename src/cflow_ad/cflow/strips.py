"""The stages of an encoder in strips of rows: the same features in a fraction of the memory.

What a network needs most memory for are the widened maps of its first stages, and that of the stem
before them, which are large and used once. A convolution sees only a few rows beyond its own, so
such a stage can go over its input strip by strip, exactly; the stem goes with the first of them.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

_AT_ONCE = 2**16  # cells of a strip, about
_ROWS = 16  # a strip begins and ends at multiples of this many rows
_LARGE = 2**19  # pixels of an image whose stages go in strips
_PROBE = (1024, 64)


class Strips(nn.Module):
    """A stage that runs over a large map a strip at a time.

    Args:
        stage: from one map to another.
        margin: rows that a strip needs beyond its own.
        ratio: rows of the input for each of the output.
        at_once: cells of a strip, about; a map of less than twice as many is taken whole.
    """

    def __init__(self, stage: nn.Module, margin: int, ratio: int, at_once: int = _AT_ONCE) -> None:
        super().__init__()
        self.stage = stage
        self.margin = margin
        self.ratio = ratio
        self.at_once = at_once

    def forward(self, x: Tensor) -> Tensor:
        """Shape `(B, C, H, W)` to `(B, C', H / ratio, W / ratio)`."""
        height, width = x.shape[2:]
        if height * width < 2 * self.at_once:
            return cast(Tensor, self.stage(x))
        rows = max(_ROWS, self.at_once // width // _ROWS * _ROWS)
        whole: Tensor | None = None  # filled as it comes: joining parts would need them twice
        for start in range(0, height, rows):
            top = max(0, start - self.margin)
            stop = min(height, start + rows)
            part = self.stage(x[:, :, top : min(height, stop + self.margin)])
            if whole is None:
                shape = (len(x), part.shape[1], height // self.ratio, part.shape[3])
                whole = torch.empty(
                    shape, dtype=x.dtype, device=x.device, memory_format=_layout(part)
                )
            first, rows_out = (start - top) // self.ratio, (stop - start) // self.ratio
            at = start // self.ratio
            whole[:, :, at : at + rows_out] = part[:, :, first : first + rows_out]
        return cast(Tensor, whole)


def _layout(x: Tensor) -> torch.memory_format:
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


class InStrips(nn.Module):
    """A network whose stages go in strips where an image is large.

    Which of them can is found out when the first such image comes.

    Args:
        network: in evaluation mode, from `(B, 3, H, W)` to a map for each level.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.plain = network
        self._lock = threading.Lock()
        self._in_strips: list[nn.Module] = []  # a list, so that it is no part of this module

    def forward(self, x: Tensor) -> list[Tensor]:
        """Shape `(B, 3, H, W)` to a map for each level."""
        if x.shape[2] * x.shape[3] < _LARGE:
            return cast(list[Tensor], self.plain(x))
        if not self._in_strips:
            self._prepare()
        return cast(list[Tensor], self._in_strips[0](x))

    def _prepare(self) -> None:
        tensors = itertools.chain(self.plain.parameters(), self.plain.buffers())
        shared = {id(tensor): tensor for tensor in tensors}
        with self._lock:
            if not self._in_strips:
                self._in_strips.append(in_strips(copy.deepcopy(self.plain, shared)))


@torch.no_grad()
def in_strips(network: nn.Module) -> nn.Module:
    """A network whose stages go in strips, those of them that allow it.

    That is found by trying: one that looks at the whole map, as to squeeze and excite channels, is
    left as it is.

    Args:
        network: in evaluation mode; changed.
    """
    like = next(network.parameters(), None)
    if like is None:
        return network
    probe = torch.rand(1, 3, *_PROBE, generator=torch.Generator().manual_seed(0))
    # Dark above and bright below: a strip that is taken for the whole must not look like it.
    probe = (4 * probe * torch.linspace(-1, 1, _PROBE[0])[:, None]).to(like)
    stages = dict(_stages(network))
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = (inputs[0], output)

        return hook

    hooks = [stage.register_forward_hook(watch(name)) for name, stage in stages.items()]
    try:
        expected = network(probe)
    except (RuntimeError, TypeError, AttributeError, AssertionError):
        return network  # it takes images of one size alone
    finally:
        for hook in hooks:
            hook.remove()
    first = next(iter(seen), None)
    if first is not None and _join_stem(network, first, seen[first], probe, expected):
        del seen[first]
    for name, (x, output) in seen.items():
        strips = _tried(stages[name], x, output)
        if strips is not None:
            network.set_submodule(name, strips)
    return network


def _join_stem(
    network: nn.Module,
    name: str,
    seen: tuple[Tensor, Tensor],
    probe: Tensor,
    expected: Sequence[Tensor],
) -> bool:
    """Let a stage go in strips as one with all that comes before it.

    That the network runs its children in their order up to there, and uses nothing of what is
    between them, is found by trying; else it stays as it is.

    Args:
        network: changed if that is so.
        name: of its first stage.
        seen: what goes into the stage and comes out, of the probe.
        probe: an input of the network.
        expected: what it gives for it.
    """
    container, stage = name.split(".")[0], network.get_submodule(name)
    stem = dict(itertools.takewhile(lambda child: child[0] != container, network.named_children()))
    try:
        strips = _tried(nn.Sequential(*stem.values(), stage), probe, seen[1])
        if strips is None:
            return False
        for child in stem:
            network.set_submodule(child, nn.Identity())
        network.set_submodule(name, strips)
        if all(map(_is_near, network(probe), expected)):
            # Of the input it has as many cells more as the stem gives fewer than it takes.
            strips.at_once *= probe[0, 0].numel() // seen[0][0, 0].numel()
            return True
    except (RuntimeError, TypeError, AttributeError):
        pass
    for child, module in {**stem, name: stage}.items():
        network.set_submodule(child, module)
    return False


def _stages(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Sequences of blocks by name, as timm's networks have them."""
    for name, child in network.named_children():
        if not isinstance(child, nn.Sequential):
            continue
        inner = [(n, c) for n, c in child.named_children() if isinstance(c, nn.Sequential)]
        yield from [(f"{name}.{n}", c) for n, c in inner] if inner else [(name, child)]


def _tried(stage: nn.Module, x: Tensor, expected: Tensor) -> Strips | None:
    if x.ndim != 4 or expected.ndim != 4:
        return None
    ratio = x.shape[2] // expected.shape[2]
    if expected.shape[2] * ratio != x.shape[2] or _ROWS % ratio:
        return None
    margin = -(-_reach(stage) // _ROWS) * _ROWS
    if x.shape[2] <= _ROWS + 2 * margin:
        return None  # every strip would see all of it; a map so small takes little memory
    # A stage that looks at the whole map, as to squeeze and excite channels, may hardly show it in
    # its output, but what is not a number below is then none above.
    half = x.shape[2] // 2
    below = x.clone()
    below[:, :, half:] = torch.nan
    if stage(below)[:, :, : (half - margin) // ratio].isnan().any():
        return None
    found = Strips(stage, margin, ratio, at_once=x[0, 0].numel() // 2)(x)
    # Reflection at the border of a strip is not that of the map, and shows.
    return Strips(stage, margin, ratio) if _is_near(found, expected) else None


def _is_near(found: Tensor, expected: Tensor) -> bool:
    """Within rounding; not if anything is NaN."""
    if found.shape != expected.shape:
        return False
    bound = max(1e-4, 4 * torch.finfo(expected.dtype).eps)
    return bool((found - expected).abs().max() <= bound * expected.abs().max())


def _reach(stage: nn.Module) -> int:
    """Rows beyond its own that a stage can see at the most, each stride taken for an early one."""
    strides = reach = 1
    for module in stage.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            kernel, stride, dilation = (
                value if isinstance(value, int) else cast(int, value[0])
                for value in (module.kernel_size, module.stride, getattr(module, "dilation", 1))
            )
            reach += strides * (kernel // 2) * dilation
            strides = max(strides, stride)
    return reach * strides
