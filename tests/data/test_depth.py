"""Laws of depth: one for a data set, found from all of its good images, and a mix is named."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np
import pytest

from cflow_ad.data.check import check_dataset
from cflow_ad.data.decoding.raster import Header, Raster, Reading, find_fewer_bits
from cflow_ad.data.depth import find_depth, require_depth
from cflow_ad.data.images import as_image, read_image
from cflow_ad.data.layouts import open_dataset
from cflow_ad.errors import DataError, DepthWarning, ImageError
from tests.data.pictures import save

H, W = 20, 30
RNG = np.random.default_rng(0)


def picture(bits, *, light=1.0):
    """A picture of middle brightness, with one glint of nearly white."""
    values = RNG.uniform(0.2, 0.6, (H, W)) * light * (2**bits - 1)
    values[0, 0] = 0.97 * (2**bits - 1) * light
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def folder(path, pictures, suffix="png"):
    path.mkdir(parents=True, exist_ok=True)
    return [save(path / f"{n}.{suffix}", each) for n, each in enumerate(pictures)]


def with_sbit(path, bits):
    """State significant bits in a PNG of grey."""
    data = path.read_bytes()
    start = data.index(b"IHDR") + 4 + 13 + 4
    body = b"sBIT" + bytes([bits])
    chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data[:start] + chunk + data[start:])
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_largest_value_of_all_says_the_depth(tmp_path, bits, suffix):
    dark = (picture(bits) // 100).astype(np.uint16)
    paths = folder(tmp_path, [dark, picture(bits).astype(np.uint16), dark], suffix)
    depth = require_depth(paths, Reading())
    assert depth.bits == bits
    assert "largest value" in depth.note
    white = read_image(save(tmp_path / "white.png", np.full((2, 2), 2**bits - 1, np.uint16)))
    assert white.max() == (2**bits - 1) / 257  # without the depth
    found = read_image(tmp_path / "white.png", Reading(bits=bits))
    np.testing.assert_array_equal(found, 255)


def test_8_bits_are_8_bits(tmp_path):
    paths = folder(tmp_path, [picture(8), picture(8)])
    assert require_depth(paths, Reading()) == (8, "8 bits, as the files state", (), None)
    assert require_depth([RNG.random((4, 4, 3)) * 255], Reading()).bits == 8


def test_a_depth_that_is_given_is_taken(tmp_path):
    paths = folder(tmp_path, [picture(10), picture(8)])
    assert require_depth(paths, Reading(bits=12))[:3] == (12, "12 bits, as given", ())


def test_arrays_files_and_pillow_images_have_depths(tmp_path):
    path = save(tmp_path / "a.png", picture(12))
    for source in (path, str(path), read_raw(path)):
        assert find_depth([source], Reading()).bits == 12


def read_raw(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image).astype(np.uint16)


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (8, 16, "seems to hold 16 bits in 16, but others state 8 bits"),
        (16, 8, "states 8 bits, but other images hold 16 bits"),
        (12, 8, "states 8 bits, but other images hold 12 bits"),
        (16, 12, "it seems to hold 12 bits in 16 and others 16"),
        (12, 16, "it seems to hold 16 bits in 16 and others 12"),
        (12, 10, "it seems to hold 10 bits in 16 and others 12"),
    ],
)
def test_a_mix_is_named(tmp_path, first, second, why):
    good = tmp_path / "good"
    paths = folder(good, [picture(first) for _ in range(4)])
    odd = save(good / "odd.png", picture(second))
    with pytest.raises(DataError, match=rf"odd\.png: {why}.*--bits") as caught:
        require_depth([*paths, odd], Reading())
    assert "more images" not in str(caught.value)
    check = check_dataset(open_dataset(good))
    found = [finding.path.name for finding in check.errors if finding.kind == "mixed depths"]
    assert found == ["odd.png"]
    bits = max(first, second)
    assert not check_dataset(open_dataset(good), Reading(bits=bits)).errors


def test_a_glint_or_another_light_is_no_other_depth(tmp_path):
    glint = picture(12)
    plain = glint.copy()
    glint[0, 0] = 60000
    dim = [picture(16, light=0.05), picture(16, light=0.2), picture(16)]
    assert require_depth(folder(tmp_path / "a", [plain, glint]), Reading()).bits == 16
    assert require_depth(folder(tmp_path / "b", dim), Reading()).bits == 16


def test_significant_bits_of_a_png(tmp_path):
    low = [with_sbit(path, 12) for path in folder(tmp_path / "low", [picture(10)] * 2)]
    assert require_depth(low, Reading()).bits == 12
    scaled = [with_sbit(path, 12) for path in folder(tmp_path / "scaled", [picture(12) * 16] * 2)]
    assert require_depth(scaled, Reading()).bits == 16
    odd = with_sbit(save(tmp_path / "odd.png", picture(10)), 10)
    with pytest.raises(DataError, match=r"odd\.png: its sBIT states 10 bits, that of most 12"):
        require_depth([*low, odd], Reading())


def test_files_that_state_their_depth_must_agree(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    paths = [tmp_path / f"{n}.tif" for n in range(3)]
    for path, bits in zip(paths, (12, 12, 10), strict=True):
        tifffile.imwrite(path, picture(bits), bitspersample=bits)
    assert require_depth(paths[:2], Reading()).bits == 12
    with pytest.raises(DataError, match=r"2\.tif: 10 bits, but most have 12"):
        require_depth(paths, Reading())


def test_an_image_above_white_is_named(tmp_path):
    path = save(tmp_path / "a.png", picture(16))
    for source in (path, read_raw(path)):
        with pytest.raises(ImageError, match=r"above white, which is 4095: .* with --bits 16"):
            as_image(source, Reading(bits=12))


def good_and_other(path, values, *, bits=16):
    """How the images of a data set are read, and one more image."""
    good = folder(path / "good", [picture(bits, light=light) for light in (0.7, 0.8, 1.0)])
    depth = require_depth(good, Reading())
    reading = Reading(depth.bits, brightness=depth.brightness)
    return reading, save(path / "other.png", values.astype(np.uint16))


@pytest.mark.parametrize(("bits", "fewer"), [(16, 14), (16, 12), (16, 10), (12, 10), (16, 8)])
def test_an_image_of_fewer_bits_than_the_good_ones_is_named_once(tmp_path, bits, fewer):
    reading, path = good_and_other(tmp_path, picture(fewer), bits=bits)
    said = rf"other\.png: .* {bits} bits and seems to hold {fewer}: .*--bits {fewer} "
    with pytest.warns(DepthWarning, match=said):
        read_image(path, reading)
    read_image(path, reading)  # warnings are errors here
    read_image(path, dataclasses.replace(reading, bits=fewer))  # of that depth, nothing is said


def test_an_array_of_fewer_bits_is_named(tmp_path):
    reading, _ = good_and_other(tmp_path, picture(12))
    with pytest.warns(DepthWarning, match="the image array: .* seems to hold 12"):
        as_image(picture(12), reading)


@pytest.mark.parametrize(
    "dark",
    [
        picture(16),
        *(picture(16, light=light) for light in (0.6, 0.5, 0.4)),
        *(picture(16, light=light) for light in (0.14, 0.1)),  # not a quarter, not a sixteenth
        picture(16, light=0.001),
        np.zeros((H, W)),
        np.maximum(picture(16, light=0.06), 5000 * np.eye(H, W)),  # a glint
        picture(16) * (np.arange(W) < 2),  # a part that covers little
    ],
)
def test_an_honestly_dark_image_is_not_named(tmp_path, dark):
    read_image(good_and_other(tmp_path, dark)[1], good_and_other(tmp_path, dark)[0])


def test_no_brightness_between_two_depths_is_named():
    """Of good images that hardly differ: what is named is a narrow band about each depth's."""
    named = []
    for light in np.geomspace(1e-4, 1, 200):
        values = np.full((4, 4, 1), round(0.5 * light * 65535), np.uint16)
        raster = Raster(values, Header((4, 4), "I;16", None))
        if find_fewer_bits(raster, Reading(16, brightness=(0.48, 0.52))):
            named.append(light)
    assert all(min(abs(np.log(light * 4**n)) for n in range(1, 5)) < 0.3 for light in named)
    assert len(named) < 50


