"""Pictures in, verdicts out; and every verdict in the record."""

from __future__ import annotations

import base64
import dataclasses
import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cflow_ad import CalibrationWarning, Detector
from cflow_ad.runtime.opening import open_detector
from cflow_ad.station.pictures import PictureStore
from tests.golden.exported import exported_file
from tests.golden.images import golden_images
from tests.station.conftest import Client, png


@pytest.fixture
def detector(model_file):
    return open_detector(model_file, device="cpu")


def test_an_answer_is_what_the_detector_says_and_what_the_record_holds(
    client, detector, pictures, odd, tmp_path
):
    for data in (pictures[0], odd):
        answer = client.inspect(data, source="line 3")
        path = tmp_path / "x.png"
        path.write_bytes(data)
        expected = detector.predict(path)
        assert answer["score"] == pytest.approx(expected.score, rel=1e-6)
        assert answer["is_anomalous"] == expected.is_anomalous
        assert answer["threshold"] == detector.threshold
        assert answer["regions"] == [region.to_dict() for region in expected.regions]
        stored = client.get(f"/v1/inspections/{answer['id']}").json()
        for name in ("score", "p_value", "threshold", "is_anomalous", "regions", "model", "odds"):
            assert stored[name] == answer[name]
        assert stored["source"] == "line 3"
        assert client.get(f"/v1/inspections/{answer['id']}/picture").content == data
    listed = client.get("/v1/inspections").json()
    assert [row["seq"] for row in listed["items"]] == [2, 1]
    assert listed["next"] is None


def test_a_form_and_a_batch_give_the_same_as_single_images(client, pictures, odd):
    single = [client.inspect(data)["score"] for data in (pictures[0], odd)]
    form = client.post("/v1/models/part/inspect", files={"image": ("a.png", odd)}).json()
    assert form["score"] == single[1]
    files = [("image", ("a.png", pictures[0])), ("image", ("b", b"no")), ("image", ("c", odd))]
    items = client.post("/v1/models/part/inspect/batch", files=files).json()["items"]
    assert [items[0]["score"], items[2]["score"]] == single
    assert "not a" in items[1]["error"]
    assert client.get("/v1/inspections").json()["items"][0]["seq"] == 5  # one was no image


def test_a_disk_that_fails_at_one_image_of_a_batch_costs_no_other_its_answer(
    client, pictures, monkeypatch
):
    keep = client.station.pictures.keep

    def fail(data, number, **options):
        if data == pictures[1]:
            raise OSError(28, "No space left on device")
        return keep(data, number, **options)

    monkeypatch.setattr(client.station.pictures, "keep", fail)
    files = [("image", (f"{n}.png", data)) for n, data in enumerate(pictures[:3])]
    items = client.post("/v1/models/part/inspect/batch", files=files).json()["items"]
    assert [item.get("code", "") for item in items] == ["", "disk.failed", ""]


def test_the_score_does_not_depend_on_who_else_asks(client, pictures, odd):
    alone = [client.inspect(data)["score"] for data in (*pictures[:3], odd)]
    found = {}

    def ask(number):
        found[number] = client.inspect((*pictures[:3], odd)[number % 4])["score"]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == alone[n % 4] for n in range(24))
    seqs = [row["seq"] for row in client.get("/v1/inspections?limit=500").json()["items"]]
    assert seqs == list(range(28, 0, -1))


def test_pages_of_the_record_list_each_inspection_once_newest_first(client, pictures):
    for data in pictures[:5]:
        client.inspect(data)
    seen, cursor = [], None
    while True:
        page = client.get("/v1/inspections", params={"limit": 2, "cursor": cursor}).json()
        seen += [row["seq"] for row in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
        client.inspect(pictures[0])  # new ones do not move the pages
    assert seen == [5, 4, 3, 2, 1]


def test_a_repeated_request_key_gives_the_first_answer_and_one_record(client, pictures, odd):
    headers = {"Idempotency-Key": "part 77", "content-type": "image/png"}
    first = client.post("/v1/models/part/inspect", content=pictures[0], headers=headers).json()
    again = client.post("/v1/models/part/inspect", content=odd, headers=headers).json()
    assert again["id"] == first["id"]
    assert again["score"] == first["score"]
    assert len(client.get("/v1/inspections").json()["items"]) == 1


def test_requests_with_one_key_at_the_same_time_give_one_record_and_one_picture(
    config, pictures, odd
):
    headers = {"Idempotency-Key": "part 78", "content-type": "image/png"}
    with Client(config) as client, ThreadPoolExecutor(8) as pool:

        def ask(data):
            return client.post("/v1/models/part/inspect", content=data, headers=headers).json()

        answers = list(pool.map(ask, [pictures[0], odd] * 4))
        assert len(client.get("/v1/inspections").json()["items"]) == 1
    assert len({(answer["id"], answer["score"], answer["is_anomalous"]) for answer in answers}) == 1
    assert len(list(config.data.glob("pictures/????-*/*"))) == 1


def test_a_core_scores_while_a_picture_is_written_to_the_disk(config, pictures, monkeypatch):
    both = threading.Barrier(2, timeout=10)
    keep = PictureStore.keep

    def slowly(self, data, number, *, longer):
        both.wait()
        return keep(self, data, number, longer=longer)

    monkeypatch.setattr(PictureStore, "keep", slowly)
    with Client(dataclasses.replace(config, workers=1)) as client, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(client.inspect, pictures[:2]))
    assert sorted(answer["seq"] for answer in answers) == [1, 2]


