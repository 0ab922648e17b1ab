"""Laws of reading images: one scale, one orientation, and a plain sentence for every bad file."""

import io
import logging
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.images import as_image, image_shape, read_image
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import ImageError
from tests.data.pictures import save, with_orientation

H, W = 5, 7
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (H, W), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (H, W), dtype=np.uint16)
SMOOTH = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_header(width, height):
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr)


# What is read


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "webp", "PNG"])
def test_every_lossless_format_gives_the_same_pixels(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    pixels = read_image(save(tmp_path / f"a.{suffix}", RGB, **options))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, RGB)


def test_a_jpeg_is_close_and_the_name_does_not_matter(tmp_path):
    path = save(tmp_path / "a.png", SMOOTH, format="JPEG", quality=95)
    assert np.abs(read_image(path).astype(int) - SMOOTH).max() < 16


def test_pixels_are_contiguous_and_writeable(tmp_path):
    for path in (save(tmp_path / "a.png", RGB), save(tmp_path / "b.png", GREY16)):
        assert read_image(path).flags.carray
    frozen = RGB.copy()
    frozen.flags.writeable = False
    for array in (frozen, RGB[:, ::-1], GREY, np.asfortranarray(RGB)):
        assert as_image(array).flags.carray


def test_grey_is_repeated(tmp_path):
    pixels = read_image(save(tmp_path / "a.png", GREY))
    np.testing.assert_array_equal(pixels, np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_keeps_its_precision_on_the_8_bit_scale(tmp_path, suffix):
    pixels = read_image(save(tmp_path / f"a.{suffix}", GREY16))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(np.rint(pixels * 257), np.stack([GREY16] * 3, axis=2))
    same = read_image(save(tmp_path / f"b.{suffix}", GREY.astype(np.uint16) * 257))
    np.testing.assert_array_equal(same[..., 0], GREY)


def test_a_dark_16_bit_image_stays_dark(tmp_path):
    assert read_image(save(tmp_path / "a.png", np.full((3, 3), 257, np.uint16))).max() == 1


def test_big_endian_16_bit_tiff(tmp_path):
    big = Image.frombytes("I;16B", (W, H), GREY16.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.tif", big)), as_image(GREY16))


def test_32_bit_integers_are_accepted_within_16_bits(tmp_path):
    inside = read_image(save(tmp_path / "a.tif", GREY16.astype(np.int32)))
    np.testing.assert_array_equal(inside, as_image(GREY16))
    for value, problem in ((-1, "which of them is black is not known"), (65536, "outside 16 bits")):
        path = save(tmp_path / f"{value}.tif", np.full((2, 2), value, np.int32))
        with pytest.raises(ImageError, match=rf"{value}.*{problem}"):
            read_image(path)


def test_one_bit(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(GREY > 127))
    np.testing.assert_array_equal(read_image(path)[..., 1], np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparent_pixels_lie_on_black(tmp_path, suffix):
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    rgba = np.dstack([RGB, GREY])
    pixels = read_image(save(tmp_path / f"a.{suffix}", rgba, **options))
    np.testing.assert_array_equal(pixels, np.rint(RGB * (GREY[..., None] / 255)))
    rgba[..., 3] = 0
    assert not read_image(save(tmp_path / f"b.{suffix}", rgba, **options)).any()


def test_grey_with_alpha(tmp_path):
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(RGB[..., 0])])
    expected = np.rint(GREY * (RGB[..., 0] / 255))
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", image))[..., 2], expected)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_palette_with_transparency(tmp_path, transparency):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 100, 100, 200])
    pixels = read_image(save(tmp_path / "a.png", image, transparency=transparency))
    last = [100, 100, 200] if transparency == 1 else [50, 50, 100]
    np.testing.assert_array_equal(pixels, [[[10, 20, 30], [0, 0, 0], last]])


@pytest.mark.parametrize(("array", "key"), [(RGB, (1, 2, 3)), (GREY, 7), (GREY16, 7)])
def test_a_transparent_colour_is_black(tmp_path, array, key):
    array = array.copy()
    array[array == 7] = 8
    array[0, 0] = key
    pixels = read_image(save(tmp_path / "a.png", array, transparency=key))
    expected = as_image(array)
    expected[0, 0] = 0
    np.testing.assert_array_equal(pixels, expected)


def test_cmyk_jpeg(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = read_image(save(tmp_path / "a.jpg", cmyk, quality=100))
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("mode", ["YCbCr", "HSV"])
def test_other_colour_spaces_come_back_as_rgb(mode):
    back = as_image(Image.fromarray(SMOOTH).convert(mode))
    assert np.abs(back.astype(int) - SMOOTH).max() <= 8


MODES = ["1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LA", "La"]
MODES += ["PA", "I", "I;16", "I;16B", "I;16L"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_with_a_known_white_is_read(mode):
    pixels = as_image(Image.new(mode, (W, H)))
    assert pixels.shape == (H, W, 3)
    assert 0 <= pixels.min() <= pixels.max() <= 255


def test_colours_without_a_fixed_white_are_refused(tmp_path):
    image = Image.new("LAB", (W, H), (128, 10, 10))
    image.save(tmp_path / "a.tif")
    for source in (image, tmp_path / "a.tif"):
        with pytest.raises(ImageError, match=r"in L\*a\*b\* colours is not supported; convert it"):
            as_image(source)


def test_of_several_images_in_a_file_one_has_to_be_chosen(tmp_path):
    second = Image.fromarray(255 - RGB)
    for name, options in [("a.tif", {}), ("a.png", {}), ("a.webp", {"lossless": True})]:
        path = save(tmp_path / name, RGB, save_all=True, append_images=[second], **options)
        for page, expected in ((1, RGB), (2, 255 - RGB)):
            reading = Reading(page=page)
            np.testing.assert_array_equal(read_image(path, reading), expected)
            assert image_shape(path, reading) == (H, W)
        with pytest.raises(ImageError, match=r"holds 2 images .* choose one with --page"):
            read_image(path)
        with pytest.raises(ImageError, match="page 3 was asked for, but it holds 2"):
            read_image(path, Reading(page=3))
    with pytest.raises(ImageError, match="page 2 was asked for, but it holds 1"):
        read_image(save(tmp_path / "one.png", RGB), Reading(page=2))


@pytest.mark.parametrize(
    ("array", "suffix"), [(RGB, "png"), (RGB, "tif"), (GREY, "png"), (GREY16, "tif")]
)
@pytest.mark.parametrize("value", range(1, 9))
def test_all_orientations_give_the_upright_image(tmp_path, array, suffix, value):
    # The transposition that undoes each orientation, and so, backwards, the one that makes it.
    lying = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[value](array)
    path = tmp_path / f"a.{suffix}"
    save(path, np.ascontiguousarray(lying), exif=with_orientation(value))
    np.testing.assert_array_equal(read_image(path), as_image(array))
    with Image.open(path) as image:
        np.testing.assert_array_equal(as_image(image), as_image(array))
        assert str(image.filename) == str(path)
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), array)


@pytest.mark.parametrize("value", [1, 6])
def test_jpeg_orientation(tmp_path, value):
    plain = read_image(save(tmp_path / "a.jpg", SMOOTH[:32]))
    path = save(tmp_path / "b.jpg", SMOOTH[:32], exif=with_orientation(value))
    assert read_image(path).shape == ((32, 64, 3) if value < 5 else (64, 32, 3))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(path), expected)
    assert plain.sum() == expected.sum()


