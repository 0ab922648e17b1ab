"""An object that shows whether a file's code was run."""

from __future__ import annotations

import os


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
