"""From the bytes of a picture file to upright RGB pixels: Pillow's readers, mended and made strict.

``read_stream`` reads an open file, ``to_rgb`` what Pillow has opened already.
"""

import io
import re
from collections.abc import Callable
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sharpmask.containers import (
    KindError,
    Stripped,
    jpeg_endings,
    orientation_of,
    strip_jpeg,
    strip_png,
    strip_webp,
)
from sharpmask.shapes import UInt8
from sharpmask.tiff import strip_tiff

MAX_PIXELS = 200_000_000
"""Larger pictures are refused by their header: decoded they would fill the memory."""
STRIP_PIXELS = 1 << 18
"""Pixels that are worked on at once where a picture is too large to be copied as a whole."""
_TIFF_KIND_UNKNOWN = ("unknown pixel mode", "unknown data organization")


class ImageError(ValueError):
    """A picture cannot be read or written: "FILE: what was wrong; what to do"."""


class _TiffImageFile(TiffImageFile):
    """Pillow's TIFF reader, mended.

    - It does not warn of a picture's size: `read_image` has already judged it.
    - It reads uncompressed planes of 16 bits, and compressed floats of the other byte order.
    """

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = Image.new(self.mode, self._tile_size).im
        super().load_prepare()

    def _setup(self) -> None:
        super()._setup()
        if self.use_load_libtiff:
            mode, *others = self.tile[0].args  # type: ignore[misc, str-unpack, unused-ignore]
            if mode.startswith("F;32"):  # libtiff has brought it into this machine's order
                self.tile[0] = self.tile[0]._replace(args=("F;32NF", *others))
        elif self._planar_configuration == 2 and self.tag_v2.get(258, (1,))[0] == 16:
            # Pillow itself would take each plane for one of 8 bits.
            self.use_load_libtiff = True
            width, height = self._tile_size
            args = f"{self.mode};16N", False, self.tag_v2.offset
            self.tile = [ImageFile._Tile("libtiff", (0, 0, width, height), 0, args)]