def test_the_shape_heeds_the_orientation_in_late_xmp(tmp_path):
    path = save(tmp_path / "a.png", SMOOTH[:32])
    data, said = path.read_bytes(), b'<x:xmpmeta tiff:Orientation="6"/>'
    for flag, text in ((b"\0", said), (b"\1", zlib.compress(said))):
        xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0" + flag + b"\0\0\0" + text)
        path.write_bytes(data[:-12] + xmp + data[-12:])
        assert image_shape(path) == read_image(path).shape[:2] == (64, 32)


@pytest.mark.parametrize("late", [False, True])
def test_a_png_says_its_orientation_before_its_pixels_or_after(tmp_path, late):
    path = save(tmp_path / "a.png", SMOOTH[:32], exif=with_orientation(6))
    if late:
        data = path.read_bytes()
        start = data.index(b"eXIf") - 4
        stop = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
        end = data.index(b"IEND") - 4
        path.write_bytes(data[:start] + data[stop:end] + data[start:stop] + data[end:])
    assert image_shape(path) == (64, 32)
    assert read_image(path).shape == (64, 32, 3)


def test_a_shape_is_read_without_the_pixels(tmp_path, monkeypatch):
    paths = [save(tmp_path / f"a.{suffix}", SMOOTH[:32]) for suffix in ("png", "jpg", "bmp")]
    data = paths[0].read_bytes()  # with what tools write after the pixels
    dated = data[:-12] + chunk(b"tEXt", b"date:create\0now")
    tagged = dated + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Model/>") + data[-12:]
    paths[0].write_bytes(tagged)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    assert [image_shape(path) for path in paths] == [(32, 64)] * 3


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"rubbish"])
def test_damaged_exif_is_read_as_upright_without_a_word(tmp_path, exif, recwarn):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", RGB, exif=exif)), RGB)
    assert read_image(save(tmp_path / "a.jpg", RGB, exif=exif)).shape == RGB.shape
    assert not recwarn.list


