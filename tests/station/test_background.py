"""Pictures that come by themselves, verdicts that go by themselves, and training jobs."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import hashlib
import hmac
import http.server
import json
import shutil
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cflow_ad import Detector
from cflow_ad.station.config import (
    Camera,
    CsvDrop,
    Folder,
    Modbus,
    Mqtt,
    OpcUa,
    StationConfig,
    Webhook,
)
from cflow_ad.station.sinks.modbus import ModbusSink
from cflow_ad.station.sources import camera as camera_module
from cflow_ad.station.sources.cameras import CameraError, open_device
from tests.station.conftest import Client


def wait_for(condition, seconds=180.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def listens(port):
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def records(client, **query):
    return client.get("/v1/inspections", params=query).json()["items"]


def test_a_file_is_inspected_once_and_only_when_it_is_whole(config, pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    watched = dataclasses.replace(config, folders=(Folder(folder=str(folder), every=0.05),))
    with Client(watched) as client:
        half = folder / "a.png"
        half.write_bytes(pictures[0][:1000])
        for end in range(2000, len(pictures[0]), 4000):  # a slow writer
            half.write_bytes(pictures[0][:end])
            time.sleep(0.01)
        half.write_bytes(pictures[0])
        (folder / "b.png").write_bytes(pictures[1])
        wait_for(lambda: len(records(client)) == 2)
        time.sleep(0.3)
        found = {row["image_sha256"] for row in records(client)}
        assert found == {hashlib.sha256(data).hexdigest() for data in pictures[:2]}
        (folder / "c.png").write_bytes(b"not an image")
        wait_for(lambda: client.get("/v1/events?kind=folder").json()["items"])
        (folder / "c.png").write_bytes(pictures[2])
        wait_for(lambda: len(records(client)) == 3)
    with Client(watched) as client:  # the record says what was inspected already
        (folder / "d.png").write_bytes(pictures[3])
        wait_for(lambda: len(records(client)) == 4)
        time.sleep(0.3)
        assert len(records(client)) == 4


def test_inspected_files_are_moved_where_asked(config, pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(pictures[0])
    moving = Folder(folder=str(folder), every=0.05, after="move")
    with Client(dataclasses.replace(config, folders=(moving,))) as client:
        wait_for(lambda: (folder / "inspected" / "a.png").exists())
        assert len(records(client)) == 1
        (folder / ".b.png").write_bytes(pictures[2])
        (folder / "a.png").write_bytes(pictures[1])
        wait_for(lambda: len(list((folder / "inspected").iterdir())) == 2)
    moved = {path.read_bytes() for path in (folder / "inspected").iterdir()}
    assert moved == set(pictures[:2])


def test_a_file_that_cannot_be_read_holds_up_no_other(config, pictures, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(pictures[0])
    read_bytes = Path.read_bytes

    def read(path):
        if path.name == "a.png":
            raise PermissionError(13, "another program has it")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    moving = Folder(folder=str(folder), every=0.05, after="move")
    with Client(dataclasses.replace(config, folders=(moving,))):
        wait_for(lambda: (folder / "inspected" / "b.png").exists())
        monkeypatch.undo()
        wait_for(lambda: (folder / "inspected" / "a.png").exists())


@pytest.fixture
def emulated(monkeypatch, tmp_path, images):
    """A folder that pypylon's emulated camera plays."""
    pytest.importorskip("pypylon.pylon")
    monkeypatch.setenv("PYLON_CAMEMU", "1")
    folder = tmp_path / "played"
    folder.mkdir()
    Image.fromarray(np.asarray(images[0], np.uint8)).convert("L").save(folder / "0.png")
    return folder


