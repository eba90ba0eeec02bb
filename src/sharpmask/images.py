"""Pictures in and out: the only file of the package that opens or writes one."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8
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
from sharpmask.files import replacing_file
from sharpmask.tiff import strip_tiff

MAX_PIXELS = 200_000_000
"""Larger pictures are refused by their header: decoded they would fill the memory."""
_STRIP_PIXELS = 1 << 18
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
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".tif", ".tiff"),
    *(".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
"""What names of photos end in."""
_PNG_LEVEL = 2
"""Of zlib: files are 7 % larger than at its usual 6, and made in a third of the time."""
_WRITERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    source: str | PathLike[str] | Image.Image | np.ndarray, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """Read any picture as RGB, upright, the way a viewer shows it.

    - EXIF orientation is applied, also to a PIL image.
    - Of an animation or a multi-page file the first picture is read.
    - Transparent parts become white: cut-outs are made for white pages, black would swallow them.
    - 16-bit grey is divided by 257, so 65535 becomes 255.
    - Colour profiles are not applied.
    - Metadata is passed over, and so is what is wrong with it. Pixels that are not all there are an
      error; an end marker that is missing is not.

    An array must already be RGB uint8 (height, width, 3). The result is contiguous and writeable;
    an array that is both comes back itself, not copied.

    Raises:
        ImageError: the source is missing, damaged, not a picture, empty, or above `max_pixels`.
    """
    if isinstance(source, np.ndarray):
        _check_array(source, "array")
        _check_size(source.shape[:2], "array", max_pixels)
        return np.require(source, requirements=["C", "W"])  # torch refuses flipped views
    if isinstance(source, Image.Image):
        return _decode(source, None, "PIL image", max_pixels)
    if isinstance(source, (str, PathLike)):
        return _read_file(Path(source), max_pixels)
    raise ImageError(
        f"{type(source).__name__}: expected a path, a PIL image or an array; "
        "convert it to a uint8 array (height, width, 3)"
    )


def read_stream(
    file: IO[bytes], name: str, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture from an open file that can be searched, as ``read_image`` does.

    Args:
        file: The file.
        name: What errors call it.
        max_pixels: As of ``read_image``.

    Raises:
        ImageError: As of ``read_image``.
    """
    head = file.read(16)
    if not head:
        raise ImageError(f"{name}: is empty (0 bytes); fetch it again")
    for signature, strip, reader in _READERS:
        if re.match(signature, head, re.DOTALL):
            file.seek(0)
            return _read_as(strip, reader, file, name, max_pixels)
    raise ImageError(f"{name}: is not a {_READABLE} picture; convert it to one of these")


def write_image(path: str | PathLike[str], image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write RGB pixels as PNG, JPEG or WebP, by the suffix of `path`.

    The file appears complete or not at all: it is written beside `path` and renamed over it.

    Raises:
        ImageError: the suffix is unknown, the array is no RGB picture, or the disk refuses.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise ImageError(f"{path}: cannot write '{path.suffix}'; use {', '.join(_WRITERS)}")
    _check_array(image, str(path))
    try:
        with replacing_file(path) as file:
            kind = _WRITERS[path.suffix.lower()]
            Image.fromarray(image).save(file, kind, quality=92, compress_level=_PNG_LEVEL)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{path}: cannot be written ({_reason(error)}); choose another place"
        ) from error


def png_bytes(picture: np.ndarray | Image.Image) -> bytes:
    """Pixels of any kind, RGB, RGBA, grey or bool, as the bytes of a PNG file."""
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()


