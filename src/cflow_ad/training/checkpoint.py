"""What a killed training run would lose: parameters, the optimiser's moments, how far it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

_SECONDS = 5.0
_SHARE = 0.05  # of the time, at the most, that goes into writing


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

    def save(self, done: int, loss: float, *, now: bool = False) -> None:
        """Write the state, if it is time to.

        Args:
            done: how far training has come, in the caller's own units.
            loss: the smoothed loss.
            now: whether it is time in any case.
        """
        if self._path is None or not (now or time.monotonic() >= self._due):
            return
        began = time.monotonic()
        tensors = {}
        for name, parameter in self._parameters.items():
            tensors[name] = parameter.detach()
            state = self._optimiser.state.get(parameter)
            if state:  # a parameter without a step yet has none
                tensors[f"{name}@step"] = state["step"]
                tensors[f"{name}@mean"] = state["exp_avg"]
                tensors[f"{name}@square"] = state["exp_avg_sq"]
        new = self._path.with_name(self._path.name + ".new")
        metadata = {"key": self._key, "done": str(done), "loss": repr(loss)}
        safetensors.torch.save_file(tensors, new, metadata=metadata)
        new.replace(self._path)
        ended = time.monotonic()
        self._due = ended + max(_SECONDS, (ended - began) / _SHARE)

    def restore(self) -> tuple[int, float] | None:
        """Take up what an earlier run left.

        Returns:
            Its `done` and `loss`, or None where there is nothing to take up.
        """
        if self._path is None:
            return None
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError):
            return None
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[name])
                if f"{name}@step" in tensors:
                    self._optimiser.state[parameter] = {
                        "step": tensors[f"{name}@step"],
                        "exp_avg": tensors[f"{name}@mean"].to(parameter),
                        "exp_avg_sq": tensors[f"{name}@square"].to(parameter),
                    }
        return int(metadata["done"]), float(metadata["loss"])