@pytest.mark.parametrize("kind", ["Mono8", "Mono12", "BayerRG8", "BayerRG12"])
def test_an_industrial_camera_gives_the_picture_it_plays(emulated, images, kind):
    from pypylon import pylon

    from cflow_ad.station.sources.cameras import open_device, to_png

    device = open_device("basler:")
    try:
        camera = device._camera
        camera.StopGrabbing()
        camera.ImageFilename.Value = str(emulated)
        camera.ImageFileMode.Value = "On"
        camera.TestImageSelector.Value = "Off"
        camera.PixelFormat.Value = kind
        camera.Width.Value, camera.Height.Value = 96, 96
        camera.StartGrabbing(pylon.GrabStrategy_LatestImageOnly)
        pixels = device.read()
    finally:
        device.close()
    expected = np.asarray(Image.open(emulated / "0.png"), float)
    assert pixels.shape == ((96, 96) if kind.startswith("Mono") else (96, 96, 3))
    scale = 65535 if pixels.dtype == np.uint16 else 255
    grey = pixels.astype(float).reshape(96, 96, -1).mean(2) * 255 / scale
    if kind.startswith("Mono"):
        assert np.abs(grey - expected).max() <= 1.5
    else:  # its plane is interpolated between neighbours
        assert abs(grey.mean() - expected.mean()) < 3
    decoded = np.asarray(Image.open(__import__("io").BytesIO(to_png(pixels))))
    assert decoded.dtype == pixels.dtype or decoded.dtype == np.int32
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_deep_picture_is_written_in_the_depth_of_its_model(
    config, toy_detector, images, tmp_path, monkeypatch, bits
):
    """So a camera's 12 bits are read as in its files, which have them at the bottom of 16."""
    frame = images[0][..., 0].astype(np.uint16) * 16 + 7  # 12 bits

    class Given:
        def read(self):
            return frame << 4

        def close(self): ...

    monkeypatch.setattr("cflow_ad.station.sources.camera.open_device", lambda url: Given())
    detector = Detector(
        toy_detector.model,
        settings=dataclasses.replace(toy_detector.settings, bits=bits),
        calibration=toy_detector.calibration,
        training=toy_detector.training,
    )
    path = tmp_path / "part.safetensors"
    detector.save(path, bundle=True)
    camera = Camera(name="top", url="basler:")
    with Client(dataclasses.replace(config, models=(path,), cameras=(camera,))) as client:
        found = client.post("/v1/cameras/top/inspect").json()
    in_depth = {8: (frame >> 4).astype(np.uint8), 12: frame, 16: frame << 4}[bits]
    assert found["score"] == pytest.approx(detector.predict(in_depth).score, abs=1e-5)


class Scripted:
    """A camera of a library that fails in every way: it gives what it is told to, then is gone."""

    def __init__(self, frames):
        self.frames = iter(frames)

    def read(self):
        time.sleep(0.01)
        found = next(self.frames, None)
        if found is None:
            raise RuntimeError("it was unplugged")
        return found

    def close(self):
        raise RuntimeError("it is not there")


def play(monkeypatch, frames):
    opened = []
    monkeypatch.setattr(camera_module, "_LONGEST_PAUSE", 0.01)

    def open_device(url):
        opened.append(url)
        return Scripted(frames)

    monkeypatch.setattr(camera_module, "open_device", open_device)
    return opened


def test_a_camera_that_cannot_be_closed_is_opened_again(config, images, monkeypatch):
    opened = play(monkeypatch, [np.asarray(images[0], np.uint8)])
    camera = Camera(name="top", url="basler:")
    with Client(dataclasses.replace(config, cameras=(camera,))):
        wait_for(lambda: len(opened) > 2)


def test_a_fault_of_every_picture_is_told_once(config, monkeypatch):
    play(monkeypatch, [np.zeros((1, 1), np.uint8)] * 100)
    camera = Camera(name="top", url="basler:", every=0.02)
    with Client(dataclasses.replace(config, cameras=(camera,))) as client:
        inspected = []
        real = client.station.inspector.inspect

        def fail(*arguments, **options):
            inspected.append(1)
            options["name"] = "the picture"
            return real(b"none", *arguments[1:], **options)

        monkeypatch.setattr(client.station.inspector, "inspect", fail)
        wait_for(lambda: len(inspected) > 5)
        events = client.get("/v1/events?kind=camera&limit=100").json()["items"]
        assert sum("the picture" in event["data"]["text"] for event in events) == 1