def test_what_a_file_states_is_not_doubted(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    reading, _ = good_and_other(tmp_path, picture(16))
    tag = (341, "H", 1, 4095, True)  # SMaxSampleValue
    tifffile.imwrite(tmp_path / "a.tif", picture(12), extratags=[tag])
    assert read_image(tmp_path / "a.tif", reading).max() > 240
    read_image(save(tmp_path / "8.png", picture(8) // 16), reading)


def test_where_good_images_are_as_dark_nothing_is_said(tmp_path):
    good = folder(tmp_path, [picture(16), picture(16, light=0.1), picture(16, light=0.06)])
    depth = require_depth(good, Reading())
    path = save(tmp_path / "other.png", picture(12))
    read_image(path, Reading(16, brightness=depth.brightness))


def test_data_check_names_test_images_of_fewer_bits(tmp_path):
    folder(tmp_path / "train" / "good", [picture(16)] * 3)
    folder(tmp_path / "test" / "good", [picture(16), picture(12), picture(12)])
    check = check_dataset(open_dataset(tmp_path))
    found = [each.path.name for each in check.warnings if each.kind == "fewer bits"]
    assert (found, check.errors) == (["1.png", "2.png"], ())


def test_data_check_says_the_depth_and_names_what_exceeds_it(tmp_path):
    folder(tmp_path / "train" / "good", [picture(12), picture(12)])
    folder(tmp_path / "test" / "good", [picture(12), picture(16)])
    check = check_dataset(open_dataset(tmp_path))
    assert (check.depth.bits, check.to_dict()["bits"]) == (12, 12)
    assert [finding.path.name for finding in check.errors] == ["1.png"]
    assert "above white" in check.errors[0].reason


def test_files_that_cannot_be_read_are_left_to_be_reported_later(tmp_path):
    paths = folder(tmp_path, [picture(12)])
    (tmp_path / "bad.png").write_bytes(b"text")
    assert require_depth([*paths, tmp_path / "bad.png"], Reading()).bits == 12
