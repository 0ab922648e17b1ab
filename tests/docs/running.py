"""Run the blocks of a page as a reader would, in a folder with a tiny data set.

Commands of cflow-ad run in this process. What a page says is run as it stands, but for its cost:
training and generated data are cut down to a moment, workers are this process, evaluations draw
nothing, and a graph to export is made once. Other commands run in bash. `pip install` and `make`
are not run; their extras and targets are looked up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.cli import app
from cflow_ad.data import carpet
from cflow_ad.data.carpet import write_carpet
from cflow_ad.evaluation import results
from cflow_ad.export import export
from cflow_ad.fleet import engines
from cflow_ad.fleet.pool import Reply, attempt_task
from cflow_ad.station import serving
from tests.docs.blocks import ROOT, Block, Command, is_like

SHOWN = "127.0.0.1:8000"  # where a station listens, on the pages
INSTALLS = ("pip", "make")
CANVAS = (64, 64)
DECIDES = ("predict",)  # commands whose exit status 1 is an answer


def cut_down(settings: Settings) -> Settings:
    """Settings with which a model is fitted in a moment; the size stays where it is native."""
    is_box = settings.size[:1].isdigit()
    paper = settings.paper and dataclasses.replace(settings.paper, epochs=1, passes_per_epoch=1)
    return dataclasses.replace(
        settings,
        backbone="test_efficientnet",
        weights="random",
        strides=(16,),
        transformer_blocks=(),
        size="{}x{}".format(*CANVAS) if is_box else settings.size,
        steps=3,
        batch_size=64,
        folds=1 if settings.folds is None else min(settings.folds, 2),
        augment_copies=min(settings.augment_copies, 1),
        paper=paper,
        method=dataclasses.replace(
            settings.method, blocks=1, average=settings.method.average and (16,)
        ),
    )


def write_little(out: Path, **options: Any) -> None:
    """Write a few small images of the carpet in place of many."""
    most = {"train": 8, "good": 4, "per_defect": 1, "size": 64}
    write_carpet(out, **options | {name: min(options[name], n) for name, n in most.items()})


def fit_in_a_moment(cls, data, settings=None, **options):
    """Stand in for `Detector.fit`."""
    return _fit(cls, data, cut_down(settings or Settings()), **options)


def translate_once(detector, canvas, *, is_onnx):
    """Stand in for the translation of a model to a graph, which takes seconds."""
    weights = b"".join(value.numpy().tobytes() for value in detector.model.state_dict().values())
    key = hashlib.sha256(weights).digest(), is_onnx
    if key not in _graphs:
        _graphs[key] = _translate(detector, canvas, is_onnx=is_onnx)
    return _graphs[key]


_fit, _translate = Detector.fit.__func__, export._translate
_graphs: dict[tuple[bytes, bool], Any] = {}


class HerePool:
    """A fleet's worker, in this process."""

    def __init__(self, build: Callable[[], Any], *, size: int, threads: int, gpus: float) -> None:
        self.size, self.threads = 1, threads
        self._work = build()

    def submit(self, slot: int, task: Any) -> None:
        self._reply = attempt_task(self._work, task)

    def wait(self) -> tuple[int, Reply]:
        return 0, self._reply

    def close(self) -> None:
        pass


class Reader:
    """Runs the blocks of one page, in the present folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]) -> None:
        self._monkeypatch = monkeypatch
        self._names = names
        self._variables = ""
        self._station: Station | None = None
        monkeypatch.setattr(Detector, "fit", classmethod(fit_in_a_moment))
        monkeypatch.setattr(engines, "LocalPool", HerePool)
        monkeypatch.setattr(carpet, "write_carpet", write_little)
        monkeypatch.setattr(export, "_translate", translate_once)
        monkeypatch.setattr(export, "_canvas", lambda *_: CANVAS)
        monkeypatch.setattr(results, "draw_panels", lambda *_, path, **__: path.touch())
        monkeypatch.setattr(results, "write_report", lambda *given, **_: given[2].touch())
        monkeypatch.setenv("COLUMNS", "100")

    def run(self, block: Block) -> None:
        """Run a block, and compare what it prints with what the page shows."""
        where = f"{block.page.name}, line {block.line}"
        if block.language == "python":
            code = compile(self._at_station(block.text), where, "exec")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CalibrationWarning)
                exec(code, self._names)
            return
        for command in block.commands:
            self._run_command(command, where)

    def _run_command(self, command: Command, where: str) -> None:
        line = self._at_station(command.line)
        words = shlex.split(line, comments=True)
        if words[0] in INSTALLS:
            check_install(words)
            return
        if words[0] == "cflow-ad":
            status, output = self._run_here(words[1:])
        else:
            status, output = self._run_in_shell(line)
        if "error:" in command.output:
            allowed = (2,)
        else:
            allowed = (0, 1) if words[1:2] and words[1] in DECIDES else (0,)
        assert status in allowed, f"{where}: {line}: exit status {status}\n{output}"
        if command.output.strip():
            assert is_like(output, command.output), f"{where}: {line}\nprinted:\n{output}"

    def _run_here(self, words: list[str]) -> tuple[int, str]:
        if words[0] == "serve":
            self._station = Station(self._monkeypatch)
        self._monkeypatch.setattr(sys, "argv", ["cflow-ad", *words])
        result = CliRunner().invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def _run_in_shell(self, line: str) -> tuple[int, str]:
        if re.match(r"\w+=", line):
            self._variables += line + "\n"
        done = subprocess.run(
            ["bash", "-ec", self._variables + line],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )
        return done.returncode, done.stdout + done.stderr

    def _at_station(self, text: str) -> str:
        return text.replace(SHOWN, self._station.place) if self._station else text

    def close(self) -> None:
        """Stop the station, if one was served."""
        if self._station is not None:
            self._station.stop()


class Station:
    """What `cflow-ad serve` runs until it is stopped, in a thread, on a free port."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = serving.open_server
        monkeypatch.setattr(serving, "open_server", self.open)

    def open(self, config: Any, say: Callable[[str], None], **options: Any) -> Station:
        """Open it."""
        self._say, self._said = say, queue.Queue[str]()
        self._server = self._open(dataclasses.replace(config, port=0), self._said.put, **options)
        self._thread = threading.Thread(target=self._server.run)
        return self

    def run(self) -> None:
        """Serve, and come back once it is ready."""
        self._thread.start()
        while "ready" not in (line := self._said.get(timeout=60)):
            self._say(line)
        self.place = line.removeprefix("http://").split(": ready")[0]
        self._say(line.replace(self.place, SHOWN))

    def stop(self) -> None:
        """Stop, and wait for it."""
        self._server.handle_exit(signal.SIGTERM, None)
        self._thread.join()


def check_install(words: list[str]) -> None:
    """Look up what `pip install 'cflow-ad[EXTRA]'` and `make TARGET` name."""
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), words
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert words[1] == "install", words
    for name in words[2:]:
        package, _, extras = name.rstrip("]").partition("[")
        assert package == "cflow-ad", words
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), words


@contextlib.contextmanager
def reading(
    folder: Path, monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]
) -> Iterator[Reader]:
    """Read a page in a folder."""
    monkeypatch.chdir(folder)
    reader = Reader(monkeypatch, names)
    try:
        yield reader
    finally:
        reader.close()
