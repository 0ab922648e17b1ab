"""Checkpoints of a training run: parameters, the optimiser's moments, and the progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from cflow_ad.files import replacing

_SECONDS = 5.0
_SHARE = 0.05  # of the time, at the most, that goes into writing


@dataclass(slots=True)
class State:
    """The progress of a training run."""

    done: int = 0
    """In the trainer's own units."""

    loss: float = math.nan
    """A moving average."""

    def smooth(self, loss: float) -> None:
        """Update the moving average of the loss."""
        self.loss = loss if math.isnan(self.loss) else 0.9 * self.loss + 0.1 * loss


class Checkpoint:
    """One file, written every few seconds.

    Args:
        path: the file; unset, nothing is kept.
        key: identifies everything that the training depends on; a file with another key is ignored.
        parameters: by name.
        optimiser: Adam, of these parameters.
    """

    def __init__(
        self,
        path: Path | None,
        key: str,
        parameters: Mapping[str, torch.nn.Parameter],
        optimiser: torch.optim.Adam,
    ) -> None:
        self._path = path
        self._key = key
        self._parameters = parameters
        self._optimiser = optimiser
        self._numbers = {name: number for number, name in enumerate(parameters)}
        self._due = time.monotonic() + _SECONDS

    def save(self, state: State, *, now: bool = False) -> None:
        """Write the state, if the last time is long enough ago, or in any case if `now`."""
        if self._path is None or not (now or time.monotonic() >= self._due):
            return
        began = time.monotonic()
        tensors = {name: parameter.detach() for name, parameter in self._parameters.items()}
        moments = self._optimiser.state_dict()["state"]
        for name, number in self._numbers.items():
            own = moments.get(number, {})  # a parameter without a step yet has none
            tensors |= {f"{name}@{key}": value for key, value in own.items()}
        metadata = {"key": self._key, "state": json.dumps(asdict(state))}
        with replacing(self._path) as new:
            # Written by hand, since save_file has an error of its own for a disk that is full.
            new.write_bytes(safetensors.torch.save(tensors, metadata=metadata))
        ended = time.monotonic()
        self._due = ended + max(_SECONDS, (ended - began) / _SHARE)

    def restore(self) -> State:
        """Restore what an earlier run saved; without one, return the initial state."""
        if self._path is None:
            return State()
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key:
                    return State()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError):
            return State()
        moments: dict[int, dict[str, torch.Tensor]] = {}
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[name])
                own = {
                    key.removeprefix(f"{name}@"): value
                    for key, value in tensors.items()
                    if key.startswith(f"{name}@")
                }
                if own:
                    moments[self._numbers[name]] = own
        # The optimiser itself puts each moment on the device where it needs it.
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        return State(**json.loads(metadata["state"]))
