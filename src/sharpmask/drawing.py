"""Masks drawn on the photo that they were found in, and objects cut out of it."""

import math
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont

from sharpmask.masks import Rle, decode, rle_boxes
from sharpmask.shapes import Bool, Float32, UInt8

COLOURS = (
    *("#ff3b5c", "#2fc04f", "#ffd91a", "#3f6fff", "#ff8c1a", "#36d6f2", "#f03ae6", "#b8ef3a"),
    *("#9a3fd0", "#1fa39b", "#ff9ec4", "#a8692a"),
)
"""Colours of masks, in turn: easy to tell apart on most photos."""

_TINT = 0.4  # opacity inside the outline: the photo and the masks below stay visible


class _Box(NamedTuple):
    """Half-open box in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class _Tag(NamedTuple):
    """Where a mask lies, for its label: ``peak`` is the middle column of its top row."""

    colour: str
    box: _Box
    peak: int


def draw_masks(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Iterable[Bool[np.ndarray, "h w"]],
    labels: Sequence[str],
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw masks, best first, each as a tint with an outline and its label beside it.

    The first mask lies on top. Masks are taken one at a time and none is kept: a generator of a
    thousand needs the memory of one. Tint and outline stay inside the mask. Masks without a pixel
    are left out, and so are labels that are empty or larger than the picture.

    Raises:
        ValueError: A mask is not bool of the image's size, or there is not one label per mask.
    """
    height, width = image.shape[:2]
    thickness = max(1, round(max(height, width) / 240))
    # Painted from the top down, so that no mask has to be kept: `still_shows` is the share of each
    # pixel through which what lies below is seen.
    paint = np.zeros((height, width, 3), np.float32)
    still_shows = np.ones((height, width, 1), np.float32)
    tags: list[_Tag | None] = []
    for colour, mask in zip(cycle(COLOURS), masks, strict=False):
        if mask.dtype != np.bool_ or mask.shape != (height, width):
            raise ValueError(
                f"expected a bool mask {(height, width)}, got {mask.dtype} {mask.shape}; "
                "paste it into the image's frame and binarise it"
            )
        tag = _tag(mask, colour)
        tags.append(tag)
        if tag is not None:
            _paint_below(paint, still_shows, mask, tag, thickness)
    if len(tags) != len(labels):
        raise ValueError(f"expected one label per mask, got {len(labels)} for {len(tags)} masks")
    paint += still_shows * image
    return _draw_labels(np.rint(paint).astype(np.uint8), tags, labels)


def cut_out(
    image: UInt8[np.ndarray, "h w 3"], rle: Rle, feather: float = 0.0
) -> UInt8[np.ndarray, "a b 4"]:
    """One object with its transparency, cropped to its box; colours outside the mask are black.

    Args:
        image: The photo.
        rle: The mask.
        feather: Pixels over which the edge fades, to both sides; the box grows by as many.
    """
    height, width = image.shape[:2]
    margin = math.ceil(feather)
    x0, y0, x1, y1 = rle_boxes([rle])[0].astype(int)
    crop = np.s_[
        max(0, y0 - margin) : min(height, y1 + margin),
        max(0, x0 - margin) : min(width, x1 + margin),
    ]
    alpha = np.where(decode(rle)[crop], np.uint8(255), np.uint8(0))
    if feather:
        # An object that the photo's border cuts goes on beyond it: that edge does not fade.
        alpha = np.asarray(Image.fromarray(alpha).filter(ImageFilter.GaussianBlur(feather / 2)))
    visible: Bool[np.ndarray, "a b 1"] = alpha[..., None] > 0
    return np.dstack([np.where(visible, image[crop], np.uint8(0)), alpha])


def _paint_below(
    paint: Float32[np.ndarray, "h w 3"],
    still_shows: Float32[np.ndarray, "h w 1"],
    mask: Bool[np.ndarray, "h w"],
    tag: _Tag,
    thickness: int,
) -> None:
    """Paint a mask, in place, below all that is there.

    The masks above veil its tint but not its outline, so a part inside a better mask stays visible.
    Where an outline runs, nothing shows below it.
    """
    crop = np.s_[tag.box.top : tag.box.bottom, tag.box.left : tag.box.right]
    colour = np.array(ImageColor.getrgb(tag.colour), np.float32)
    inner = _eroded(mask[crop], thickness)
    tint = still_shows[crop] * (np.float32(_TINT) * inner[..., None])
    line = mask[crop] & ~inner & (still_shows[crop][..., 0] > 0)
    paint[crop] += tint * colour
    still_shows[crop] -= tint
    paint[crop][line] = colour
    still_shows[crop][line] = 0


def _tag(mask: Bool[np.ndarray, "h w"], colour: str) -> _Tag | None:
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    box = _Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return _Tag(colour, box, round(np.flatnonzero(mask[box.top]).mean()))


def _eroded(mask: Bool[np.ndarray, "h w"], steps: int) -> Bool[np.ndarray, "h w"]:
    """Take ``steps`` layers of pixels off a mask, also where the array's edge cuts it."""
    for _ in range(steps):
        p = np.pad(mask, 1)
        mask = mask & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return mask


def _draw_labels(
    image: UInt8[np.ndarray, "h w 3"], tags: Sequence[_Tag | None], labels: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """Write each label on a plate of its mask's colour; the best is first to choose a place."""
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    font_size = max(12, round(max(height, width) / 45))
    font = ImageFont.load_default(font_size)
    margin = font_size // 4
    plates: list[_Box] = []
    written: list[tuple[_Box, str, str, tuple[int, int]]] = []
    for tag, label in zip(tags, labels, strict=True):
        ink = _Box(*(round(edge) for edge in draw.textbbox((0, 0), label, font)))
        plate_size = ink.right - ink.left + 2 * margin, ink.bottom - ink.top + 2 * margin
        if tag is None or not label or plate_size[0] > width or plate_size[1] > height:
            continue
        plate = _place(tag, plate_size, (width, height), plates)
        plates.append(plate)
        start = plate.left + margin - ink.left, plate.top + margin - ink.top
        written.append((plate, tag.colour, label, start))
    for plate, colour, label, start in reversed(
        written
    ):  # where plates overlap, the best is on top
        red, green, blue = ImageColor.getrgb(colour)[:3]
        draw.rectangle((plate.left, plate.top, plate.right - 1, plate.bottom - 1), fill=colour)
        is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 128
        draw.text(start, label, font=font, fill="black" if is_light else "white")
    return np.array(canvas)


def _place(
    tag: _Tag, plate_size: tuple[int, int], picture_size: tuple[int, int], taken: list[_Box]
) -> _Box:
    """Choose a place for a plate near its mask, inside the picture and clear of those taken.

    Sizes are (width, height). Where all places are taken the first is used anyway.
    """
    width, height = plate_size
    box, middle = tag.box, tag.peak - width // 2
    spots = []
    for x, y in (
        (middle, box.top - height),
        (middle, box.top + height // 2),
        (box.left - width, box.top),
        (box.right, box.top),
        (middle, box.bottom),
        (middle, (box.top + box.bottom - height) // 2),
    ):
        left = min(max(x, 0), picture_size[0] - width)
        top = min(max(y, 0), picture_size[1] - height)
        spots.append(_Box(left, top, left + width, top + height))
    return next((spot for spot in spots if not any(map(spot.meets, taken))), spots[0])