def list_images(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]],
    report: Callable[[str], object] = str,
) -> list[Path]:
    """List the photos in ``paths``: of a folder those in it by name; a file stays as it is.

    What is named twice is listed once. A folder is not searched deeper; its hidden files and files
    with other suffixes are passed over.

    Args:
        paths: Photos and folders of photos.
        report: Is told in one line for each folder which files were passed over; by default
            nobody is.

    Raises:
        ImageError: A folder cannot be read or holds no photo.
    """
    if isinstance(paths, (str, PathLike)):
        paths = [paths]
    found: list[Path] = []
    for path in map(Path, paths):
        found += _list_folder(path, report) if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def reduce_image(image: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "a b 3"]:
    """A whole number of times smaller, rounded up, each pixel the mean of those it stands for.

    Done strip by strip: an image that is mapped from a file never lies in memory as a whole.
    """
    rows = factor * max(1, _STRIP_PIXELS // (factor * image.shape[1]))
    strips = (image[top : top + rows] for top in range(0, len(image), rows))
    reduced = [np.asarray(Image.fromarray(np.ascontiguousarray(s)).reduce(factor)) for s in strips]
    return np.concatenate(reduced)


def _list_folder(folder: Path, report: Callable[[str], object]) -> list[Path]:
    try:
        # macOS leaves a "._photo.jpg" beside each photo.
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ImageError(
            f"{folder}: cannot be listed ({_reason(error)}); check its permissions"
        ) from error
    # A broken link is kept: that a photo is missing will be told.
    files = [entry for entry in entries if not entry.is_dir()]
    images = [entry for entry in files if entry.suffix.lower() in SUFFIXES]
    others = Counter(entry.suffix.lower() or "no suffix" for entry in files if entry not in images)
    listed = ", ".join(f"{count} x {suffix}" for suffix, count in others.most_common(5))
    if not images:
        passed = f" ({listed}); convert them to JPEG or PNG" if others else "; name one with photos"
        raise ImageError(f"{folder}: no photos that can be read in this folder{passed}")
    if others:
        report(f"{folder}: {sum(others.values())} files passed over ({listed})")
    return images


def _read_file(path: Path, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a directory; name the pictures in it")
        if not path.exists():
            raise ImageError(f"{path}: no such file; check the name")
        if not path.is_file():  # a pipe would block, a device may never end
            raise ImageError(f"{path}: is not a regular file; save the picture to one")
        with path.open("rb") as file:
            return read_stream(file, str(path), max_pixels=max_pixels)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be opened ({_reason(error)}); check its permissions"
        ) from error


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
        return _decode(image, stripped, name, max_pixels)
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
            _decode(JpegImageFile(io.BytesIO(data)), stripped, name, max_pixels) for data in endings
        )
    except (ImageError, OSError):
        return None
    return first if np.array_equal(first, second) else None


def _decode(
    image: Image.Image, stripped: Stripped | None, name: str, max_pixels: int
) -> UInt8[np.ndarray, "h w 3"]:
    _check_size((image.height, image.width), name, max_pixels)
    try:
        image.load()
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise _damaged(name, error) from error
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
            f"{name}: cannot be turned from {image.mode} into RGB ({_reason(error)}); "
            "convert it to RGB first"
        ) from error
    turn = _ORIENTATIONS.get(orientation)
    return _pixels_of(image if turn is None else image.transpose(turn))


def _pixels_of(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Copy an RGB picture strip by strip: at once Pillow makes two more copies on the way."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // image.width)
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


def _check_size(image_size: tuple[int, ...], name: str, max_pixels: int) -> None:
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


def _check_array(array: np.ndarray, name: str) -> None:
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size:
        return
    shape = array.shape
    if array.ndim == 2 or (array.ndim == 3 and shape[2] == 1):
        remedy = "it looks grey: repeat the channel with np.dstack([grey] * 3)"
    elif np.issubdtype(array.dtype, np.floating):
        remedy = "it holds floats: scale them to 0..255 and call .astype(np.uint8)"
    elif array.ndim == 3 and shape[2] == 4:
        remedy = "drop the alpha channel with array[..., :3]"
    elif array.ndim == 3 and shape[0] == 3:
        remedy = "move the channels last with array.transpose(1, 2, 0)"
    elif array.ndim == 4:
        remedy = "pass one picture at a time"
    else:
        remedy = "convert it"
    raise ImageError(
        f"{name}: expected uint8 (height, width, 3), got {array.dtype} {shape}; {remedy}"
    )


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name}: cannot be decoded ({_reason(error)}); fetch it again or re-save it")


def _reason(error: Exception) -> str:
    """Say what an exception says, on one line and without the file's name."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
