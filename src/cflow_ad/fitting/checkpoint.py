"""What a killed training run would lose: parameters, the optimiser's moments, how far it was."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from cflow_ad.files import replacing

_SECONDS = 5.0
_SHARE = 0.05  # of the time, at the most, that goes into writing


@dataclass(slots=True)
class State:
    """How far a training has come."""

    done: int = 0
    """In the trainer's own units."""

    loss: float = math.nan
    """A moving average."""

    judged: list[float] = field(default_factory=list)
    """Mean log-likelihoods of vectors that are not trained on, one for each time it was asked."""

    until: int | None = None
    """Where training ends early, once that is decided."""

    def smooth(self, loss: float) -> None:
        """Take a loss into the average."""
        self.loss = loss if math.isnan(self.loss) else 0.9 * self.loss + 0.1 * loss


class Checkpoint:
    """One file, written now and then.

    Args:
        path: the file; unset, nothing is kept.
        key: names everything the training depends on. A file with another key is not taken up.
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
        self._due = time.monotonic() + _SECONDS

    def save(self, state: State, *, now: bool = False) -> None:
        """Write the state, if it is time to.

        Args:
            state: how far training has come.
            now: whether it is time in any case.
        """
        if self._path is None or not (now or time.monotonic() >= self._due):
            return
        began = time.monotonic()
        tensors = {}
        for name, parameter in self._parameters.items():
            tensors[name] = parameter.detach()
            moments = self._optimiser.state.get(parameter)
            if moments:  # a parameter without a step yet has none
                tensors[f"{name}@step"] = moments["step"]
                tensors[f"{name}@mean"] = moments["exp_avg"]
                tensors[f"{name}@square"] = moments["exp_avg_sq"]
        metadata = {"key": self._key, "state": json.dumps(asdict(state))}
        with replacing(self._path) as new:
            safetensors.torch.save_file(tensors, new, metadata=metadata)
        ended = time.monotonic()
        self._due = ended + max(_SECONDS, (ended - began) / _SHARE)

    def restore(self) -> State:
        """Take up what an earlier run left: its state, or the first one where there is none."""
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
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[name])
                if f"{name}@step" in tensors:
                    self._optimiser.state[parameter] = {
                        "step": tensors[f"{name}@step"],
                        "exp_avg": tensors[f"{name}@mean"].to(parameter),
                        "exp_avg_sq": tensors[f"{name}@square"].to(parameter),
                    }
        return State(**json.loads(metadata["state"]))