@pytest.fixture
def noisy(tmp_path):
    """A file whose orientation has two numbers: Pillow warns, and takes neither."""
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 2, 1, 1, 0)
    return save(tmp_path / "noisy.png", RGB, exif=exif)


def test_pillow_warnings_neither_leak_nor_stop_the_reading(noisy):
    for action in ("error", "always"):
        for source in (noisy, Image.open(noisy)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter(action)
                assert as_image(source).shape == RGB.shape
            assert not caught


def test_the_warnings_of_the_rest_of_the_program_stay_as_they_were(noisy):
    before = list(warnings.filters), warnings.showwarning, logging.root.manager.disable
    loggers = {
        name: logger.level
        for name, logger in logging.Logger.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    decoding = threading.Event()

    def decode():
        while not decoding.wait(0):
            read_image(noisy)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(decode)
        try:
            for _ in range(50):
                with (
                    pytest.warns(UserWarning, match="too many entries") as caught,
                    Image.open(noisy) as image,
                ):
                    image.getexif().get(0x0112)
                assert Path(caught[0].filename).name == "TiffImagePlugin.py"
        finally:
            decoding.set()
        done.result()
    assert (list(warnings.filters), warnings.showwarning, logging.root.manager.disable) == before
    for name, level in loggers.items():
        assert logging.getLogger(name).level == level


@pytest.mark.parametrize("shape", [(1, 1), (20000, 100), (1, 4000)])
def test_any_shape(tmp_path, shape):
    path = save(tmp_path / "a.png", np.zeros(shape, np.uint8), compress_level=1)
    assert read_image(path).shape == (*shape, 3)


def test_a_tiff_above_pillows_limit_is_read(tmp_path, monkeypatch):
    paths = [
        save(tmp_path / "a.tif", RGB, exif=with_orientation(6)),
        save(tmp_path / "b.tif", GREY16, compression="tiff_lzw"),
        save(tmp_path / "c.tif", Image.fromarray(RGB).convert("P")),
    ]
    before = [read_image(path) for path in paths]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for path, expected in zip(paths, before, strict=True):
        np.testing.assert_array_equal(read_image(path), expected)
    assert read_image(save(tmp_path / "a.png", RGB)).shape == RGB.shape


def test_threads_read_what_one_reads(tmp_path):
    paths = [
        save(tmp_path / "a.png", RGB),
        save(tmp_path / "b.tif", GREY16, compression="tiff_lzw"),
        save(tmp_path / "c.jpg", SMOOTH, exif=with_orientation(6)),
        save(tmp_path / "d.webp", SMOOTH),
    ]
    alone = [read_image(path) for path in paths]
    filters, barrier = list(warnings.filters), threading.Barrier(4)

    def read_all(_):
        barrier.wait()
        return [read_image(path) for path in paths * 5]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(read_all, range(4)):
            for pixels, expected in zip(found, alone * 5, strict=True):
                np.testing.assert_array_equal(pixels, expected)
    assert list(warnings.filters) == filters


# Images in memory


def test_a_path_a_pillow_image_and_an_array_agree(tmp_path):
    for array in (RGB, GREY, GREY16, np.dstack([RGB, GREY])):
        path = save(tmp_path / "a.png", array)
        with Image.open(path) as image:
            for source in (path, str(path), image, Image.fromarray(array), array):
                np.testing.assert_array_equal(as_image(source), read_image(path))


def test_arrays():
    np.testing.assert_array_equal(as_image(GREY[..., None]), as_image(GREY))
    assert as_image(RGB) is RGB
    floats = RGB.astype(np.float32) / 2
    assert as_image(floats) is floats
    np.testing.assert_array_equal(as_image(RGB / 2), floats)
    for dark in (np.zeros((H, W, 3)), np.eye(4)):
        np.testing.assert_array_equal(
            as_image(dark)[..., :3].max(axis=2), dark.reshape(*dark.shape[:2], -1)[..., 0]
        )
    np.testing.assert_array_equal(as_image(GREY16.astype(">u2")), as_image(GREY16))
    opaque = np.dstack([floats, np.full((H, W), 255, np.float32)])
    np.testing.assert_array_equal(as_image(opaque), floats)
    half = np.dstack([RGB, np.full((H, W), 51, np.uint8)]).astype(np.float32)
    np.testing.assert_allclose(as_image(half), RGB / 5, rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), np.nan, np.float32), "NaN"),
        (np.full((2, 2), np.inf, np.float32), "infinite"),
        (np.full((2, 2), -1, np.float32), "black is 0 and white 255; give values from 0 up"),
        (np.full((2, 2), 256, np.float32), "black is 0 and white 255; give their white as scale"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.linspace(0, 1, 4).reshape(2, 2), "0 to 1, so it seems .* give scale=1.0"),
        (np.linspace(0, 0.5, 12, dtype=np.float32).reshape(2, 2, 3), "0 to 0.5, .* scale 0 to 1"),
        (np.zeros((2, 2), bool), "bool"),
        (np.zeros((2, 2), np.int32), "int32"),
        (np.zeros((2, 2), object), "object"),
        (np.zeros((3, 8, 8), np.uint8), 'channels come last; .* give layout="chw"'),
        (np.zeros((1, 8, 8, 3), np.uint8), "one image at a time"),
        (np.zeros((8, 8, 5), np.uint8), "channels in the last place"),
        (np.zeros(4, np.uint8), "H x W"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.broadcast_to(np.uint8(0), (30000, 30000)), "500 million"),
    ],
)
def test_unusable_arrays(array, message):
    with pytest.raises(ImageError, match=message):
        as_image(array)