def test_a_port_that_stays_in_use_is_told_once(config, monkeypatch):
    pytest.importorskip("pymodbus")
    tries = []

    async def serve(sink):
        tries.append(1)
        raise OSError("in use")

    monkeypatch.setattr(ModbusSink, "serve", serve)
    with Client(dataclasses.replace(config, modbus=Modbus(port=free_port()))) as client:
        (sink,) = client.station._sinks
        monkeypatch.setattr(sink._stopping, "wait", lambda seconds: time.sleep(0.01))
        wait_for(lambda: len(tries) > 3)
        assert len(client.get("/v1/events?kind=sink").json()["items"]) == 1


def write_video(path, images):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuvj444p"
        for pixels in images:
            frame = av.VideoFrame.from_ndarray(np.asarray(pixels, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_an_error_of_a_stream_shows_no_password():
    pytest.importorskip("av")
    with pytest.raises(CameraError, match=r"^rtsp://127\.0\.0\.1:9/line: ") as caught:
        open_device("rtsp://user:secret@127.0.0.1:9/line")
    assert "secret" not in f"{caught.value}{caught.value.values}"


def test_a_video_is_inspected_and_its_end_is_told(config, images, tmp_path):
    path = tmp_path / "line.avi"
    write_video(path, images * 3)
    camera = Camera(name="top", url=str(path), every=0.05)
    with Client(dataclasses.replace(config, cameras=(camera,))) as client:
        wait_for(lambda: records(client))
        assert records(client)[0]["source"] == "camera top"
        assert client.get("/v1/cameras/top/frame").headers["content-type"] == "image/jpeg"
        events = wait_for(lambda: client.get("/v1/events?kind=camera").json()["items"])
        assert "ended" in events[-1]["data"]["text"]


def test_a_camera_that_is_not_there_is_told_and_asked_for_again(config, tmp_path):
    path = tmp_path / "line.avi"
    camera = Camera(name="top", url=str(path))
    with Client(dataclasses.replace(config, cameras=(camera,))) as client:
        wait_for(lambda: client.get("/v1/events?kind=camera").json()["items"])
        assert client.get("/v1/cameras").json()["items"][0]["connected"] is False
        write_video(path, [np.zeros((96, 96, 3), np.uint8)] * 200)
        wait_for(lambda: len(client.get("/v1/events?kind=camera").json()["items"]) > 1)
        assert client.get("/v1/cameras/nowhere/frame").status_code == 404


@pytest.fixture
def broker(tmp_path):
    """Start and stop a real broker, which remembers what it has not delivered."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("needs mosquitto")
    port = free_port()
    written = tmp_path / "mosquitto.conf"
    written.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    running = []

    def start():
        process = subprocess.Popen([program, "-c", written], stderr=subprocess.DEVNULL)
        running.append(process)
        wait_for(lambda: listens(port))

    def stop():
        running[-1].terminate()
        running[-1].wait()

    yield port, start, stop
    for process in running:
        process.kill()
        process.wait()


class Listener:
    """Collects what a broker publishes."""

    def __init__(self, port):
        import paho.mqtt.client as mqtt

        self.messages = []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("cflow-ad/#", qos=1)
        self.client.on_message = lambda client, _, m: self.messages.append((m.topic, m.payload))
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def seqs(self):
        found = [json.loads(p) for topic, p in self.messages if topic.endswith("/inspection")]
        return [message["seq"] for message in found]

    def available(self):
        return [p.decode() for topic, p in self.messages if topic.endswith("/available")]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def test_verdicts_wait_for_a_broker_that_is_away(config, pictures, broker):
    port, start, stop = broker
    sink = dataclasses.replace(config, mqtt=Mqtt(host="127.0.0.1", port=port))
    with Client(sink) as client:
        client.inspect(pictures[0])  # before there is a broker
        start()
        listener = Listener(port)
        wait_for(lambda: listener.seqs() == [1])
        wait_for(lambda: listener.available()[-1:] == ["online"])
        listener.close()
        stop()
        for data in pictures[1:4]:
            client.inspect(data)
        assert client.get("/v1/outbox").json()["items"][0]["waiting"] == 3
        start()
        listener = Listener(port)
        wait_for(lambda: set(listener.seqs()) == {2, 3, 4})
        wait_for(lambda: client.get("/v1/outbox").json()["items"] == [])
    wait_for(lambda: listener.available()[-1:] == ["offline"])
    listener.close()


def test_the_broker_says_that_a_killed_station_is_away(model_file, serve, broker, tmp_path):
    port, start, _ = broker
    start()
    listener = Listener(port)
    written = tmp_path / "station.toml"
    written.write_text(f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n')
    served = serve(model_file, "--config", written, "--data", tmp_path / "data")
    wait_for(lambda: listener.available() == ["online"])
    served.kill()
    wait_for(lambda: listener.available() == ["online", "offline"])
    listener.close()


class Receiver(http.server.BaseHTTPRequestHandler):
    """Collects requests, and answers with the statuses that it is given."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((dict(self.headers), body))
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.requests, server.answers = [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def hooked(config, receiver, tmp_path, **options):
    (tmp_path / "secret").write_text("shared\n")
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    hook = Webhook(url=url, secret_file=str(tmp_path / "secret"), **options)
    return dataclasses.replace(config, webhook=hook)


def test_a_webhook_is_signed_tried_again_and_never_redirected(config, pictures, receiver, tmp_path):
    receiver.answers = [500, 302]
    with Client(hooked(config, receiver, tmp_path)) as client:
        number = client.inspect(pictures[0])["id"]
        wait_for(lambda: len(receiver.requests) == 3)
        wait_for(lambda: client.get("/v1/outbox").json()["items"] == [])
    for headers, body in receiver.requests:
        parts = dict(part.split("=") for part in headers["X-Cflow-Signature"].split(","))
        signed = parts["t"].encode() + b"." + body
        assert hmac.new(b"shared", signed, hashlib.sha256).hexdigest() == parts["v1"]
        assert headers["Idempotency-Key"] == number
        assert json.loads(body)["id"] == number


def test_what_is_refused_for_good_is_a_dead_letter_that_can_be_sent_again(
    config, pictures, receiver, tmp_path
):
    receiver.answers = [410]
    with Client(hooked(config, receiver, tmp_path, attempts=1)) as client:
        client.inspect(pictures[0])
        wait_for(lambda: client.get("/v1/outbox").json()["items"] and
                 client.get("/v1/outbox").json()["items"][0]["dead"] == 1)  # fmt: skip
        wait_for(lambda: client.get("/v1/events?kind=sink").json()["items"])
        assert client.post("/v1/outbox/webhook/retry").json() == {"revived": 1}
        wait_for(lambda: client.get("/v1/outbox").json()["items"] == [])
    assert len(receiver.requests) == 2


def test_each_verdict_is_dropped_as_a_file(config, pictures, tmp_path):
    drop = dataclasses.replace(config, csv=CsvDrop(folder=str(tmp_path / "drop")))
    with Client(drop) as client:
        answers = [client.inspect(data) for data in pictures[:2]]
        files = wait_for(
            lambda: len(found := sorted((tmp_path / "drop").glob("*.csv"))) == 2 and found
        )
    for answer, path in zip(answers, files, strict=True):
        (row,) = csv.DictReader(path.read_text().splitlines())
        assert row["id"] == answer["id"]
        assert float(row["score"]) == answer["score"]


def test_modbus_shows_the_last_verdict_and_a_heartbeat(config, odd, pictures):
    client_module = pytest.importorskip("pymodbus.client")
    port = free_port()
    with Client(dataclasses.replace(config, modbus=Modbus(port=port))) as client:
        modbus = client_module.ModbusTcpClient("127.0.0.1", port=port, timeout=60)
        wait_for(modbus.connect)

        def read():
            found = modbus.read_holding_registers(0, count=10)
            return struct.unpack(">HHIfff", struct.pack(">10H", *found.registers))

        assert read()[1:3] == (0, 0)
        answer = client.inspect(odd)
        _, verdict, _, score, threshold, _ = wait_for(lambda: read()[2] == 1 and read())
        assert verdict == 1 + answer["is_anomalous"]
        assert (score, threshold) == pytest.approx((answer["score"], answer["threshold"]))
        beat = read()[0]
        wait_for(lambda: read()[0] > beat)
        assert modbus.write_register(1, 1).isError(), "a line cannot write a verdict"
        client.station.problem = lambda: "the disk is full"
        stopped = read()
        assert stopped[1] == 0
        time.sleep(1.3)
        assert read() == stopped, "the heartbeat stands still"
        modbus.close()


def test_opcua_shows_the_last_verdict(config, odd):
    asyncua = pytest.importorskip("asyncua")
    port = free_port()
    with Client(dataclasses.replace(config, opcua=OpcUa(port=port))) as client:

        async def read(*names):
            url = f"opc.tcp://127.0.0.1:{port}/cflow-ad"
            async with asyncua.Client(url, timeout=60) as opc:
                space = await opc.get_namespace_index("urn:cflow-ad:station")
                found = []
                for name in names:
                    path = f"0:Objects/{space}:Inspection/{space}:{name}"
                    found.append(await (await opc.nodes.root.get_child(path)).read_value())
                return found

        def ask(*names):
            try:
                return asyncio.run(read(*names))
            except OSError:  # it does not listen yet
                return None

        answer = client.inspect(odd)
        wait_for(lambda: (ask("Number") or [0])[0] == 1)
        number, verdict, score = ask("Id", "Verdict", "Score")
        assert (number, score) == (answer["id"], answer["score"])
        assert verdict == 1 + answer["is_anomalous"]
        beat = ask("Heartbeat")[0]
        wait_for(lambda: ask("Heartbeat")[0] > beat)


def test_a_rule_raises_one_event_for_a_run(client, pictures, odd):
    client.put("/v1/models/part/rule", json={"anomalous": 2, "of": 3})
    client.post("/v1/models/part/thresholds", json={"value": -1.0, "reason": "all bad"})
    for data in pictures[:4]:
        client.inspect(data)
    events = wait_for(lambda: client.get("/v1/events?kind=rule").json()["items"])
    time.sleep(0.2)
    assert len(client.get("/v1/events?kind=rule").json()["items"]) == 1
    assert events[0]["data"]["anomalous"] == 2
    number = events[0]["id"]
    assert client.post(f"/v1/events/{number}/acknowledge").status_code == 204
    seen = client.get("/v1/events").json()["items"][0]["acknowledged"]
    assert seen["author"] == "key tests"


def test_a_configuration_file_says_what_is_wrong_with_it(tmp_path):
    from cflow_ad.errors import SettingsError
    from cflow_ad.station.config import read_config

    path = tmp_path / "station.toml"
    for text, said in (
        ("nonsense = 1", "unknown nonsense"),
        ("port = 'x'", "port: 'x' is not a int"),
        ("[mqtt]\nport = 1", "host is missing"),
        ("[retention]\nkeep = 'some'", "all, anomalous or none"),
        ("x = ", "not a TOML file"),
        ("[[folders]]\nfolder = 1", "folder: 1 is not a str"),
        ("[[folders]]\nfolder = 'in'\nafter = 'remove'", "keep, delete or move"),
        ("[[folders]]\nfolder = 'in'\nevery = 0", "every is 0"),
        ("name = 'hall 1/line 3'", "name is 'hall 1/line 3'"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=said):
            read_config(path, data=tmp_path)
    path.write_text('host = "10.0.0.1"\n[limits]\nupload_seconds = 3\n[[folders]]\nfolder = "in"\n')
    config = read_config(path, data=tmp_path, host=None)
    assert isinstance(config, StationConfig)
    assert (config.host, config.limits.upload_seconds) == ("10.0.0.1", 3.0)
    assert config.folders[0].folder == "in"
