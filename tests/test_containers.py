"""What of a picture file decides its pixels, against Pillow, tifffile and OpenCV."""

import io
import itertools
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from sharpmask.containers import orientation_of
from sharpmask.images import ImageError, read_image

Y, X = np.mgrid[:24, :36]
RGB = np.stack([4 * X, 5 * Y, 60 + 2 * X + Y], axis=2).astype(np.uint8)
GREY = RGB[..., 0]
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06" + bytes(6)
UPRIGHT = np.rot90(RGB, -1)


@pytest.fixture(autouse=True)
def nothing_is_warned_of_and_pillow_keeps_its_switches():
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)


def saved(kind, pixels=RGB, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def read(tmp_path, content):
    path = tmp_path / "photo"
    path.write_bytes(content)
    return read_image(path)


# --- PNG ---


def chunk(kind, body, *, checksum=None, length=None):
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    length = len(body) if length is None else length
    return struct.pack(">I", length) + kind + body + struct.pack(">I", checksum)


def with_chunk(chunk, *, behind=b"IHDR"):
    png = saved("PNG")
    place = 33 if behind == b"IHDR" else png.index(b"IEND") - 4
    return png[:place] + chunk + png[place:]


HUGE = zlib.compress(bytes(80_000_000))
ANCILLARY = {
    "bad checksum": lambda kind: chunk(kind, b"Comment\0hello", checksum=7),
    "empty": lambda kind: chunk(kind, b""),
    "no separator": lambda kind: chunk(kind, b"x" * 200),
    "long keyword": lambda kind: chunk(kind, b"k" * 3000 + b"\0text"),
    "not packed": lambda kind: chunk(kind, b"Comment\0\0not zlib"),
    "unknown packing": lambda kind: chunk(kind, b"Comment\0\x63xyz"),
    "huge unpacked": lambda kind: chunk(kind, b"Comment\0\0" + HUGE),
    "two megabytes": lambda kind: chunk(kind, b"Comment\0" + b"a" * 2_000_000),
}
KINDS = [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME",
         b"sBIT", b"bKGD", b"hIST", b"sPLT", b"acTL", b"fcTL", b"fdAT", b"prVt"]  # fmt: skip


@pytest.mark.parametrize("fault", ANCILLARY)
def test_no_ancillary_chunk_of_a_png_loses_the_picture(tmp_path, fault):
    for kind, behind in itertools.product(KINDS, (b"IHDR", b"IDAT")):
        content = with_chunk(ANCILLARY[fault](kind), behind=behind)
        np.testing.assert_array_equal(read(tmp_path, content), RGB, err_msg=str(kind))


def test_many_texts_do_not_lose_the_picture(tmp_path):
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 1_000_000))
    np.testing.assert_array_equal(read(tmp_path, with_chunk(text * 100)), RGB)


@pytest.mark.parametrize("end", [-12, -8, -4])
def test_a_png_without_its_end_is_shown(tmp_path, end):
    np.testing.assert_array_equal(read(tmp_path, saved("PNG")[:end]), RGB)


def test_a_bad_checksum_of_pixels_is_refused(tmp_path):
    png = bytearray(saved("PNG"))
    png[png.index(b"IDAT") + 20] ^= 1
    with pytest.raises(ImageError, match="cannot be decoded"):
        read(tmp_path, bytes(png))


# --- JPEG ---


def segment(code, body, length=None):
    return struct.pack(">BBH", 255, code, len(body) + 2 if length is None else length) + body


FINE = {"quality": 98, "subsampling": 0}
SEGMENTS = {
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "EXIF without TIFF": segment(0xE1, b"Exif\0\0"),
    "EXIF of noise": segment(0xE1, b"Exif\0\0" + bytes(range(200))),
    "EXIF that points away": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(20)),
    "XMP of noise": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<x"),
    "profile, part 2 of 1": segment(0xE2, b"ICC_PROFILE\0\x02\x01" + bytes(100)),
    "profile, part 0 of 0": segment(0xE2, b"ICC_PROFILE\0\x00\x00"),
    "short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "stereo index of noise": segment(0xE2, b"MPF\0II*\0\xff\xff\xff\x7f"),
    "Photoshop of noise": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\xff\xff\xff\xff"),
    "short Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "short Adobe": segment(0xEE, b"Adobe\0"),
    "comment": segment(0xFE, b"\xff\xfe\x00" * 9000),
    "empty comment": segment(0xFE, b""),
    "comment of length 0": segment(0xFE, b"", 0),
    "fill bytes": b"\xff" * 9,
    "bytes between": b"what is this",
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("progressive", [False, True])
def test_no_metadata_of_a_jpeg_loses_the_picture(tmp_path, name, progressive):
    jpeg = saved("JPEG", progressive=progressive, **FINE)
    expected = read(tmp_path, jpeg)
    assert np.abs(expected.astype(int) - RGB).max() < 6
    # Before JFIF and behind it; behind its first marker a JPEG goes on with another.
    for place in (2, 20) if SEGMENTS[name][0] == 0xFF else (20,):
        content = jpeg[:place] + SEGMENTS[name] + jpeg[place:]
        np.testing.assert_array_equal(read(tmp_path, content), expected)