# `PIL.Image.open` measures against a limit shared by the whole process and warns, so the readers
# are called directly. The first bytes decide, never the suffix: a renamed PNG is still a PNG.
_READERS: tuple[tuple[bytes, Callable[[IO[bytes]], Stripped], type[ImageFile.ImageFile]], ...] = (
    (rb"\xff\xd8\xff", strip_jpeg, JpegImageFile),
    (rb"\x89PNG\r\n\x1a\n", strip_png, PngImageFile),
    (rb"RIFF....WEBP", strip_webp, WebPImageFile),
    (rb"....ftypavi[fs]", Stripped, AvifImageFile),
    (rb"II[*+]\0|MM\0[*+]", strip_tiff, _TiffImageFile),
    (rb"GIF8[79]a", Stripped, GifImageFile),
    (rb"BM", Stripped, BmpImageFile),
    (rb"P[1-6f]\s", Stripped, PpmImageFile),
)
_READABLE = "JPEG, PNG, WebP, AVIF, TIFF, GIF, BMP or PPM"

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_stream(
    file: IO[bytes], name: str, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture from an open file that can be searched, as ``images.read_image`` does.

    Args:
        file: The file.
        name: What errors call it.
        max_pixels: Larger pictures are refused by their header.

    Raises:
        ImageError: The file is empty, damaged, not a picture, or above ``max_pixels``.
    """
    head = file.read(16)
    if not head:
        raise ImageError(f"{name}: is empty (0 bytes); fetch it again")
    for signature, strip, reader in _READERS:
        if re.match(signature, head, re.DOTALL):
            file.seek(0)
            return _read_as(strip, reader, file, name, max_pixels)
    raise ImageError(f"{name}: is not a {_READABLE} picture; convert it to one of these")


def _read_as(
    strip: Callable[[IO[bytes]], Stripped],
    reader: type[ImageFile.ImageFile],
    file: IO[bytes],
    name: str,
    max_pixels: int,
) -> UInt8[np.ndarray, "h w 3"]:
    try:
        stripped = strip(file)
        image = reader(stripped.file)
    except KindError as error:
        raise ImageError(f"{name}: {error}") from None
    except SyntaxError as error:
        if reader is _TiffImageFile and str(error) in _TIFF_KIND_UNKNOWN:
            raise ImageError(
                f"{name}: a TIFF whose bands or samples are of a kind that is not read; "
                "convert it to RGB of 8 bits"
            ) from error
        raise _damaged(name, error) from error
    except Exception as error:
        raise _damaged(name, error) from error
    try:
        return to_rgb(image, stripped, name, max_pixels)
    except ImageError as error:
        if reader is JpegImageFile and isinstance(error.__cause__, OSError):
            endless = _jpeg_without_end(stripped, name, max_pixels)
            if endless is not None:
                return endless
        raise


def _jpeg_without_end(
    stripped: Stripped, name: str, max_pixels: int
) -> UInt8[np.ndarray, "h w 3"] | None:
    """The picture of a JPEG that lacks its end marker alone."""
    stripped.file.seek(0)
    endings = jpeg_endings(stripped.file.read())
    if endings is None:
        return None
    try:
        first, second = (
            to_rgb(JpegImageFile(io.BytesIO(data)), stripped, name, max_pixels) for data in endings
        )
    except (ImageError, OSError):
        return None
    return first if np.array_equal(first, second) else None


def to_rgb(
    image: Image.Image, stripped: Stripped | None, name: str, max_pixels: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a picture that Pillow has opened, and turn it upright.

    Args:
        image: The picture.
        stripped: What is known of its file; None for a picture without one.
        name: What errors call it.
        max_pixels: Larger pictures are refused before they are decoded.

    Raises:
        ImageError: It is damaged, empty, above ``max_pixels``, or of a kind that is not read.
    """
    check_size((image.height, image.width), name, max_pixels)
    try:
        image.load()
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise _damaged(name, error) from error
    if image.mode in ("P", "PA") and image.palette is None:
        raise _damaged(name, ValueError("its palette is missing"))
    if stripped is None:
        stripped = Stripped(io.BytesIO(), _turn_of(image))
    orientation = stripped.orientation
    if isinstance(image, AvifImageFile):  # whose metadata is still there
        orientation = orientation_of(image.info.get("exif", b""), image.info.get("xmp", b""))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _deep_grey_to_8_bit(image, stripped, name)
    try:
        if image.has_transparency_data:
            image = _on_white(image)
        elif image.mode != "RGB":
            image = image.convert("RGB")
    except (ValueError, OSError) as error:
        raise ImageError(
            f"{name}: cannot be turned from {image.mode} into RGB ({reason_of(error)}); "
            "convert it to RGB first"
        ) from error
    turn = _ORIENTATIONS.get(orientation)
    return _pixels_of(image if turn is None else image.transpose(turn))


def _pixels_of(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Copy an RGB picture strip by strip: at once Pillow makes two more copies on the way."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = pixels[top : top + rows]
        strip[:] = np.asarray(image.crop((0, top, image.width, top + len(strip))))
    return pixels


def _turn_of(image: Image.Image) -> int:
    """How to turn a PIL image upright, once it is loaded: TIFF is turned by Pillow."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a viewer shows a good picture with a broken EXIF block as it is stored
        return 1


def _deep_grey_to_8_bit(image: Image.Image, stripped: Stripped, name: str) -> Image.Image:
    """Scale grey of more than 8 bits to "L", or to "LA" where one value marks transparency."""
    grey = np.asarray(image)
    low, high = grey.min(), grey.max()
    # Floats have three usual whites. Integers have one: Pillow reads some 16-bit files as "I".
    whites = (1, 255, 65535) if image.mode == "F" else (stripped.white or 65535,)
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is None:
        raise ImageError(
            f"{name}: grey values from {low} to {high} have no known white; scale them to 0..255"
        )
    scaled = np.rint(grey * np.float32(255 / white)).astype(np.uint8)
    layer = Image.fromarray(255 - scaled if stripped.inverted else scaled)
    if "transparency" in image.info:
        layer.putalpha(Image.fromarray(grey != image.info["transparency"]).convert("L"))
    return layer


def _on_white(image: Image.Image) -> Image.Image:
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def check_size(image_size: tuple[int, ...], name: str, max_pixels: int) -> None:
    """Refuse a picture without pixels, or with more than ``max_pixels``."""
    height, width = image_size
    if not height or not width:
        raise ImageError(
            f"{name}: has no pixels ({height} high, {width} wide); give a real picture"
        )
    if height * width > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the {max_pixels:,} allowed; "
            "scale it down or cut it up"
        )


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(
        f"{name}: cannot be decoded ({reason_of(error)}); fetch it again or re-save it"
    )


def reason_of(error: Exception) -> str:
    """Say what an exception says, on one line and without the file's name."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
