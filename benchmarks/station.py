"""The inspection station: its throughput and latency beside the detector's own, and kills.

    python benchmarks/station.py [DATA] [--seconds 20] [--kills 20] [--inspections 10000]
    python benchmarks/station.py --quick

The service runs in a process of its own; its clients are threads of this one, with a connection
each, on the same cores. In rounds: the detector alone over the same images and the service at its
full load, in turns; one image alone; and the service at half of its full load, at regular times as
a line's parts come, and at random times. Then it is killed under load again and again, and what was
answered is compared with the record.

Both give score and verdict, and no map where the verdict is good. The detector reads, decodes and
scores files. The service gets their bytes over HTTP, decodes and scores them, and besides hashes
and keeps each picture, computes the vector and the measures of drift, and seals and commits the
record, with pictures and commits on the disk before the answer. Its share is told by the rates and
by processor time an image, with that of the clients: the latter holds on a busy machine too, and
leaves out what the cores are idle.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()

from common import build_parser, fit, markdown, open_data, report

from cflow_ad import Detector

ROUNDS = 3
TURNS = 4  # of a round: the speed of a shared machine changes within minutes


class Service:
    """`cflow-ad serve` in a process of its own."""

    def __init__(self, model: Path, folder: Path) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.data, self._key_file = folder / "data", folder / "key"
        self._command = [
            *(sys.executable, "-m", "cflow_ad", "serve", str(model), "--data", str(self.data)),
            *("--port", str(self.port), "--key-file", str(self._key_file)),
        ]
        self._log = folder / "log.txt"

    def start(self) -> float:
        """Start, and return the seconds until it is ready."""
        began = time.perf_counter()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        while not self._is_ready():
            if self.process.poll() is not None:
                raise SystemExit(self._log.read_text())
            time.sleep(0.02)
        self.key = self._key_file.read_text().strip()
        return time.perf_counter() - began

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def memory(self) -> float:
        """Return its resident memory in MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def processor_seconds(self) -> float:
        """Return the processor time that it has used."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _is_ready(self) -> bool:
        with (
            suppress(OSError),
            closing(http.client.HTTPConnection("127.0.0.1", self.port)) as asked,
        ):
            asked.request("GET", "/health/ready")
            return asked.getresponse().status == 200
        return False


class Line:
    """A client with a connection, which it opens again."""

    def __init__(self, service: Service, model: str) -> None:
        self._service, self._path = service, f"/v1/models/{model}/inspect"
        self._connection: http.client.HTTPConnection | None = None

    def inspect(self, data: bytes, request: str) -> tuple[int, dict[str, Any]]:
        """Send an image; returns status and answer."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                "127.0.0.1", self._service.port, timeout=60
            )
        headers = {
            "Authorization": f"Bearer {self._service.key}",
            "Content-Type": "image/png",
            "Idempotency-Key": request,
        }
        try:
            self._connection.request("POST", self._path, data, headers)
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            return 0, {}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def lines(service: Service, model: str, count: int) -> Iterator[list[Line]]:
    """Open clients."""
    opened = [Line(service, model) for _ in range(count)]
    try:
        yield opened
    finally:
        for line in opened:
            line.close()


def rate_alone(detector: Detector, files: Sequence[Path], seconds: float) -> float:
    """Measure how many images a second the detector alone scores, from files. As with the service,
    what was begun in time is finished and counts, and so does the time that it takes.
    """
    began = time.perf_counter()
    in_time = itertools.takewhile(
        lambda _: time.perf_counter() < began + seconds, itertools.cycle(files)
    )
    done = sum(1 for _ in detector.stream(in_time, maps=False))
    return done / (time.perf_counter() - began)


def take_turns(
    detector: Detector,
    files: Sequence[Path],
    service: Service,
    images: Sequence[bytes],
    seconds: float,
    name: str,
) -> tuple[float, float, float]:
    """Measure the detector alone and the service at its full load, in turns; returns the images a
    second of each, and the share by processor time an image.
    """
    rates, used = [], []
    for turn in range(TURNS):
        began, started = time.process_time(), time.perf_counter()
        alone = rate_alone(detector, files, seconds)
        done = alone * (time.perf_counter() - started)
        own = (time.process_time() - began) / done
        began = time.process_time() + service.processor_seconds()
        full = load(service, "part", images, clients=8, seconds=seconds, name=f"{name}.{turn}")
        ended = time.process_time() + service.processor_seconds()
        rates.append((alone, full["rate"]))
        used.append((own, (ended - began) / (full["rate"] * full["seconds"])))
    alone, served = (statistics.mean(of) for of in zip(*rates, strict=True))
    own, of_service = (statistics.mean(of) for of in zip(*used, strict=True))
    return alone, served, own / of_service


def time_single(detector: Detector, files: Sequence[Path], seconds: float) -> float:
    """Measure the median milliseconds that the detector takes for a single image."""
    single: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(single) < 5:
        began = time.perf_counter()
        detector.predict(files[len(single) % len(files)])
        single.append(time.perf_counter() - began)
    return 1000 * statistics.median(single)


