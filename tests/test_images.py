import os
import pickle
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from sharpmask.images import (
    MAX_PIXELS,
    ImageError,
    list_images,
    read_image,
    reduce_image,
    write_image,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png(width, height, depth, colour, rows, *extra):
    """Write a PNG by the book (chunks of W3C PNG 11.2), without Pillow."""

    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def smooth(height=24, width=40):
    """Make a picture that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([60 + 3 * x, 200 - 4 * y, 90 + x + y], axis=-1).astype(np.uint8)


def over_white(colour, alpha):
    alpha = alpha[..., None] / 255
    return np.rint(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)


def assert_error(message, source, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    text = str(caught.value)
    assert message in text
    assert "; " in text
    assert "\n" not in text
    if isinstance(source, (str, Path)):
        assert text.startswith(f"{source}: ")
        assert text.count(str(source)) == 1


# Formats and modes


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".bmp", {}),
        (".ppm", {}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".tif", {"compression": "tiff_adobe_deflate", "big_tiff": True}),
        (".webp", {"lossless": True}),
    ],
)
def test_lossless_formats_give_the_exact_pixels(tmp_path, suffix, options):
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(RGB).save(path, **options)
    read = read_image(path)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    assert read.flags.writeable
    np.testing.assert_array_equal(read, RGB)
    np.testing.assert_array_equal(read_image(str(path)), RGB)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_lossy_formats_come_close(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(smooth()).save(path, quality=95)
    assert np.abs(read_image(path).astype(int) - smooth()).max() <= 8


def test_progressive_jpeg(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(smooth()).save(path, quality=95, progressive=True)
    assert np.abs(read_image(path).astype(int) - smooth()).max() <= 8


def test_content_decides_the_format_not_the_suffix(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(RGB).save(path, "PNG")
    np.testing.assert_array_equal(read_image(path), RGB)


def test_png_by_the_book(tmp_path):
    path = tmp_path / "rgb.png"
    path.write_bytes(png(7, 5, 8, 2, [row.tobytes() for row in RGB]))
    np.testing.assert_array_equal(read_image(path), RGB)


def test_8_bit_grey_is_repeated_in_three_channels(tmp_path):
    path = tmp_path / "grey.png"
    path.write_bytes(png(7, 5, 8, 0, [row.tobytes() for row in RGB[..., 0]]))
    np.testing.assert_array_equal(read_image(path), np.dstack([RGB[..., 0]] * 3))


def test_1_bit_pixels_become_black_and_white(tmp_path):
    path = tmp_path / "bits.png"
    bits = RNG.integers(0, 2, (5, 7), dtype=np.uint8)
    path.write_bytes(png(7, 5, 1, 0, [np.packbits(row).tobytes() for row in bits]))
    np.testing.assert_array_equal(read_image(path), np.dstack([bits * 255] * 3))


@pytest.mark.parametrize("alpha", [None, b"\x00\x80\xff\x33"])
def test_palette_with_and_without_alpha(tmp_path, alpha):
    path = tmp_path / "palette.png"
    palette = RNG.integers(0, 256, (6, 3), dtype=np.uint8)
    index = RNG.integers(0, 6, (5, 7), dtype=np.uint8)
    extra = [(b"PLTE", palette.tobytes())] + ([(b"tRNS", alpha)] if alpha else [])
    path.write_bytes(png(7, 5, 8, 3, [row.tobytes() for row in index], *extra))
    opacity = np.frombuffer((alpha or b"").ljust(6, b"\xff"), np.uint8)
    np.testing.assert_array_equal(read_image(path), over_white(palette[index], opacity[index]))


def test_alpha_is_laid_on_white(tmp_path):
    alpha = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    truth = over_white(RGB, alpha)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), truth)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.webp", lossless=True, exact=True)
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.webp"), truth)


def test_grey_with_alpha(tmp_path):
    alpha = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    grey = np.dstack([RGB[..., 0]] * 3)
    path = tmp_path / "la.png"
    rows = np.dstack([RGB[..., 0], alpha])
    path.write_bytes(png(7, 5, 8, 4, [row.tobytes() for row in rows]))
    np.testing.assert_array_equal(read_image(path), over_white(grey, alpha))


def test_premultiplied_alpha():
    alpha = RNG.integers(1, 256, (5, 7), dtype=np.uint8)
    straight = Image.fromarray(np.dstack([RGB, alpha]))
    read = read_image(straight.convert("RGBa")).astype(int)
    assert np.abs(read - over_white(RGB, alpha)).max() <= 1
    straight = Image.fromarray(np.dstack([RGB[..., 0], alpha]))
    read = read_image(straight.convert("La"))[..., 0].astype(int)
    assert np.abs(read - over_white(RGB, alpha)[..., 0]).max() <= 1


@pytest.mark.parametrize("key", [(10, 20, 30), None])
def test_one_transparent_colour(tmp_path, key):
    path = tmp_path / "key.png"
    pixels = RGB.copy()
    pixels[1:3, 2:5] = (10, 20, 30)
    extra = [(b"tRNS", struct.pack(">HHH", *key))] if key else []
    path.write_bytes(png(7, 5, 8, 2, [row.tobytes() for row in pixels], *extra))
    if key:
        pixels[1:3, 2:5] = 255
    np.testing.assert_array_equal(read_image(path), pixels)


@pytest.mark.parametrize("depth", [1, 8])
def test_one_transparent_grey(tmp_path, depth):
    path = tmp_path / "key.png"
    grey = RNG.integers(0, 2, (5, 8), dtype=np.uint8)
    rows = [np.packbits(row).tobytes() if depth == 1 else row.tobytes() for row in grey]
    path.write_bytes(png(8, 5, depth, 0, rows, (b"tRNS", b"\0\0")))
    opaque = grey * 255 if depth == 1 else grey
    np.testing.assert_array_equal(
        read_image(path), np.dstack([np.where(grey == 0, 255, opaque)] * 3)
    )


# Deep grey

DEEP = np.array([[0, 1, 128, 129, 256], [257, 32768, 65406, 65407, 65535]], np.uint16)
SCALED = np.array([[0, 0, 0, 1, 1], [1, 128, 254, 255, 255]], np.uint8)  # round(value / 257)


def test_every_16_bit_value_is_divided_by_257(tmp_path):
    path = tmp_path / "deep.png"
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path.write_bytes(png(256, 256, 16, 0, [row.astype(">u2").tobytes() for row in values]))
    truth = np.array([(value + 128) // 257 for value in range(65536)], np.uint8)
    np.testing.assert_array_equal(read_image(path)[..., 1].ravel(), truth)


def test_a_png_without_its_palette_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png(2, 1, 8, 3, [b"\0\1"], (b"PLTE", bytes(6))))
    assert read_image(tmp_path / "a.png").shape == (1, 2, 3)
    (tmp_path / "b.png").write_bytes(png(2, 1, 8, 3, [b"\0\1"]))
    with pytest.raises(ImageError, match=r"b\.png: cannot be decoded \(its palette is missing\)"):
        read_image(tmp_path / "b.png")


def test_16_bit_png_with_a_transparent_value(tmp_path):
    path = tmp_path / "deep.png"
    rows = [row.astype(">u2").tobytes() for row in DEEP]
    path.write_bytes(png(5, 2, 16, 0, rows, (b"tRNS", struct.pack(">H", 32768))))
    truth = SCALED.copy()
    truth[1, 1] = 255
    np.testing.assert_array_equal(read_image(path), np.dstack([truth] * 3))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff(tmp_path, order):
    """A TIFF by the book: header, one directory of eight entries, one strip."""
    entries = [
        (256, 5), (257, 2), (258, 16), (259, 1), (262, 1), (273, 8), (278, 2), (279, 20),
    ]  # fmt: skip
    tags = b"".join(struct.pack(f"{order}HHIHxx", tag, 3, 1, value) for tag, value in entries)
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 28)
    pixels = DEEP.astype(f"{order}u2").tobytes()
    directory = struct.pack(f"{order}H", len(entries)) + tags + bytes(4)
    path = tmp_path / "deep.tif"
    path.write_bytes(magic + pixels + directory)
    np.testing.assert_array_equal(read_image(path), np.dstack([SCALED] * 3))


def test_16_bit_pgm(tmp_path):
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 5 2 65535\n" + DEEP.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(path), np.dstack([SCALED] * 3))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_16_bit_values_in_32_bit_pil_images(dtype):
    image = Image.fromarray(DEEP.astype(dtype))
    assert image.mode in ("I", "F")
    np.testing.assert_array_equal(read_image(image), np.dstack([SCALED] * 3))


def test_float_images_from_0_to_1_and_from_0_to_255(tmp_path):
    grey = RGB[..., 0]
    path = tmp_path / "float.tif"
    Image.fromarray(grey.astype(np.float32) / 255).save(path)
    np.testing.assert_array_equal(read_image(path), np.dstack([grey] * 3))
    np.testing.assert_array_equal(
        read_image(Image.fromarray(grey).convert("F")), np.dstack([grey] * 3)
    )


@pytest.mark.parametrize(
    "values", [[[-1, 5]], [[0, 70000]], [[0.5, -0.5]], [[float("nan"), 1]], [[0, float("inf")]]]
)
def test_grey_without_a_known_white_is_refused(values):
    array = np.array(values)
    dtype = np.int32 if array.dtype.kind == "i" else np.float32
    assert_error("no known white", Image.fromarray(array.astype(dtype)))


# Other colour spaces


def test_cmyk_tiff(tmp_path):
    ink = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    path = tmp_path / "ink.tif"
    Image.frombytes("CMYK", (7, 5), ink.tobytes()).save(path)
    truth = (255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255
    assert np.abs(read_image(path) - truth).max() <= 1


@pytest.mark.parametrize("transform", [0, 2])
def test_adobe_jpeg_is_inverted_cmyk_or_ycck(tmp_path, transform):
    """Adobe stores 255 - ink; transform 2 means that 255 - CMY was taken as RGB to YCbCr."""
    stored = np.dstack([smooth(), 255 - smooth()[..., 0] // 3])
    path = tmp_path / "ink.jpg"
    # Pillow writes 255 - what it is given, and marks it "Adobe, transform 0".
    image = Image.frombytes("CMYK", stored.shape[1::-1], (255 - stored).tobytes())
    image.save(path, quality=100, subsampling=0)
    data = path.read_bytes()
    marker = data.index(b"\xff\xee\x00\x0eAdobe")
    assert data[marker + 15] == 0
    path.write_bytes(data[: marker + 15] + bytes([transform]) + data[marker + 16 :])
    planes = stored.astype(float)
    if transform == 0:
        ink = 255 - planes[..., :3]
    else:  # JFIF: YCbCr to RGB, of which libjpeg takes the complement, and 255 - that is the ink
        y, cb, cr = planes[..., 0], planes[..., 1] - 128, planes[..., 2] - 128
        ink = np.stack(
            [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1
        ).clip(0, 255)
    truth = (255 - ink) * planes[..., 3:] / 255
    assert np.abs(read_image(path) - truth).max() <= 6


def test_ycbcr_and_lab_and_hsv():
    image = Image.fromarray(smooth())
    for mode in ("YCbCr", "HSV"):
        assert np.abs(read_image(image.convert(mode)).astype(int) - smooth()).max() <= 8
    lab = ImageCms.applyTransform(
        image,
        ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        ),
    )
    assert np.abs(read_image(lab).astype(int) - smooth()).max() <= 12


# First of many


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_first_frame_or_page(tmp_path, suffix):
    path = tmp_path / f"many{suffix}"
    colours = [(200, 30, 40), (10, 220, 30), (0, 0, 255)]
    frames = [Image.new("RGB", (6, 4), colour) for colour in colours]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    np.testing.assert_array_equal(read_image(path), np.full((4, 6, 3), colours[0], np.uint8))


def test_transparent_gif(tmp_path):
    path = tmp_path / "cutout.gif"
    image = Image.new("P", (4, 2), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((2, 1), 0)
    image.save(path, transparency=0)
    truth = np.full((2, 4, 3), (0, 0, 255), np.uint8)
    truth[1, 2] = 255
    np.testing.assert_array_equal(read_image(path), truth)


def test_mpo_photo_gives_the_first_view(tmp_path):
    path = tmp_path / "stereo.mpo"
    first = Image.fromarray(smooth())
    first.save(path, save_all=True, append_images=[Image.new("RGB", first.size)], quality=95)
    assert np.abs(read_image(path).astype(int) - smooth()).max() <= 8


# Orientation

# What a viewer does with what is stored (EXIF 2.32, tag 274).
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if suffix == ".webp" else {"quality": 95}
    Image.fromarray(smooth()).save(path, exif=exif, **options)
    truth = UPRIGHT[orientation](smooth()).astype(int)
    tolerance = 8 if suffix == ".jpg" else 0
    with Image.open(path) as image:
        for source in (path, image):
            read = read_image(source)
            assert read.shape == truth.shape
            assert np.abs(read - truth).max() <= tolerance


def test_orientation_and_16_bit_and_alpha_together(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(DEEP).save(tmp_path / "deep.png", exif=exif)
    np.testing.assert_array_equal(
        read_image(tmp_path / "deep.png"), np.dstack([np.rot90(SCALED, -1)] * 3)
    )
    alpha = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png", exif=exif)
    np.testing.assert_array_equal(
        read_image(tmp_path / "rgba.png"), np.rot90(over_white(RGB, alpha), -1)
    )


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientation_is_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RGB).save(tmp_path / "odd.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "odd.png"), RGB)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_damaged_exif_does_not_lose_the_picture(tmp_path, block):
    for suffix in ("jpg", "png", "webp"):
        path = tmp_path / f"photo.{suffix}"
        Image.fromarray(smooth()).save(path, quality=95, exif=block)
        assert np.abs(read_image(path).astype(int) - smooth()).max() <= 8


# Refusals


def test_a_missing_or_empty_file_or_a_folder_is_refused(tmp_path):
    assert_error("no such file", tmp_path / "missing.jpg")
    assert_error("no such file", str(tmp_path / "missing.jpg"))
    assert_error("is a directory", tmp_path)
    (tmp_path / "empty.jpg").touch()
    assert_error("is empty", tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match="no such file"):
        read_image("nul\0byte.jpg")


def test_a_file_of_another_kind_is_refused(tmp_path):
    for name, data in {
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "text.png": b"hello",
        "zeros.jpg": bytes(1000),
        "one.png": b"\x89",
        "movie.avif": b"\0\0\0\x20ftypisom\0\0\0\0isom",
        "vector.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }.items():
        (tmp_path / name).write_bytes(data)
        assert_error("is not a JPEG, PNG", tmp_path / name)


def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert_error("not a regular file", tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_refused(tmp_path):
    path = tmp_path / "secret.png"
    write_image(path, RGB)
    path.chmod(0)
    assert_error("Permission denied", path)


def test_path_that_the_system_refuses(tmp_path):
    assert_error("too long", tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".jpg", {}),
        (".jpg", {"progressive": True}),
        (".png", {}),
        (".gif", {}),
        (".bmp", {}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".webp", {}),
        (".avif", {}),
        (".ppm", {}),
    ],
)
def test_every_truncation_is_an_image_error(tmp_path, suffix, options):
    whole = tmp_path / f"whole{suffix}"
    noise = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, **options)
    data = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    # The last bytes of some formats only say that here is the end.
    for length in range(1, len(data) - 20, max(1, len(data) // 25)):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError):
            read_image(path)
    path.write_bytes(data[: len(data) // 2])
    assert_error("cannot be decoded", path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".tif", ".webp", ".ppm"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_picture_or_an_image_error(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(smooth()).save(whole)
    data = np.frombuffer(whole.read_bytes(), np.uint8)
    path = tmp_path / f"damaged{suffix}"
    refused = 0
    for _ in range(50):
        damaged = data.copy()
        where = RNG.integers(8, min(len(data), 300), 4)
        damaged[where] = RNG.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            assert read_image(path, max_pixels=100_000).shape[2] == 3
        except ImageError:
            refused += 1
    assert refused


def test_a_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60000, 60000, 8, 2, [b""]))
    started = time.process_time()
    assert_error("60000 x 60000 pixels are more than the 200,000,000 allowed", path)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "suffix", [".jpg", ".png", ".gif", ".bmp", ".tif", ".webp", ".ppm", ".avif"]
)
def test_the_limit_is_ours_and_pillow_keeps_its_own(tmp_path, suffix, monkeypatch):
    """Pillow would warn above its limit and refuse above twice that; ours alone decides."""
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(smooth()).save(path)
    area = smooth()[..., 0].size
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", area * 2 // 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).shape == smooth().shape
        assert_error("allowed", path, max_pixels=area - 1)
        assert read_image(path, max_pixels=area).shape == smooth().shape
    assert area * 2 // 3 == Image.MAX_IMAGE_PIXELS


def test_a_huge_pil_image_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "big.png"
    path.write_bytes(png(9000, 9000, 8, 2, [b""]))
    with Image.open(path) as image:
        assert_error("allowed", image, max_pixels=1000)


@pytest.mark.parametrize(("width", "height"), [(0, 3), (3, 0)])
def test_a_picture_without_pixels_is_refused(tmp_path, width, height):
    path = tmp_path / "none.png"
    path.write_bytes(png(width, height, 8, 2, [b""]))
    with pytest.raises(ImageError):
        read_image(path)
    assert_error("has no pixels", Image.new("RGB", (width, height)))
    assert_error("expected uint8", np.zeros((height, width, 3), np.uint8))


# Arrays and other sources


def test_arrays_come_back_ready_to_use():
    assert read_image(RGB) is RGB
    flipped = RGB[..., ::-1]
    read = read_image(flipped)
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, flipped)
    frozen = RGB.copy()
    frozen.flags.writeable = False
    assert read_image(frozen).flags.writeable
    assert_error("allowed", RGB, max_pixels=34)
    assert MAX_PIXELS == 200_000_000


@pytest.mark.parametrize(
    ("array", "got", "remedy"),
    [
        (np.zeros((4, 5), np.uint8), "uint8 (4, 5)", "grey"),
        (np.zeros((4, 5, 1), np.uint8), "uint8 (4, 5, 1)", "grey"),
        (np.zeros((4, 5, 3), np.float32), "float32 (4, 5, 3)", "floats"),
        (np.zeros((4, 5, 4), np.uint8), "uint8 (4, 5, 4)", "alpha"),
        (np.zeros((3, 4, 5), np.uint8), "uint8 (3, 4, 5)", "transpose"),
        (np.zeros((2, 4, 5, 3), np.uint8), "uint8 (2, 4, 5, 3)", "one picture"),
        (np.zeros((4, 5, 3), np.uint16), "uint16 (4, 5, 3)", "convert"),
        (np.zeros((), np.uint8), "uint8 ()", "convert"),
    ],
)
def test_other_arrays_are_refused_with_a_remedy(array, got, remedy):
    assert_error(f"expected uint8 (height, width, 3), got {got}", array)
    assert_error(remedy, array)


@pytest.mark.parametrize("source", [None, 3, b"photo.jpg", [1, 2]])
def test_other_types_are_refused(source):
    assert_error("expected a path, a PIL image or an array", source)


def test_pil_image_is_left_as_it_is():
    image = Image.fromarray(RGB)
    image.getexif()[274] = 3
    read = read_image(image)
    np.testing.assert_array_equal(read, RGB[::-1, ::-1])
    read[:] = 0
    np.testing.assert_array_equal(np.asarray(image), RGB)
    assert image.getexif()[274] == 3


def test_image_error_survives_pickle():
    error = pickle.loads(pickle.dumps(ImageError("photo.jpg: is empty; fetch it again")))
    assert isinstance(error, ImageError)
    assert str(error) == "photo.jpg: is empty; fetch it again"


def test_pictures_read_in_threads_are_not_mixed_up(tmp_path):
    truths = RNG.integers(0, 256, (8, 60, 80, 3), dtype=np.uint8)
    for index, truth in enumerate(truths):
        Image.fromarray(truth).save(tmp_path / f"{index}.tif", compression="tiff_lzw")
    paths = list_images(tmp_path) * 20
    with ThreadPoolExecutor(8) as pool:
        for index, read in enumerate(pool.map(read_image, paths)):
            np.testing.assert_array_equal(read, truths[index % 8])


# Writing


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.webp"])
def test_written_is_read(tmp_path, name):
    write_image(tmp_path / name, smooth())
    tolerance = 0 if name.lower().endswith("png") else 10
    assert np.abs(read_image(tmp_path / name).astype(int) - smooth()).max() <= tolerance


def test_write_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "out.png"
    write_image(path, smooth())
    with path.open("rb") as reader_at_work:
        old = path.read_bytes()
        write_image(path, RGB)
        assert reader_at_work.read() == old
    np.testing.assert_array_equal(read_image(path), RGB)
    assert list(tmp_path.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode  # readable by whom the umask allows


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    write_image(path, RGB)

    def fail(self, file, *args, **kwargs):
        file.write(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(
        ImageError, match=r"out\.png: cannot be written \(No space left on device\); "
    ):
        write_image(path, smooth())
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(read_image(path), RGB)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"cannot write '\.gif'; use \.png, "):
        write_image(tmp_path / "a.gif", RGB)
    with pytest.raises(ImageError, match="expected uint8"):
        write_image(tmp_path / "a.png", RGB[..., 0])
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", RGB)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="Is a directory"):
        write_image(tmp_path / "folder.png", RGB)
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "long.webp", np.zeros((1, 20000, 3), np.uint8))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.png"]


# Reducing


@pytest.mark.parametrize("size", [(2, 2), (7, 5), (2051, 300), (1, 1)], ids=str)
@pytest.mark.parametrize("factor", [2, 3])
def test_reducing_by_strips_is_that_of_the_whole_picture(size, factor):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = np.asarray(Image.fromarray(picture).reduce(factor))
    np.testing.assert_array_equal(reduce_image(picture, factor), expected)


# Listing


def test_list_images(tmp_path):
    for name in ("b.JPG", "a.png", "c.txt", "._a.png", "10.tiff", "9.webp"):
        (tmp_path / name).touch()
    (tmp_path / "deeper.png").mkdir()
    (tmp_path / "deeper.png" / "d.png").touch()
    inside = [tmp_path / name for name in ("10.tiff", "9.webp", "a.png", "b.JPG")]
    assert list_images([tmp_path]) == inside
    assert list_images(str(tmp_path)) == inside
    assert list_images([tmp_path, inside[1]]) == inside  # none twice
    kept = [tmp_path / "c.txt", str(tmp_path), "missing.jpg"]
    assert list_images(iter(kept)) == [tmp_path / "c.txt", *inside, Path("missing.jpg")]
    assert list_images([]) == []


def test_list_images_of_an_empty_directory(tmp_path):
    with pytest.raises(ImageError, match="no photos that can be read in this folder; name one"):
        list_images([tmp_path])


def test_files_of_a_folder_that_are_passed_over_are_counted_in_one_line(tmp_path):
    write_image(tmp_path / "a.png", RGB)
    (tmp_path / "a.png").rename(tmp_path / "really_a_png.HEIC")
    for name in ("b.heic", "c.txt", "noext", "._d.png", ".hidden"):
        (tmp_path / name).touch()
    with pytest.raises(
        ImageError, match=r"in this folder \(2 x \.heic, 1 x \.txt, 1 x no suffix\);"
    ):
        list_images(tmp_path)
    write_image(tmp_path / "d.png", RGB)
    lines = []
    assert list_images(tmp_path, lines.append) == [tmp_path / "d.png"]
    assert lines == [f"{tmp_path}: 4 files passed over (2 x .heic, 1 x .txt, 1 x no suffix)"]
    lines.clear()
    assert list_images(tmp_path / "d.png", lines.append) == [tmp_path / "d.png"]
    assert lines == []


def test_bundled_photo():
    photo = files("sharpmask") / "assets" / "coffee.jpg"
    assert read_image(photo).shape == (400, 600, 3)


def test_every_listed_suffix_is_readable(tmp_path):
    for suffix in (
        "jpg",
        "jpeg",
        "jfif",
        "png",
        "webp",
        "avif",
        "tif",
        "tiff",
        "gif",
        "bmp",
        "ppm",
    ):
        Image.fromarray(smooth()).save(tmp_path / f"photo.{suffix}")
    assert len([read_image(path) for path in list_images(tmp_path)]) == 11
