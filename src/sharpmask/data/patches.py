"""Cutting patches: from a photo and a mask to what the networks read."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset

from sharpmask.coco.annotations import CocoDataset, CocoImage
from sharpmask.data.sampling import Patch, PatchSampler
from sharpmask.geometry import GREY, PatchGeometry
from sharpmask.masks import Rle, decode
from sharpmask.shapes import Float, UInt8

CACHE_BYTES = 3 << 30
"""Decoded photos kept by each worker."""


class PatchBatch(NamedTuple):
    """What a training step reads.

    Attributes:
        windows: RGB.
        masks: 1 on the object, 0 elsewhere; all 0 for a negative.
        labels: +1 where an object is centred, -1 for a negative.
        for_mask: Whether the mask head learns from the patch.
        for_score: Whether the score head learns from the patch.
    """

    windows: UInt8[Tensor, "b 3 w w"]
    masks: UInt8[Tensor, "b s s"]
    labels: Float[Tensor, " b"]
    for_mask: Float[Tensor, " b"]
    for_score: Float[Tensor, " b"]


def collate(items: list[tuple[Tensor, Tensor, float, float, float]]) -> PatchBatch:
    """Stack single patches."""
    windows, masks, *numbers = zip(*items, strict=True)
    return PatchBatch(torch.stack(windows), torch.stack(masks), *map(torch.tensor, numbers))


def cut(
    image: Image.Image, center: tuple[float, float], scale: float, side: int, fill: int
) -> Image.Image:
    """Resample the square of ``side`` patch pixels round ``center``; outside the image is ``fill``.

    Antialiased when shrinking. Only patch pixels that lie wholly inside the image are read from it.
    """
    left, top = (c - side / 2 / scale for c in center)
    x0, y0 = (max(0, int(np.ceil(-start * scale - 1e-6))) for start in (left, top))
    x1 = min(side, int(np.floor((image.width - left) * scale + 1e-6)))
    y1 = min(side, int(np.floor((image.height - top) * scale + 1e-6)))
    patch = Image.new(image.mode, (side, side), (fill,) * 3 if image.mode == "RGB" else fill)
    if x1 > x0 and y1 > y0:
        box = (
            max(0.0, left + x0 / scale),
            max(0.0, top + y0 / scale),
            min(float(image.width), left + x1 / scale),
            min(float(image.height), top + y1 / scale),
        )
        patch.paste(image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box), (x0, y0))
    return patch


def mask_image(rle: Rle) -> Image.Image:
    """A mask as a grey picture, 255 on the object: what ``cut`` and ``cut_out`` resample."""
    return Image.fromarray(decode(rle) * np.uint8(255))


def cut_out(
    photo: Image.Image, rle: Rle, box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """The part of a photo in a box (xyxy), and of an object's mask, at a size (width, height)."""
    pixels, mask = (
        image.resize(size, Image.Resampling.BILINEAR, box=box) for image in (photo, mask_image(rle))
    )
    return pixels, mask


def augment(window: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Random brightness, contrast, saturation, blur and loss of colour."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        window = enhance(window).enhance(rng.uniform(1 - strength, 1 + strength))
    if rng.random() < strength / 4:
        window = window.convert("L").convert("RGB")
    if rng.random() < strength / 2:
        window = window.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    return window


class PhotoCache:
    """Reads the photos of a data set by number, and keeps up to ``CACHE_BYTES`` of them."""

    def __init__(self, dataset: CocoDataset) -> None:
        self.dataset = dataset
        self._photos: dict[int, Image.Image] = {}
        self._bytes = 0

    def __call__(self, number: int) -> Image.Image:
        """The photo, RGB."""
        photo = self._photos.get(number)
        if photo is None:
            pixels = self.dataset.images[number].read()
            photo = Image.fromarray(pixels)
            if self._bytes + pixels.nbytes <= CACHE_BYTES:
                self._bytes += pixels.nbytes
                self._photos[number] = photo
        return photo


class PatchDataset(Dataset[tuple[Tensor, Tensor, float, float, float]]):
    """Patches by (epoch, number).

    Args:
        sampler: What to cut.
        mask_size: Side of the mask targets.
        colour_jitter: Strength of ``augment``, 0 for none.
    """

    def __init__(
        self, sampler: PatchSampler, *, mask_size: int, colour_jitter: float = 0.0
    ) -> None:
        self.sampler = sampler
        self.mask_size = mask_size
        self.colour_jitter = colour_jitter
        self.photo = PhotoCache(sampler.dataset)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, Tensor, float, float, float]:
        """Window, mask target, label, for_mask, for_score of patch (epoch, number)."""
        patch = self.sampler.patch(*index)
        rng = np.random.default_rng((self.sampler.seed, *index, 2))
        return self.cut(patch, rng)

    def cut(
        self, patch: Patch, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, float, float, float]:
        """Window, mask target, label, for_mask, for_score of a given patch."""
        record = self.sampler.dataset.images[patch.image]
        window = cut_window(self.photo(patch.image), patch, self.sampler.geometry)
        if self.colour_jitter:
            window = augment(window, rng, self.colour_jitter)
        mask = cut_mask(record, patch, self.sampler.geometry, self.mask_size)
        if patch.flip:
            window = window.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            mask = mask[:, ::-1]
        pixels = torch.from_numpy(np.array(window)).permute(2, 0, 1)
        target = torch.from_numpy(mask.copy())
        label = -1.0 if patch.instance is None else 1.0
        return pixels, target, label, float(patch.for_mask), float(patch.for_score)


def cut_window(photo: Image.Image, patch: Patch, geometry: PatchGeometry) -> Image.Image:
    """The window of a patch, context included; grey outside the photo. Yet to be mirrored.

    The network reads the patch ``geometry.shift`` pixels beside the window's middle.
    """
    back = geometry.shift / patch.scale
    x, y = patch.center
    center = (x + back if patch.flip else x - back, y - back)
    return cut(photo, center, patch.scale, geometry.window_size, GREY)


def cut_mask(
    record: CocoImage, patch: Patch, geometry: PatchGeometry, size: int
) -> UInt8[np.ndarray, "size size"]:
    """The centred object's mask in the patch frame (without context), 0 and 1."""
    if patch.instance is None:
        return np.zeros((size, size), np.uint8)
    full = mask_image(record.instances[patch.instance].rle)
    # Patch pixels of the target are patch_size / size pixels of the patch.
    target = cut(full, patch.center, patch.scale * size / geometry.patch_size, size, 0)
    return (np.asarray(target) >= 128).astype(np.uint8)