NOISE = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)


@pytest.mark.parametrize("tail", [b"", b"\xff"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}], ids=str)
@pytest.mark.parametrize("pixels", [RGB, NOISE, GREY], ids=["smooth", "noise", "grey"])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_shown(tmp_path, options, pixels, tail):
    jpeg = saved("JPEG", pixels, **options)
    expected = read(tmp_path, jpeg)
    np.testing.assert_array_equal(read(tmp_path, jpeg[:-2] + tail), expected)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_a_jpeg_that_lacks_pixels_is_refused(tmp_path, options):
    jpeg = saved("JPEG", NOISE, **options)
    scans = [at for at in range(len(jpeg)) if jpeg[at : at + 2] == b"\xff\xda"]
    for length in [*scans[1:], *range(scans[0], len(jpeg) - 6, 97), len(jpeg) - 6]:
        with pytest.raises(ImageError, match="cannot be decoded"):
            read(tmp_path, jpeg[:length])


# --- WebP ---


@pytest.mark.parametrize(
    "broken",
    [
        b"EXIF\xff\xff\xff\x7fxx",
        b"ICCP\0\0\0\0",
        b"XMP \x03\0\0\0abc\0",
        b"JUNK\xff\xff\xff\xff",
        b"EX",
    ],
)
@pytest.mark.parametrize("lossless", [True, False])
def test_no_metadata_of_a_webp_loses_the_picture(tmp_path, broken, lossless):
    options = {"lossless": lossless, "quality": 98, "exif": b"Exif\0\0nonsense"}
    webp = saved("WEBP", **options, icc_profile=b"nonsense")
    expected = read(tmp_path, webp)
    assert np.abs(expected.astype(int) - RGB).max() < 20
    np.testing.assert_array_equal(read(tmp_path, webp + broken), expected)


# --- orientation ---


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_found_in_exif(tmp_path, kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98}
    found = read(tmp_path, saved(kind, exif=TURNED, **options))
    assert found.shape == UPRIGHT.shape
    assert np.abs(found.astype(int) - UPRIGHT).max() < 14


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def test_orientation_is_found_in_xmp_and_in_texts(tmp_path):
    jpeg = saved("JPEG", **FINE)
    packet = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    assert read(tmp_path, jpeg[:20] + packet + jpeg[20:]).shape == UPRIGHT.shape
    keyword = b"XML:com.adobe.xmp\0"
    for text in (
        chunk(b"iTXt", keyword + b"\0\0\0\0" + XMP),
        chunk(b"iTXt", keyword + b"\1\0\0\0" + zlib.compress(XMP)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(
            b"\nexif\n      99\n" + TURNED.hex().encode()
        )),
    ):  # fmt: skip
        np.testing.assert_array_equal(read(tmp_path, with_chunk(text)), UPRIGHT)
    assert read(tmp_path, saved("WEBP", xmp=XMP)).shape == UPRIGHT.shape
    assert read(tmp_path, saved("TIFF", tiffinfo={700: XMP})).shape == UPRIGHT.shape


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [(1, "B"), (3, "H"), (4, "I")])
@pytest.mark.parametrize("value", [1, 3, 8, 0, 9])
def test_orientation_is_read_as_exif_defines_it(order, kind, form, value):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    body = struct.pack(f"{order}{form}", value).ljust(4, b"\0")
    entry = struct.pack(f"{order}HHI", 274, kind, 1) + body
    exif = mark + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    expected = value if 1 <= value <= 8 else 1
    assert orientation_of(exif) == orientation_of(b"Exif\0\0" + exif) == expected
    for length in range(len(exif) - 8):
        assert orientation_of(exif[:length]) == 1


# --- TIFF, written and read by tifffile ---


