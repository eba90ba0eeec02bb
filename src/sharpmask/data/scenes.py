"""Scenes: crops of photos with all the windows in them, for dense training.

A scene is read once and teaches every cell of its score map, as a photo is read in inference, where
a patch teaches one. Objects cut out of other photos are pasted in (Ghiasi et al. 2021).
Scene k of an epoch is a pure function of (seed, epoch, k).
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sharpmask.coco.annotations import CocoDataset
from sharpmask.data.mixture import SourceSampler
from sharpmask.data.patches import PhotoCache, augment, cut, cut_out, mask_image
from sharpmask.data.pieces import VISIBLE
from sharpmask.data.sampling import (
    MAX_OCTAVES,
    MAX_SHIFT,
    NEGATIVE_OCTAVES,
    NEGATIVE_SHIFT,
)
from sharpmask.geometry import GREY, PatchGeometry
from sharpmask.pyramid_geometry import PyramidGeometry
from sharpmask.shapes import Bool, Float, Int, UInt8

SCENE_OCTAVES = (-2.75, 1.75)
"""Scales of scenes: a quarter octave beyond those at which photos are read, Zoom^2 included."""
Item = TypeVar("Item", covariant=True)
Geometry = TypeVar("Geometry", PatchGeometry, PyramidGeometry)


class SceneBatch(NamedTuple):
    """What a training step reads.

    Attributes:
        images: RGB.
        labels: For each cell 1 where an object is centred, -1 for background, 0 where it is
            ignored.
        cells: Image, row and column of the cells that the mask head learns from; all are objects.
        masks: Their targets, 1 on the object.
    """

    images: UInt8[Tensor, "b 3 s s"]
    labels: Float[Tensor, "b rows columns"]
    cells: Int[Tensor, "n 3"]
    masks: UInt8[Tensor, "n p p"]


def collate_scenes(items: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> SceneBatch:
    """Stack scenes; cells get the index of their image."""
    images, labels, cells, masks = zip(*items, strict=True)
    numbered = [F.pad(c, (1, 0), value=k) for k, c in enumerate(cells)]
    return SceneBatch(
        torch.stack(images), torch.stack(labels), torch.cat(numbered), torch.cat(masks)
    )


@dataclass
class SceneObject:
    """An object in a scene's frame.

    Attributes:
        mask: Its visible part; None where its scale lets no cell learn a mask from it.
        center: x and y of its whole box.
        octave: Of the scene relative to the object's canonical scale.
        learned: Whether cells near it are positives; else they are ignored.
    """

    mask: Bool[np.ndarray, "s s"] | None
    center: tuple[float, float]
    octave: float
    learned: bool

    def mirrored(self, side: int) -> "SceneObject":
        """The object in the mirror image of a scene of ``side`` pixels."""
        mask = None if self.mask is None else self.mask[:, ::-1]
        return replace(self, mask=mask, center=(side - self.center[0], self.center[1]))


@dataclass(eq=False, repr=False)
class Scenes(Dataset[Item], Generic[Item, Geometry]):
    """What every data set of scenes is made from.

    Attributes:
        dataset: Images and objects.
        geometry: Windows of the model.
        seed: First key of every draw.
        scene_size: Side in pixels.
        windows: Most windows whose masks are learned, of a scene or of each of its levels.
        copy_paste: Mean number of objects pasted into a scene.
        colour_jitter: Strength of ``augment``, 0 for none.
        shares: Fixed shares of some sources (see ``SourceSampler``).
    """

    dataset: CocoDataset
    geometry: Geometry
    _: KW_ONLY
    seed: int
    scene_size: int
    windows: int
    copy_paste: float = 0.0
    colour_jitter: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def photo(self) -> PhotoCache:
        """Reads the photos."""
        return PhotoCache(self.dataset)


# Deviation: scenes
@dataclass(eq=False, repr=False)
class SceneDataset(Scenes[tuple[Tensor, Tensor, Tensor, Tensor], PatchGeometry]):
    """Scenes by (epoch, index).

    One in four lies anywhere in a completely labelled photo, at any scale. The others show an
    object at its canonical scale (jittered as positives are), and all do where no photo is
    completely labelled.

    ``scene_size`` is a multiple of the stride, ``windows`` the most cells of a scene that the mask
    head learns from.

    Raises:
        ValueError: There is no object to learn from, or ``scene_size`` does not fit.
    """

    def __post_init__(self) -> None:
        geometry = self.geometry
        if self.scene_size % geometry.stride or self.scene_size < geometry.patch_size:
            raise ValueError(
                f"scene_size: expected a multiple of {geometry.stride} of at least "
                f"{geometry.patch_size}, got {self.scene_size}"
            )
        largest = 2.0 ** SCENE_OCTAVES[1]
        self.sampler = SourceSampler(
            self.dataset,
            self.shares,
            lambda instance: geometry.canonical_scale(np.array(instance.box)) <= largest,
        )

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, labels, cells (row, column) and masks of scene (epoch, index)."""
        rng = np.random.default_rng((self.seed, *index, 3))
        number, center, scale = self._place(rng, index[1])
        scene = cut(self.photo(number), center, scale, self.scene_size, GREY)
        objects = self._objects(number, center, scale)
        height, width = self.dataset.images[number].size
        # Centres of pasted objects: in the photo, and where a window fits.
        corners = (np.array([[0, 0], [width, height]]) - center) * scale + self.scene_size / 2
        margin = self.geometry.patch_size / 2
        first, last = corners.clip(margin, self.scene_size - margin)
        for _ in range(rng.poisson(self.copy_paste)):
            self._paste(scene, objects, rng, rng.uniform(first, last))
        if self.colour_jitter:
            scene = augment(scene, rng, self.colour_jitter)
        record = self.dataset.images[number]
        background = np.full((self.scene_size,) * 2, record.complete)
        if record.crowd:
            crowd = cut(mask_image(record.crowd), center, scale, self.scene_size, 0)
            background &= np.asarray(crowd) < 128
        if rng.random() < 0.5:
            scene = scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            objects = [item.mirrored(self.scene_size) for item in objects]
            background = background[:, ::-1]
        labels, owners = self._label(objects, background)
        cells = np.argwhere(labels > 0)
        if len(cells) > self.windows:
            chosen = rng.permutation(len(cells))
            # The score learns the quality of a mask: nothing is known of cells without one.
            labels[tuple(cells[chosen[self.windows :]].T)] = 0
            cells = cells[chosen[: self.windows]]
        side = self.geometry.patch_size
        shift = self.geometry.shift
        masks = np.zeros((len(cells), side, side), np.uint8)
        starts = cells * self.geometry.stride + shift + abs(shift)
        for target, cell, (top, left) in zip(masks, cells, starts, strict=True):
            # Patches may leave the scene by the shift: nothing is known of their objects there.
            mask = np.pad(objects[owners[tuple(cell)]].mask, abs(shift))
            target[:] = mask[top : top + side, left : left + side]
        return (
            torch.from_numpy(np.array(scene)).permute(2, 0, 1),
            torch.from_numpy(labels),
            torch.from_numpy(cells),
            torch.from_numpy(masks),
        )

    def _place(
        self, rng: np.random.Generator, number: int
    ) -> tuple[int, tuple[float, float], float]:
        """Photo, centre (x, y) in it and scale of a scene."""
        geometry = self.geometry
        if number % 4 == 3 and self.sampler.has_complete:
            image = self.sampler.complete_photo(rng)
            center = rng.random(2) * self.dataset.images[image].size[::-1]
            scale = 2 ** rng.uniform(*SCENE_OCTAVES)
        else:
            image, instance = self.sampler.object(rng)
            box = np.array(self.dataset.images[image].instances[instance].box)
            jitter = 2 ** rng.uniform(-MAX_OCTAVES, MAX_OCTAVES)
            scale = float(geometry.canonical_scale(box)) * jitter
            # The object's window may lie anywhere in the scene.
            reach = (self.scene_size - geometry.patch_size) / 2 / scale
            center = (box[:2] + box[2:]) / 2 + rng.uniform(-reach, reach, 2)
        # No more grey than inference puts round a photo, or all of the photo.
        first = (self.scene_size / 2 - geometry.border) / scale
        last = np.array(self.dataset.images[image].size[::-1]) - first
        x, y = np.clip(center, np.minimum(first, last), np.maximum(first, last)).tolist()
        return image, (x, y), scale

    def _objects(self, number: int, center: tuple[float, float], scale: float) -> list[SceneObject]:
        """The photo's objects whose scale is near enough to matter."""
        image = self.dataset.images[number]
        boxes = np.concatenate([image.boxes, np.array(image.crowds).reshape(-1, 4)])
        octaves = np.log2(scale / self.geometry.canonical_scale(boxes))
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        centers = (middles - center) * scale + self.scene_size / 2
        objects = []
        for k in np.flatnonzero(np.abs(octaves) < NEGATIVE_OCTAVES):
            learned = bool(k < len(image.instances) and abs(octaves[k]) <= MAX_OCTAVES)
            mask = None
            if learned:
                full = mask_image(image.instances[k].rle)
                mask = np.asarray(cut(full, center, scale, self.scene_size, 0)) >= 128
            x, y = centers[k].tolist()
            objects.append(SceneObject(mask, (x, y), float(octaves[k]), learned))
        return objects

    def _paste(
        self,
        scene: Image.Image,
        objects: list[SceneObject],
        rng: np.random.Generator,
        center: Float[np.ndarray, "2"],
    ) -> None:
        """Paste an object cut out of some photo, near its canonical scale, over the others."""
        number, index = self.sampler.object(rng)
        instance = self.dataset.images[number].instances[index]
        left, top, right, bottom = (int(value) for value in instance.box)
        octave = rng.uniform(-MAX_OCTAVES, MAX_OCTAVES)
        scale = float(self.geometry.canonical_scale(np.array(instance.box))) * 2**octave
        size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
        corner = round(center[0] - size[0] / 2), round(center[1] - size[1] / 2)
        box = (left, top, right, bottom)
        pixels, shape = cut_out(self.photo(number), instance.rle, box, size)
        scene.paste(pixels, corner, shape)
        canvas = Image.new("L", scene.size)
        canvas.paste(shape, corner)
        mask = np.asarray(canvas) >= 128
        for other in objects:
            if other.mask is not None and other.learned:
                visible = other.mask & ~mask
                other.learned = bool(visible.sum() >= VISIBLE * other.mask.sum())
                other.mask = visible
        middle = (corner[0] + size[0] / 2, corner[1] + size[1] / 2)
        objects.append(SceneObject(mask, middle, float(octave), learned=True))

    def _label(
        self, objects: list[SceneObject], background: Bool[np.ndarray, "s s"]
    ) -> tuple[Float[np.ndarray, "rows columns"], Int[np.ndarray, "rows columns"]]:
        """Label of each cell, and which object a cell with label 1 is centred on.

        ``background`` says where what is no object is background.
        """
        geometry = self.geometry
        count = geometry.num_cells(self.scene_size)
        owners = np.zeros((count, count), np.int64)
        nearest = np.full((count, count), np.inf)
        middles = np.arange(count) * geometry.stride + geometry.shift + geometry.patch_size / 2
        places = middles.astype(int)
        labels = np.where(background[np.ix_(places, places)], np.float32(-1), np.float32(0))
        for number, item in enumerate(objects):
            x, y = item.center
            shift = np.maximum.outer(np.abs(middles - y), np.abs(middles - x))
            labels[(shift < NEGATIVE_SHIFT) & (labels < 0)] = 0
            if item.learned:
                distance = shift / MAX_SHIFT + abs(item.octave) / MAX_OCTAVES
                mine = (shift <= MAX_SHIFT) & (distance < nearest)
                labels[mine], owners[mine] = 1, number
                nearest[mine] = distance[mine]
        return labels, owners