def test_results_come_as_pictures_and_are_the_same_when_scored_again(client, odd, images):
    answer = client.inspect(odd, include="mask,map,heat,overlay")
    assert set(answer["images"]) == {"mask", "map", "heat", "overlay"}
    for kind, text in answer["images"].items():
        kept = client.get(f"/v1/inspections/{answer['id']}/{kind}")
        assert kept.headers["content-type"] == "image/png"
        assert kept.content == base64.b64decode(text)
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"]["mask"]))))
    assert mask.shape == images[0].shape[:2]
    assert answer["is_anomalous"] == bool(mask.any())
    assert sum(region["area"] for region in answer["regions"]) == (mask > 0).sum()
    thumbnail = client.get(f"/v1/inspections/{answer['id']}/thumbnail")
    assert Image.open(io.BytesIO(thumbnail.content)).format == "JPEG"


def test_similar_parts_are_the_nearest_ones(client, pictures, odd):
    ids = [client.inspect(data)["id"] for data in (odd, pictures[1], pictures[2], odd)]
    items = client.get(f"/v1/inspections/{ids[0]}/similar?limit=2").json()["items"]
    assert items[0]["inspection"]["id"] == ids[3]
    assert items[0]["distance"] == 0
    assert items[1]["distance"] > 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"GIF89a nonsense", "not supported"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(client, data, said):
    answer = client.post(
        "/v1/models/part/inspect", content=data, headers={"content-type": "image/png"}
    )
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("the image:")
    assert said in answer.json()["detail"]
    assert client.get("/v1/inspections").json()["items"] == []


def test_a_truncated_image_is_refused(client, pictures):
    answer = client.post("/v1/models/part/inspect", content=pictures[0][:-500])
    assert answer.status_code == 422
    assert "damaged or truncated" in answer.json()["detail"]
    assert str(client.station.config.data) not in answer.json()["detail"]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_an_exported_model_is_served(format, config, tmp_path):
    """And kept whole in the station's folder, whatever becomes of the files it came from."""
    exported = exported_file(format, size="64x64")
    for path in exported.parent.iterdir():  # of OpenVINO two
        shutil.copyfile(path, tmp_path / f"part{path.suffix}")
    image = golden_images()["hole"]
    expected = open_detector(exported, device="cpu").predict(image)
    with Client(
        dataclasses.replace(config, models=(tmp_path / f"part{exported.suffix}",))
    ) as client:
        answer = client.inspect(png(image), include="mask")
    for path in tmp_path.glob("part.*"):
        path.unlink()
    with Client(dataclasses.replace(config, models=())) as client:
        again = client.inspect(png(image))
        similar = client.get(f"/v1/inspections/{again['id']}/similar").json()["items"]
    assert answer["score"] == again["score"] == pytest.approx(expected.score, rel=1e-5)
    assert answer["is_anomalous"] == expected.is_anomalous
    assert answer["regions"] == [region.to_dict() for region in expected.regions]
    assert [item["distance"] for item in similar] == [0.0]


def test_a_picture_of_12_bits_is_read_as_its_model_reads_it(toy_settings, images, config, tmp_path):
    deep = [np.asarray(image, np.uint16).mean(2).astype(np.uint16) * 16 for image in images]
    folder = tmp_path / "good"
    folder.mkdir()
    for number, pixels in enumerate(deep):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    settings = dataclasses.replace(toy_settings, bits=12)
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(folder, settings, device="cpu")
    detector.save(tmp_path / "part.safetensors", bundle=True)
    config = dataclasses.replace(config, models=(tmp_path / "part.safetensors",))
    with Client(config) as client:
        answer = client.inspect((folder / "0.png").read_bytes(), include="overlay")
        assert answer["score"] == pytest.approx(detector.predict(folder / "0.png").score, rel=1e-6)
        overlay = Image.open(io.BytesIO(base64.b64decode(answer["images"]["overlay"])))
        assert np.asarray(overlay).mean() == pytest.approx(deep[0].mean() / 4095 * 255, abs=8)
        kept = client.get(f"/v1/inspections/{answer['id']}/overlay").content
        assert kept == base64.b64decode(answer["images"]["overlay"])