def deep(pixels, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return (pixels / 255).astype(dtype)
    most = int(np.iinfo(dtype).max)
    return (pixels.astype(np.uint64) * most // 255).astype(dtype)


def written(tmp_path, pixels, **options):
    path = tmp_path / "photo.tif"
    tifffile.imwrite(path, pixels, metadata=None, **options)
    return path


LAYOUTS = list(itertools.product("<>", [None, (16, 16)], [None, "zlib"], [None, 7]))


def layouts():
    """Every order of bytes, tiles or strips, compressed or not, in strips of all or few rows."""
    for order, tile, compression, rows in LAYOUTS:
        if tile and rows:
            continue
        for predictor in (False, True) if compression else (False,):
            yield {"byteorder": order, "tile": tile, "compression": compression,
                   "rowsperstrip": rows, "predictor": predictor or None}  # fmt: skip


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    ("photometric", "extra"),
    [("rgb", 0), ("rgb", 1), ("minisblack", 0), ("minisblack", 1), ("separated", 0)],
)
def test_colours_of_tiff_in_every_layout(tmp_path, dtype, planar, photometric, extra):
    bands = np.dstack([RGB, GREY[::-1]])[..., : 3 + extra]
    truth = RGB.astype(float)
    if photometric == "separated":
        ink = np.dstack([255 - RGB, GREY // 4])
        bands, truth = ink, truth * (255 - ink[..., 3:]) / 255
    pixels = deep(bands, dtype)
    if planar == "separate":
        pixels = np.moveaxis(pixels, -1, 0)
    for options in layouts():
        count = extra if photometric == "rgb" else bands.shape[2] - 1
        count = 0 if photometric == "separated" else count
        path = written(
            tmp_path, pixels, photometric=photometric, planarconfig=planar,
            extrasamples=["unspecified"] * count or None, **options,
        )  # fmt: skip
        np.testing.assert_array_equal(tifffile.imread(path), pixels)  # tifffile reads its own
        assert np.abs(read_image(path) - truth).max() <= 1, options


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("bands", [1, 2])
def test_grey_of_tiff_in_every_layout(tmp_path, dtype, photometric, bands):
    pixels = deep(GREY, dtype)
    truth = 255 - GREY if photometric == "miniswhite" else GREY
    if bands == 2:
        pixels = np.stack([pixels, pixels[::-1]])
    for options in layouts():
        if dtype == "f4" and options["predictor"]:
            continue  # tifffile writes it with a package of many codecs only
        path = written(
            tmp_path, pixels, photometric=photometric, **options,
            **({"planarconfig": "separate", "extrasamples": ["unspecified"]} if bands == 2 else {}),
        )  # fmt: skip
        assert np.abs(read_image(path) - truth[..., None].astype(int)).max() <= 1, options


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_of_tiff_is_laid_on_white(tmp_path, dtype, kind, planar):
    alpha = np.broadcast_to(7 * X, GREY.shape).clip(0, 255).astype(np.uint8)
    share = alpha[..., None] / 255
    truth = RGB * share + 255 * (1 - share)
    colours = RGB if kind == "unassalpha" else np.rint(RGB * share).astype(np.uint8)
    pixels = deep(np.dstack([colours, alpha]), dtype)
    if planar == "separate":
        pixels = np.moveaxis(pixels, -1, 0)
    for options in layouts():
        path = written(
            tmp_path, pixels, photometric="rgb", planarconfig=planar, extrasamples=[kind], **options
        )
        if (kind, planar) == ("assocalpha", "separate"):
            with pytest.raises(ImageError, match="premultiplied alpha in a plane of its own; conv"):
                read_image(path)
        else:
            assert np.abs(read_image(path) - truth).max() <= 2, options


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "raw"])
def test_opencv_reads_the_same_of_what_pillow_compresses(tmp_path, compression):
    content = saved("TIFF", compression=compression)
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read(tmp_path, content), decoded[..., ::-1])


@pytest.mark.parametrize("predictor", [1, 2])
def test_opencv_writes_16_bit_lzw(tmp_path, predictor):
    path = tmp_path / "photo.tif"
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    cv2.imwrite(str(path), deep(RGB, "u2")[..., ::-1], options)
    assert np.abs(read_image(path).astype(int) - RGB).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_of_few_bits(tmp_path, bits, photometric):
    """A TIFF by the book, for few programs write these."""
    values = (X + 36 * Y) % 2**bits
    lines = [
        np.packbits(np.array([[value >> k & 1 for k in range(bits)[::-1]] for value in row]))
        for row in values
    ]
    content = by_the_book({258: bits, 262: photometric}, b"".join(map(bytes, lines)))
    truth = np.rint(values * 255 / (2**bits - 1))
    truth = truth if photometric else 255 - truth
    assert np.abs(read(tmp_path, content) - truth[..., None]).max() <= 1