@pytest.mark.parametrize("source", [None, 3, [1, 2], b"bytes"])
def test_not_an_image_at_all(source):
    with pytest.raises(ImageError, match="a path, a Pillow image, a numpy array or a torch tensor"):
        as_image(source)


# Bad files


def write(path, data):
    path.write_bytes(data)
    return path


def encoded(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, **options)
    return buffer.getvalue()


NOISE = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
BAD_FILES = {
    "missing": (lambda p: p, "no such file"),
    "folder": (lambda p: p.mkdir() or p, "is a folder"),
    "below a file": (lambda p: write(p, b"x") / "b.png", "cannot be opened"),
    "nul in the name": (lambda p: Path(f"{p}\0"), "cannot be opened"),
    "empty": (lambda p: write(p, b""), "is empty"),
    "text": (lambda p: write(p, b"hello, world"), "not a PNG"),
    "only a signature": (lambda p: write(p, b"BM"), "damaged"),
    "gif": (lambda p: write(p, encoded(RGB, format="GIF")), "a GIF image is not supported"),
    "truncated png": (lambda p: write(p, encoded(NOISE, format="PNG")[:-5000]), "truncated"),
    "truncated jpeg": (lambda p: write(p, encoded(NOISE, format="JPEG")[:-900]), "truncated"),
    "truncated webp": (lambda p: write(p, encoded(NOISE, format="WEBP")[:-900]), "truncated"),
    "truncated bmp": (lambda p: write(p, encoded(NOISE, format="BMP")[:-900]), "truncated"),
    "truncated tiff": (lambda p: write(p, encoded(NOISE, format="TIFF")[:5000]), "truncated"),
    "truncated lzw": (
        lambda p: write(p, encoded(NOISE, format="TIFF", compression="tiff_lzw")[:-900]),
        "truncated",
    ),
    "png header only": (lambda p: write(p, png_header(4, 4)), "truncated"),
    "png with a broken chunk": (
        lambda p: write(p, png_header(4, 4) + chunk(b"IDAT", b"rubbish") + chunk(b"IEND", b"")),
        "damaged",
    ),
    "huge header": (
        lambda p: write(p, png_header(60000, 60000) + chunk(b"IDAT", b"")),
        "500 million",
    ),
    "huge webp": (
        lambda p: write(p, b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xff\xff\xff\x0f" + bytes(9)),
        "too large|truncated",  # older Pillows find out later
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_one_plain_sentence(tmp_path, kind):
    make, message = BAD_FILES[kind]
    path = make(tmp_path / "bad.png")
    for read in (read_image, as_image, lambda p: read_mask(p, (4, 4))):
        with pytest.raises(ImageError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "TIFF"}, {"format": "JPEG"}])
def test_damage_anywhere_is_an_image_error_or_an_image(tmp_path, options):
    whole = encoded(NOISE[:16, :16], **options)
    for seed in range(25):
        rng = np.random.default_rng(seed)
        data = bytearray(whole[: rng.integers(12, len(whole) + 1)])
        for _ in range(3):
            data[rng.integers(8, len(data))] = rng.integers(256)
        try:
            pixels = read_image(write(tmp_path / "a", bytes(data)))
        except ImageError:
            continue
        assert pixels.shape[2] == 3


def test_no_permission(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", RGB)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"a\.png: no permission"):
        read_image(path)


def test_too_little_memory(tmp_path, monkeypatch):
    def refuse(self):
        raise MemoryError

    path = save(tmp_path / "a.tif", RGB)
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", refuse)
    with pytest.raises(ImageError, match="too large to decode"):
        read_image(path)


def test_float_images_have_no_fixed_white(tmp_path):
    values = np.zeros((3, 3), np.float32)
    path = save(tmp_path / "a.tif", values)
    with pytest.raises(ImageError, match="no fixed white; convert it to 8 or 16 bit"):
        read_image(path)
    values[1, 1] = np.nan
    with pytest.raises(ImageError, match="contains NaN; convert"):
        read_image(save(tmp_path / "b.tif", values))


def test_a_pillow_image_whose_file_is_cut_short(tmp_path):
    path = write(tmp_path / "a.png", encoded(NOISE, format="PNG")[:-5000])
    with Image.open(path) as image, pytest.raises(ImageError, match=r"a\.png.*truncated"):
        as_image(image)
