"""Scenes for training on all levels of a feature pyramid at once.

A scene is a piece of a photo at a scale at which photos are read. Every object in it is learned at
the level whose windows fit it: small and large ones from one pass. Objects cut out of other photos
are pasted in (Ghiasi et al. 2021). Scene k of an epoch is a pure function of (seed, epoch, k).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sharpmask.data.mixture import SourceSampler
from sharpmask.data.patches import augment, cut, cut_out, mask_image
from sharpmask.data.pieces import Piece, SceneObject
from sharpmask.data.scenes import Scenes
from sharpmask.geometry import GREY
from sharpmask.pyramid_geometry import PyramidGeometry
from sharpmask.shapes import Bool, Float, Int, UInt8

POSITIVE_OCTAVES, IGNORED_OCTAVES = 0.6, 1.0
POSITIVE_CELLS, IGNORED_CELLS = 1.0, 2.6
"""A cell is an object within the first distances of it, background beyond the second ones.

Distances in size from the level's own object size, and in cells from the object's centre.
"""
READING_SIZE = 640
READING_OCTAVES = (-1.0, 0.6)
"""Scales of scenes: these octaves round a longer photo side of so many pixels."""
JITTER_OCTAVES = 0.4
"""Scales of scenes round given readings, and of what is pasted into them."""
DRAWN_SIZES = (20.0, 500.0)
"""The object that a scene is drawn for is scaled to a longer side within these, pixels."""
PASTED_SIZES = (24.0, 260.0)
"""Longer sides of pasted objects, pixels."""
MAX_ENLARGEMENT = 2.5
"""Of pasted objects."""
INSIDE = 0.35
"""An object of whose box less than this share lies in the scene is ignored."""


class LevelSceneBatch(NamedTuple):
    """What a training step reads.

    Attributes:
        images: RGB.
        labels: For each level and cell 1 where an object is centred, -1 for background, 0 where
            neither is sure.
        cells: Image, level, row and column of the windows whose masks are learned.
        masks: Their targets: the share of each sample that the object covers, times 255.
    """

    images: UInt8[Tensor, "b 3 s s"]
    labels: tuple[Float[Tensor, "b rows columns"], ...]
    cells: Int[Tensor, "n 4"]
    masks: UInt8[Tensor, "n m m"]


Sample = tuple[Tensor, tuple[Tensor, ...], Tensor, Tensor]
"""Image, labels of each level, cells (level, row, column) and masks of one scene."""


def collate_level_scenes(items: list[Sample]) -> LevelSceneBatch:
    """Stack scenes; cells get the index of their image."""
    images, labels, cells, masks = zip(*items, strict=True)
    indexed = [F.pad(c, (1, 0), value=k) for k, c in enumerate(cells)]
    by_level = tuple(torch.stack(level) for level in zip(*labels, strict=True))
    return LevelSceneBatch(torch.stack(images), by_level, torch.cat(indexed), torch.cat(masks))


# Deviation: level-scenes
@dataclass(eq=False, repr=False)
class LevelSceneDataset(Scenes[Sample, PyramidGeometry]):
    """Scenes by (epoch, index).

    One in four lies anywhere in a completely labelled photo; the others are drawn for an object.

    ``scene_size`` is a whole number of cells of the coarsest level, ``windows`` the most windows of
    a level whose masks are learned.

    Attributes:
        readings: Octaves at which photos will be read: scenes are cut and objects pasted near
            these scales, as a ``Proposer`` reads. If None, at all scales that are usual.

    Raises:
        ValueError: There is no object to learn from, or ``scene_size`` does not fit.
    """

    readings: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.scene_size < 1 or self.geometry.padded_size(self.scene_size) != self.scene_size:
            raise ValueError(
                f"scene_size: expected a multiple of {self.geometry.strides[-1]}, got "
                f"{self.scene_size}"
            )
        self.sampler = SourceSampler(self.dataset, self.shares)

    def __getitem__(self, index: tuple[int, int]) -> Sample:
        """Scene (epoch, index)."""
        rng = np.random.default_rng((self.seed, *index, 4))
        number, piece = self._place(rng, index[1])
        photo = piece.resample(self.photo(number))
        objects = self._objects(number, piece)
        for _ in range(rng.poisson(self.copy_paste)):
            self._paste(photo, objects, piece, rng)
        if self.colour_jitter:
            photo = augment(photo, rng, self.colour_jitter)
        # What lies beyond a photo looks the same whenever it is read.
        scene = Image.new("RGB", (self.scene_size, self.scene_size), (GREY,) * 3)
        scene.paste(photo, (0, 0))
        record = self.dataset.images[number]
        background = np.full((self.scene_size,) * 2, record.complete)
        if record.crowd:
            background &= self._framed(piece.resample(mask_image(record.crowd))) < 128
        labels, cells, masks = [], [], []
        for level in range(len(self.geometry.strides)):
            label, owners = self._label(objects, level, background)
            chosen = self._choose(label, owners, rng)
            labels.append(torch.from_numpy(label))
            for row, column in chosen:
                cells.append((level, row, column))
                mask = objects[owners[row, column]].mask(piece, self.scene_size)
                masks.append(self._target(mask, level, row, column))
        size = self.geometry.mask_size
        return (
            torch.from_numpy(np.array(scene)).permute(2, 0, 1),
            tuple(labels),
            torch.tensor(cells, dtype=torch.long).reshape(-1, 3),
            torch.from_numpy(np.array(masks, np.uint8).reshape(-1, size, size)),
        )

    def _place(self, rng: np.random.Generator, index: int) -> tuple[int, Piece]:
        """The photo of a scene, and which piece of it."""
        octave = self._octave(rng)
        if index % 4 == 3 and self.sampler.has_complete:
            number = self.sampler.complete_photo(rng)
            image = self.dataset.images[number]
            scale = self._scale(number, octave)
            center = rng.random(2) * image.size[::-1]
        else:
            number, instance = self.sampler.object(rng)
            image = self.dataset.images[number]
            box = np.array(image.instances[instance].box)
            side = float(np.max(box[2:] - box[:2]))
            scale = self._scale(number, octave)
            scale = min(max(scale, DRAWN_SIZES[0] / side), DRAWN_SIZES[1] / side)
            # The object may lie anywhere in the scene.
            reach = max(0.0, (self.scene_size / scale - side) / 2)
            center = (box[:2] + box[2:]) / 2 + rng.uniform(-reach, reach, 2)
        extent = np.array(image.size[::-1])
        size = np.clip(np.rint(extent * scale), 1, self.scene_size).astype(int)
        length = np.minimum(extent, size / scale)
        start = np.clip(center - length / 2, 0, extent - length)
        left, top, right, bottom = (float(v) for v in (*start, *(start + length)))
        flip = bool(rng.random() < 0.5)
        return number, Piece((left, top, right, bottom), (int(size[0]), int(size[1])), flip)

    def _octave(self, rng: np.random.Generator) -> float:
        """At which photos may be read."""
        if self.readings is None:
            return float(rng.uniform(*READING_OCTAVES))
        return float(rng.choice(self.readings) + rng.uniform(-JITTER_OCTAVES, JITTER_OCTAVES))

    def _scale(self, number: int, octave: float) -> float:
        """Of a photo that is read at an octave."""
        whole = READING_SIZE / max(self.dataset.images[number].size)
        if self.readings is not None:  # a proposer enlarges no small photo before it counts octaves
            whole = min(1.0, whole)
        return float(whole * 2**octave)

    def _objects(self, number: int, piece: Piece) -> list[SceneObject]:
        """The photo's objects and crowd regions that reach into the scene."""
        image = self.dataset.images[number]
        boxes = piece.boxes(np.concatenate([image.boxes, np.array(image.crowds).reshape(-1, 4)]))
        inside = boxes.clip(0, np.tile(piece.size, 2))
        areas, visible = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, inside))
        objects = []
        for k in np.flatnonzero(visible > 0):
            labelled = bool(k < len(image.instances))
            objects.append(
                SceneObject(
                    inside[k],
                    learned=labelled and bool(visible[k] >= INSIDE * areas[k]),
                    rle=image.instances[k].rle if labelled else None,
                )
            )
        return objects

    def _paste(
        self,
        photo: Image.Image,
        objects: list[SceneObject],
        piece: Piece,
        rng: np.random.Generator,
    ) -> None:
        """Paste an object cut out of some photo over the others; it may leave the piece."""
        number, index = self.sampler.object(rng)
        instance = self.dataset.images[number].instances[index]
        sides = np.array(instance.box[2:]) - instance.box[:2]
        if self.readings is None:
            side = np.exp(rng.uniform(*np.log(PASTED_SIZES)))
            factor = min(side / sides.max(), MAX_ENLARGEMENT)
        else:
            factor = self._scale(number, self._octave(rng))
        factor = min(factor, 2 * min(piece.size) / sides.max())
        width, height = np.maximum(1, np.rint(sides * factor)).astype(int).tolist()
        size = (width, height)
        corner = np.rint(rng.uniform(0, piece.size) - np.array(size) / 2).astype(int)
        place = np.concatenate([corner, corner + size]).astype(float)
        inside = place.clip(0, np.tile(piece.size, 2))
        cutout, shape = cut_out(self.photo(number), instance.rle, instance.box, size)
        left, top = corner.tolist()
        photo.paste(cutout, (left, top), shape)
        canvas = Image.new("L", piece.size)
        canvas.paste(shape, (left, top))
        mask = self._framed(canvas)
        for other in objects:
            overlap = np.minimum(other.box[2:], inside[2:]) - np.maximum(other.box[:2], inside[:2])
            if other.learned and np.all(overlap > 0):
                other.cover(mask, piece)
        share = np.prod(inside[2:] - inside[:2]) / np.prod(size)
        objects.append(SceneObject(inside, learned=bool(share >= INSIDE), mask=mask))

    def _framed(self, mask: Image.Image) -> UInt8[np.ndarray, "s s"]:
        """A piece's mask in the frame of the scene."""
        framed = np.zeros((self.scene_size, self.scene_size), np.uint8)
        framed[: mask.height, : mask.width] = np.asarray(mask)
        return framed

    def _label(
        self, objects: list[SceneObject], level: int, background: Bool[np.ndarray, "s s"]
    ) -> tuple[Float[np.ndarray, "rows columns"], Int[np.ndarray, "rows columns"]]:
        """Label of each cell of a level, and which object a cell with label 1 is centred on.

        ``background`` says where what is no object is background.
        """
        geometry = self.geometry
        count = self.scene_size // geometry.strides[level]
        middles = (np.arange(count) * geometry.strides[level] + geometry.cell_offset).astype(int)
        labels = np.where(background[np.ix_(middles, middles)], np.float32(-1), np.float32(0))
        owners = np.zeros((count, count), np.int64)
        nearest = np.full((count, count), np.inf)
        boxes = np.array([item.box for item in objects]).reshape(-1, 4)
        octaves = np.abs(geometry.octaves(level, boxes))
        places = ((boxes[:, :2] + boxes[:, 2:]) / 2 - geometry.cell_offset) / geometry.strides[
            level
        ]
        for k in np.flatnonzero(octaves < IGNORED_OCTAVES):
            first = np.ceil(places[k] - IGNORED_CELLS).astype(int).clip(0, count)
            last = np.floor(places[k] + IGNORED_CELLS).astype(int).clip(-1, count - 1) + 1
            near = np.s_[first[1] : last[1], first[0] : last[0]]
            columns, rows = (np.abs(np.arange(count) - place) for place in places[k])
            shift = np.maximum.outer(rows, columns)[near]
            label = labels[near]
            label[label < 0] = 0
            if objects[k].learned and octaves[k] <= POSITIVE_OCTAVES:
                distance = shift / POSITIVE_CELLS + octaves[k] / POSITIVE_OCTAVES
                mine = (shift <= POSITIVE_CELLS) & (distance < nearest[near])
                label[mine] = 1
                owners[near][mine] = k
                nearest[near][mine] = distance[mine]
        return labels, owners

    def _choose(
        self,
        labels: Float[np.ndarray, "rows columns"],
        owners: Int[np.ndarray, "rows columns"],
        rng: np.random.Generator,
    ) -> list[tuple[int, int]]:
        """The windows of a level to be learned: of as many objects as possible.

        The other cells on objects teach no mask; without one their scores have no target either.
        """
        cells = rng.permutation(np.argwhere(labels > 0))
        turns: dict[int, int] = {}
        order = []
        for row, column in cells.tolist():
            owner = int(owners[row, column])
            turns[owner] = turns.get(owner, 0) + 1
            order.append((turns[owner], row, column))
        order.sort(key=lambda entry: entry[0])
        for _, row, column in order[self.windows :]:
            labels[row, column] = 0
        return [(row, column) for _, row, column in order[: self.windows]]

    def _target(
        self, mask: UInt8[np.ndarray, "s s"], level: int, row: int, column: int
    ) -> UInt8[np.ndarray, "m m"]:
        """The part of a scene's mask in a cell's window, at the size of the network's masks."""
        geometry = self.geometry
        x, y = (geometry.strides[level] * k + geometry.cell_offset for k in (column, row))
        scale = 1 / geometry.sample_size(level)
        return np.asarray(cut(Image.fromarray(mask), (x, y), scale, geometry.mask_size, 0))