def load(
    service: Service,
    model: str,
    images: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    rate: float | None = None,
    is_regular: bool = False,
    name: str,
) -> dict[str, float]:
    """Load the service: as much as it takes, or `rate` images a second, at regular or random times
    (a Poisson process).
    """
    took: list[float] = []
    lock = threading.Lock()
    begin = time.perf_counter()
    due = begin
    rng = random.Random(0)

    def next_time() -> float:
        nonlocal due
        with lock:
            if rate:
                due += 1 / rate if is_regular else rng.expovariate(rate)
            return due

    def work(number: int, line: Line) -> None:
        count = 0
        while (at := next_time()) < begin + seconds and time.perf_counter() < begin + seconds:
            time.sleep(max(0.0, at - time.perf_counter()))
            began = at if rate else time.perf_counter()
            count += 1
            status, _ = line.inspect(images[count % len(images)], f"{name}/{number}/{count}")
            if status == 200:
                with lock:
                    took.append(time.perf_counter() - began)

    with lines(service, model, clients) as opened:
        threads = [threading.Thread(target=work, args=item) for item in enumerate(opened)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ordered, lasted = sorted(took), time.perf_counter() - begin
    return {
        "seconds": lasted,
        "rate": len(took) / lasted,
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }


def kill_again_and_again(
    service: Service, model: str, images: Sequence[bytes], *, inspections: int, kills: int
) -> dict[str, Any]:
    """Kill the service under load, and compare what it answered with what it recorded."""
    answered: dict[str, float] = {}
    twice = 0
    lock = threading.Lock()
    numbers = iter(range(inspections))

    def work(line: Line) -> None:
        nonlocal twice
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            while True:  # again with the same key, until there is an answer
                status, row = line.inspect(images[number % len(images)], f"kills/{number}")
                if status == 200:
                    break
                time.sleep(0.05)
            with lock:
                twice += row["id"] in answered
                answered[row["id"]] = row["score"]

    with lines(service, model, 16) as opened:
        threads = [threading.Thread(target=work, args=(line,)) for line in opened]
        for thread in threads:
            thread.start()
        for kill in range(1, kills + 1):
            while len(answered) < inspections * kill / (kills + 1):
                time.sleep(0.01)
            service.kill()
            service.start()
        for thread in threads:
            thread.join()
    service.kill()
    with closing(sqlite3.connect(service.data / "station.db")) as connection:
        rows = connection.execute(
            "select id, score, request from inspections where request like '%/kills/%'"
        ).fetchall()
    recorded = {row[0]: row[1] for row in rows}
    verified = subprocess.run(
        [
            *(sys.executable, "-m", "cflow_ad", "records", "verify"),
            *("--data", str(service.data), "--rescore", "100"),
        ],
        capture_output=True,
        text=True,
    )
    return {
        "kills": kills,
        "answered": len(answered),
        "recorded": len(recorded),
        "answered and not recorded": len(answered.items() - recorded.items()),
        "recorded twice": len(rows) - len({row[2] for row in rows}) + twice,
        "records verify": verified.returncode,
    }


def main(options: argparse.Namespace) -> None:
    """Measure, and print the tables."""
    quick = options.quick
    seconds = 1.0 if quick else options.seconds
    with open_data(options, train=12, good=4, per_defect=1) as (dataset, settings):
        detector = fit(dataset, settings)
        files = [sample.path for sample in dataset.train][:32]
        images = [path.read_bytes() for path in files]
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "part.safetensors"
            detector.save(model, bundle=True)
            service = Service(model, Path(folder))
            start = service.start()
            rounds = []
            for number in range(1 if quick else ROUNDS):
                own, served, of_time = take_turns(
                    detector, files, service, images, seconds / TURNS, f"full{number}"
                )
                single = time_single(detector, files, seconds / 2)
                regular, at_random = (
                    load(
                        service,
                        "part",
                        images,
                        clients=16,
                        seconds=seconds,
                        rate=served / 2,
                        is_regular=is_regular,
                        name=f"half{is_regular}{number}",
                    )
                    for is_regular in (True, False)
                )
                rounds.append(
                    {
                        "detector": own,
                        "service": served,
                        "by_processor_time": of_time,
                        "single_ms": single,
                        "regular": regular,
                        "random": at_random,
                        "MiB": service.memory(),
                    }
                )
            service.stop()
            service.start()
            killed = kill_again_and_again(
                service, "part", images,
                inspections=40 if quick else options.inspections,
                kills=1 if quick else options.kills,
            )  # fmt: skip
    print(f"ready after {start:.1f} s\n")
    head = ("round", "detector images/s", "service images/s", "share", "by processor time")
    head += (
        "single ms",
        "half load p50 ms",
        "p99 ms",
        "p99 / single",
        "at random, p99 / single",
        "MiB",
    )
    rows = [
        (
            number,
            one["detector"],
            one["service"],
            one["service"] / one["detector"],
            one["by_processor_time"],
            one["single_ms"],
            one["regular"]["p50_ms"],
            one["regular"]["p99_ms"],
            one["regular"]["p99_ms"] / one["single_ms"],
            one["random"]["p99_ms"] / one["single_ms"],
            round(one["MiB"]),
        )
        for number, one in enumerate(rounds, start=1)
    ]
    print(markdown(head, rows))
    print("\n" + markdown(list(killed), [list(killed.values())]))
    report({"start_seconds": start, "rounds": rounds, "kills": killed}, options.json)


if __name__ == "__main__":
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--inspections", type=int, default=10_000)
    main(parser.parse_args())