def by_the_book(tags, data, order="<", size=(36, 24)):
    """A little-endian or big-endian TIFF of one strip: tags with one or several values."""
    tags = {256: size[0], 257: size[1], 259: 1, 273: 8, 277: 1, 278: size[1], 279: len(data)} | tags
    data += bytes(len(data) % 2)
    start = 8 + len(data)
    entries, more = b"", b""
    behind = start + 6 + 12 * len(tags)
    for tag, value in sorted(tags.items()):
        listed = value if isinstance(value, tuple) else (value,)
        body = struct.pack(f"{order}{len(listed)}I", *listed)
        if len(listed) > 1:
            body, more = struct.pack(f"{order}I", behind + len(more)), more + body
        entries += struct.pack(f"{order}HHI", tag, 4, len(listed)) + body
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HI", 42, start)
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + more


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_palette_of_16_bits(tmp_path, order):
    colours = np.random.default_rng(0).integers(0, 256, (256, 3))
    index = (X + 36 * Y) % 256
    palette = tuple(int(v) * 257 for v in colours.T.ravel())
    content = by_the_book({258: 8, 262: 3, 320: palette}, bytes(index.ravel().tolist()), order)
    np.testing.assert_array_equal(read(tmp_path, content), colours[index])


@pytest.mark.parametrize(
    ("tags", "data", "message"),
    [
        ({258: 8, 262: 1, 339: 2}, GREY.tobytes(), "signed samples have no known white; scale"),
        ({258: 16, 262: 1, 339: 2}, bytes(1728), "signed samples have no known white; scale"),
        ({258: 32, 262: 1, 339: 2}, bytes(3456), "signed samples have no known white; scale"),
        ({258: 64, 262: 1, 339: 3}, bytes(6912), "kind that is not read; convert it to RGB of 8"),
        ({258: 16, 262: 1, 339: 3}, bytes(1728), "kind that is not read; convert it to RGB of 8"),
        (
            {258: (32,) * 3, 262: 2, 277: 3, 339: (3,) * 3},
            bytes(10368),
            "kind that is not read; convert it to RGB of 8 bits",
        ),
        (
            {258: (8,) * 5, 262: 1, 277: 5, 338: (0,) * 4},
            bytes(4320),
            "has 5 bands, and does not say which are red, green and blue; convert it to RGB",
        ),
        ({258: (8,) * 4, 262: 1, 277: 4, 338: (0, 0, 2)}, bytes(3456), "has 4 bands, and does not"),
        ({258: (8,) * 4, 262: 5, 277: 4, 332: 2}, bytes(3456), "its inks are not cyan, magenta"),
        ({258: (8,) * 3, 262: 6, 277: 3}, bytes(2592), "uncompressed YCbCr with subsampling"),
        ({258: 8, 262: 32803}, GREY.tobytes(), "kind that is not read; convert it to RGB"),
    ],
)
def test_kinds_that_would_be_shown_wrong_are_refused_with_a_remedy(tmp_path, tags, data, message):
    with pytest.raises(ImageError, match=message) as caught:
        read(tmp_path, by_the_book(tags, data))
    assert "fetch it again" not in str(caught.value)


@pytest.mark.parametrize(
    "tag",
    [
        (34665, 4, 1, 2**31 - 1),  # EXIF far away
        (34675, 7, 10**6, 2**31 - 1),  # profile
        (306, 2, 20, 2**31 - 1),  # date
        (282, 5, 1, 2**31 - 1),  # resolution
        (33432, 2, 2**31, 8),
        (50341, 99, 5, 5),
    ],
)
def test_no_metadata_of_a_tiff_loses_the_picture(tmp_path, tag):
    content = by_the_book({258: (8,) * 3, 262: 2, 277: 3}, RGB.tobytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    # In front of all others, where whoever stops at it has seen nothing yet.
    broken = content[:4] + struct.pack("<I", len(content)) + content[8:]
    broken += struct.pack("<H", count + 1) + struct.pack("<HHII", *tag)
    broken += content[start + 2 : start + 6 + 12 * count]
    np.testing.assert_array_equal(read(tmp_path, broken), RGB)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_that_lacks_pixels_is_refused(tmp_path, compression):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    path = written(tmp_path, noise, photometric="rgb", compression=compression)
    content = path.read_bytes()
    for length in range(len(content) - 9000 // 2, len(content), 997):
        with pytest.raises(ImageError):
            read(tmp_path, content[:length])


def test_a_large_tiff(tmp_path):
    for compression in (None, "zlib"):
        options = {"photometric": "rgb", "bigtiff": True, "compression": compression}
        path = written(tmp_path, RGB, byteorder="<", **options)
        np.testing.assert_array_equal(read_image(path), RGB)
        path = written(tmp_path, RGB, byteorder=">", **options)
        with pytest.raises(ImageError, match="BigTIFF of big-endian numbers is not read; save"):
            read_image(path)
