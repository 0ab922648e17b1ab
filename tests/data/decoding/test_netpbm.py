"""Laws of PBM, PGM and PPM: the values of a second library, in plain and in binary form."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.decoding.files import read_header_of
from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.images import as_image, image_shape, read_image
from cflow_ad.errors import ImageError
from tests.data.pictures import save

H, W = 5, 11
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (H, W, 3), dtype=np.uint16)
BITS = RGB[..., 0] > 127


def binary(kind, array, largest):
    channels = array.shape[2] if array.ndim == 3 else 1
    assert (channels == 3) == (kind == 6)
    samples = array.astype(">u2" if largest > 255 else np.uint8)
    return b"P%d\n%d %d\n%d\n" % (kind, W, H, largest) + samples.tobytes()


def plain(kind, array, largest=None):
    head = f"P{kind} {W}\n# made by a test\n{H}\n" + (f"{largest}\n" if largest else "")
    return (head + "\n".join(map(str, array.ravel().astype(int)))).encode()


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("array", [RGB, RGB[..., 0]], ids=["colour", "grey"])
def test_8_bits_are_those_of_pillow(tmp_path, array):
    ours = read_image(save(tmp_path / "a.ppm", array))
    with Image.open(tmp_path / "a.ppm") as image:
        np.testing.assert_array_equal(ours, as_image(np.asarray(image)))
    kind = 3 if array.ndim == 3 else 2
    same = read_image(write(tmp_path / "b.pnm", plain(kind, array, 255)))
    np.testing.assert_array_equal(same, ours)


@pytest.mark.parametrize("array", [RGB16, RGB16[..., 0]], ids=["colour", "grey"])
@pytest.mark.parametrize("form", [binary, plain])
def test_16_bits_keep_their_precision(tmp_path, array, form):
    kind = (6 if array.ndim == 3 else 5) - 3 * (form is plain)
    path = write(tmp_path / "a.ppm", form(kind, array, 65535))
    assert image_shape(path) == (H, W)
    np.testing.assert_array_equal(read_image(path), as_image(array))


def test_16_bits_are_those_of_opencv(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.ppm"), RGB16[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.ppm"), as_image(RGB16))


def test_bitmaps_are_black_where_they_are_1(tmp_path):
    expected = as_image(np.where(BITS, 0, 255).astype(np.uint8))
    packed = save(tmp_path / "a.pbm", Image.fromarray(~BITS))
    assert packed.read_bytes().startswith(b"P4")
    np.testing.assert_array_equal(read_image(packed), expected)
    together = b"P1\n%d %d\n" % (W, H) + "".join(map(str, BITS.ravel().astype(int))).encode()
    for number, data in enumerate((plain(1, BITS), together)):
        np.testing.assert_array_equal(read_image(write(tmp_path / f"{number}", data)), expected)


@pytest.mark.parametrize("bits", [10, 12])
def test_the_largest_value_states_the_depth(tmp_path, bits):
    largest = 2**bits - 1
    values = RGB16 >> (16 - bits)
    path = write(tmp_path / "a.ppm", binary(6, values, largest))
    for reading in (Reading(), Reading(bits=16)):
        np.testing.assert_allclose(read_image(path, reading), values * (255 / largest), rtol=1e-6)


@pytest.mark.parametrize("largest", [1, 15, 100, 1000])
def test_any_largest_value_is_white(tmp_path, largest):
    values = RNG.integers(0, largest + 1, (H, W))
    pixels = read_image(write(tmp_path / "a.pgm", binary(5, values, largest)))
    tolerance = 0.5 if largest < 256 else 0.5 / 257
    assert np.abs(pixels[..., 0] - values * (255 / largest)).max() <= tolerance + 1e-4


def test_several_images_in_a_file(tmp_path):
    one, other = binary(6, RGB, 255), binary(5, RGB[..., 0], 255)
    path = write(tmp_path / "a.pnm", one + other)
    with pytest.raises(ImageError, match="holds 2 images"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, Reading(page=2)), as_image(RGB[..., 0]))


class Counted(io.BytesIO):
    """Counts the bytes that are read."""

    n_bytes = 0

    def read(self, size=-1):
        data = super().read(size)
        self.n_bytes += len(data)
        return data


def test_a_header_is_read_without_the_pixels():
    large = b"P6\n3000 2000\n4095\n" + bytes(2 * 3 * 3000 * 2000)
    two = large + b"P5 # the second\n200 100\n255\n" + bytes(100 * 200)
    commented = b"P5\n#" + 5000 * b"a" + b"\n7 9\n" + 246 * b" " + b"255\n" + bytes(63)
    for data, page, shape in (
        (large, None, (2000, 3000)),
        (two, None, (2000, 3000)),
        (two, 2, (100, 200)),
        (commented, None, (9, 7)),
    ):
        file = Counted(data)
        assert read_header_of(file, "a", Reading(page=page)).shape == shape
        assert file.n_bytes < 20_000


def test_a_header_may_be_split_anywhere_by_comments(tmp_path):
    """However long they are, no number is cut."""
    for length in range(225, 260):
        data = b"P5\n#" + length * b"a" + b"\n%d %d\n255\n" % (W, H) + RGB[..., 0].tobytes()
        pixels = read_image(write(tmp_path / "a.pgm", data))
        np.testing.assert_array_equal(pixels, as_image(RGB[..., 0]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (binary(6, RGB, 255)[:-1], "damaged.*bytes of samples"),
        (plain(2, RGB[..., 0], 255)[:-5], "damaged"),
        (plain(2, RGB[..., 0], 255).replace(b"\n", b"\nx", 7), "damaged"),
        (binary(5, RGB[..., 0], 100), "a sample is .*, but the largest 100"),
        (b"P5 4 4 70000\n", "the largest value is 70000"),
        (b"P5 4 0 255\n", "no pixels"),
        (b"P6 40000 40000 255\n", "500 million"),
        (b"P5 4", "damaged"),
        (b"P7\nWIDTH 4\n", "a PAM image is not supported"),
        (b"Pf\n4 4\n-1.0\n", "a PFM image, of float, is not supported"),
    ],
)
def test_bad_files(tmp_path, data, message):
    with pytest.raises(ImageError, match=message):
        read_image(write(tmp_path / "a.pgm", data))


def test_damage_anywhere_is_an_image_error_or_an_image():
    whole = plain(3, RGB, 255)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        data = bytearray(whole[: rng.integers(3, len(whole) + 1)])
        data[rng.integers(2, len(data))] = rng.integers(256)
        try:
            pixels = _read(bytes(data))
        except ImageError:
            continue
        assert pixels.shape[2] == 3


def _read(data):
    from cflow_ad.data.decoding import netpbm
    from cflow_ad.data.decoding.raster import to_pixels

    assert io.BytesIO(data).read(2)
    return to_pixels(netpbm.read(io.BytesIO(data), "a", Reading()), Reading(), "a")
