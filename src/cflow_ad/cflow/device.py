"""Where a network runs."""

from __future__ import annotations

import torch

from cflow_ad.errors import SettingsError


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; unset, a GPU if there is one.

    Raises:
        SettingsError: torch has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # some can be named but hold no values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"device {str(device)!r} is not available ({reason}); give cpu, or leave it out"
        ) from error
    return chosen
