"""Pictures in and out: the only file of the package that opens or writes one by its name."""

import io
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from sharpmask.decoding import (
    MAX_PIXELS,
    STRIP_PIXELS,
    check_size,
    read_stream,
    reason_of,
    to_rgb,
)
from sharpmask.decoding import ImageError as ImageError
from sharpmask.files import replacing_file
from sharpmask.shapes import Int, UInt8

PhotoLike = str | PathLike[str] | Image.Image | np.ndarray
"""A path, a PIL image, or an RGB uint8 array (height, width, 3)."""
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".tif", ".tiff"),
    *(".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
"""What names of photos end in."""
VOC_VOID, VOC_VOID_COLOUR = 255, [224, 224, 192]
_PNG_LEVEL = 2
"""Of zlib: files are 7 % larger than at its usual 6, and made in a third of the time."""
_WRITERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def read_image(source: PhotoLike, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
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
        check_size(source.shape[:2], "array", max_pixels)
        return np.require(source, requirements=["C", "W"])  # torch refuses flipped views
    if isinstance(source, Image.Image):
        return to_rgb(source, None, "PIL image", max_pixels)
    if isinstance(source, (str, PathLike)):
        return _read_file(Path(source), max_pixels)
    raise ImageError(
        f"{type(source).__name__}: expected a path, a PIL image or an array; "
        "convert it to a uint8 array (height, width, 3)"
    )


def read_images(
    sources: Iterable[PhotoLike], report: Callable[[str], object]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Read pictures one by one; one that cannot be read is reported and left out."""
    for source in sources:
        try:
            yield read_image(source)
        except ImageError as error:
            report(str(error))


def write_image(path: str | PathLike[str], image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write RGB pixels as PNG, JPEG or WebP, by the suffix of `path`.

    The file appears complete or not at all: it is written beside `path` and renamed over it.

    Raises:
        ImageError: the suffix is unknown, the array is not an RGB picture, or the disk refuses.
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
            f"{path}: cannot be written ({reason_of(error)}); choose another place"
        ) from error


def png_bytes(picture: np.ndarray | Image.Image) -> bytes:
    """Pixels of any kind, RGB, RGBA, grey or bool, as the bytes of a PNG file."""
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()


def read_indices(data: bytes) -> Int[np.ndarray, "h w"]:
    """Decode a picture whose values are numbers of objects, or a colour for each object.

    Indices of a palette and grey values, of 16 bits too, come as they are; colours as one number.
    Where a picture of PASCAL VOC is void, which outlines and hard objects are, the number is -1.

    Args:
        data: The bytes of a PNG file.

    Raises:
        ImageError: It is not a picture that can be read.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            check_size((picture.height, picture.width), "mask", MAX_PIXELS)
            pixels = np.asarray(picture)
            palette = picture.getpalette() if picture.mode == "P" else None
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ImageError(f"a mask cannot be read ({reason_of(error)})") from None
    indices: Int[np.ndarray, "h w"] = pixels.astype(np.int64)
    if pixels.ndim == 3:
        colours = indices[..., : 1 if picture.mode == "LA" else 3]
        # What cannot be seen belongs to no object.
        shown = indices[..., -1] > 0 if picture.mode in ("LA", "RGBA") else True
        indices = colours @ 256 ** np.arange(colours.shape[2]) * shown
    elif palette and _has_void(palette, pixels):
        indices[pixels == VOC_VOID] = -1
    return indices


def _has_void(palette: list[int], pixels: np.ndarray) -> bool:
    """Whether the last index of a palette is PASCAL VOC's void.

    It may be an object too, the 255th; then others have the indices before.
    """
    others = pixels[(pixels > 0) & (pixels < VOC_VOID)]
    few = 0 < others.max(initial=0) <= VOC_VOID // 2
    return bool(few) and palette[3 * VOC_VOID :] == VOC_VOID_COLOUR


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
    """An image made ``factor`` times smaller, rounded up; each pixel is the mean of a square.

    Done strip by strip, so that an image mapped from a file never lies in memory as a whole.
    """
    rows = factor * max(1, STRIP_PIXELS // (factor * image.shape[1]))
    strips = (image[top : top + rows] for top in range(0, len(image), rows))
    reduced = [np.asarray(Image.fromarray(np.ascontiguousarray(s)).reduce(factor)) for s in strips]
    return np.concatenate(reduced)


def _list_folder(folder: Path, report: Callable[[str], object]) -> list[Path]:
    try:
        # macOS leaves a "._photo.jpg" beside each photo.
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ImageError(
            f"{folder}: cannot be listed ({reason_of(error)}); check its permissions"
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
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # the last: of a NUL
            raise ImageError(f"{path}: no such file; check the name") from error
        if stat.S_ISDIR(mode):
            raise ImageError(f"{path}: is a directory; name the pictures in it")
        if not stat.S_ISREG(mode):  # a pipe would block, a device may never end
            raise ImageError(f"{path}: is not a regular file; save the picture to one")
        with path.open("rb") as file:
            return read_stream(file, str(path), max_pixels=max_pixels)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be opened ({reason_of(error)}); check its permissions"
        ) from error


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
