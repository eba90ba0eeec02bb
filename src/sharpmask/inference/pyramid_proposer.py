"""From a photo to ranked object masks by a feature pyramid: one or two readings of the photo."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image
from torch import Tensor

from sharpmask.geometry import GREY
from sharpmask.images import read_image
from sharpmask.inference.proposer import POOL, apart_first, mask_quality, sigmoid
from sharpmask.models.pyramid import PyramidFeatures, SharpMaskPyramid
from sharpmask.proposals import Proposals

DECODE_BATCH = 64
"""Windows refined at once."""


@dataclass(frozen=True)
class Reading:
    """A photo read at one size.

    Attributes:
        size: Height and width at which it was read, without what fills it up.
        features: The model's own.
        scores: Score logits of each level's cells that lie on the photo.
    """

    size: tuple[int, int]
    features: PyramidFeatures
    scores: tuple[Float32[np.ndarray, "rows columns"], ...]


@dataclass(frozen=True)
class Candidates:
    """The best windows of a photo over all readings and levels, best first.

    Attributes:
        readings: Index of the reading of each.
        cells: Level, row and column.
        scores: Score logits.
    """

    readings: Int[np.ndarray, " n"]
    cells: Int[np.ndarray, "n 3"]
    scores: Float[np.ndarray, " n"]


class PyramidProposer:
    """Proposes objects in photos.

    Args:
        model: In eval mode.
        num_proposals: Maximum number of masks for a photo.
        num_candidates: Masks decoded at least, to be ranked by quality and against each other.
        octaves: Sizes at which a photo is read, relative to ``image_size``; half an octave apart
            two readings leave no size of object between two levels.
        mask_threshold: Probability above which a pixel belongs to the object.
        quality_exponent: Proposals are ranked by score * quality ** quality_exponent, where quality
            is the mean probability inside the mask.
        suppression: A mask whose IoU with a better one exceeds this is ranked behind all that
            repeat none; 1 leaves the order alone.
        image_size: Longer side at which a photo is read at octave 0; smaller photos keep theirs.
    """

    def __init__(
        self,
        model: SharpMaskPyramid,
        *,
        num_proposals: int = 100,
        num_candidates: int = 150,
        octaves: Sequence[float] = (0.0, -0.5),
        mask_threshold: float = 0.5,
        quality_exponent: float = 1.0,
        suppression: float = 0.7,
        image_size: int = 640,
    ) -> None:
        if num_proposals < 1 or image_size < 32 or not octaves:
            raise ValueError(
                "expected num_proposals of at least 1, image_size of at least 32 and an octave, "
                f"got {num_proposals}, {image_size} and {list(octaves)}"
            )
        if not 0 < mask_threshold < 1 or not 0 < suppression <= 1:
            raise ValueError(
                "expected mask_threshold and suppression between 0 and 1, got "
                f"{mask_threshold} and {suppression}"
            )
        self.model = model
        self.geometry = model.geometry
        self.num_proposals = num_proposals
        self.num_candidates = num_candidates
        self.octaves = tuple(octaves)
        self.mask_threshold = mask_threshold
        self.quality_exponent = quality_exponent
        self.suppression = suppression
        self.image_size = image_size

    @torch.inference_mode()
    def __call__(self, image: str | PathLike[str] | Image.Image | np.ndarray) -> Proposals:
        """Propose objects in one photo.

        Args:
            image: A path, a PIL image, or an RGB uint8 array (H, W, 3).

        Raises:
            ImageError: It cannot be read.
        """
        pixels = read_image(image)
        readings = list(self.readings(pixels))
        best = self.select([reading.scores for reading in readings])
        size = self.geometry.mask_size
        windows = np.zeros((len(best.cells), 4))
        masks = np.zeros((len(best.cells), size, size), np.uint8)
        for index, reading in enumerate(readings):
            chosen = np.flatnonzero(best.readings == index)
            for part in np.split(chosen, range(DECODE_BATCH, len(chosen), DECODE_BATCH)):
                cells = torch.from_numpy(np.pad(best.cells[part], ((0, 0), (1, 0))))
                logits = self.model.decode(reading.features, cells).float().numpy()
                masks[part] = np.rint(sigmoid(logits) * 255)
                windows[part] = self.geometry.cells_to_windows(
                    best.cells[part], pixels.shape[:2], reading.size
                )
        # Deviation: ranking
        quality = mask_quality(masks, self.mask_threshold)
        scores = (sigmoid(best.scores) * quality**self.quality_exponent).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        proposals = Proposals(
            pixels, scores[order], windows[order], masks[order], self.mask_threshold
        )
        if self.suppression == 1:
            return proposals[proposals.areas > 0][: self.num_proposals]
        ranked, distinct = proposals.distinct_first(self.suppression, self.num_proposals)
        # What repeats a better mask scores below all that do not.
        ranked.scores[distinct:] *= ranked.scores[:distinct].min(initial=1)
        return ranked

    @torch.inference_mode()
    def readings(self, image: UInt8[np.ndarray, "h w 3"]) -> Iterator[Reading]:
        """The photo read and scored at each size."""
        height, width = image.shape[:2]
        reduction = min(0.0, float(np.log2(self.image_size / max(height, width))))
        for octave in self.octaves:
            size = self.geometry.scaled_size((height, width), octave + reduction)
            features = self.model.encode(self.filled_up(image, size))
            maps = [score[0].float().numpy() for score in self.model.score(features)]
            counts = [
                [self.geometry.num_cells(level, side) for side in size]
                for level in range(len(maps))
            ]
            inside = (m[:rows, :columns] for m, (rows, columns) in zip(maps, counts, strict=True))
            yield Reading(size, features, tuple(inside))

    def filled_up(
        self, image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
    ) -> Float[Tensor, "1 3 hp wp"]:
        """The photo at a size (height, width), its far ends filled up with grey to whole cells."""
        height, width = size
        canvas = np.full((*map(self.geometry.padded_size, size), 3), GREY, np.uint8)
        scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        canvas[:height, :width] = np.asarray(scaled)
        tensor = torch.from_numpy(canvas).permute(2, 0, 1)[None].float()
        return tensor.contiguous(memory_format=torch.channels_last)

    def select(self, scores: Sequence[Sequence[Float32[np.ndarray, "rows columns"]]]) -> Candidates:
        """The best cells over all readings and levels; neighbours of better ones come last."""
        maps = [level for reading in scores for level in reading]
        flat = np.concatenate([level.ravel() for level in maps])
        count = max(self.num_proposals, self.num_candidates)
        best = np.argsort(-flat, kind="stable")[: max(count, POOL)]
        starts = np.cumsum([0, *(level.size for level in maps)])
        numbers = np.searchsorted(starts, best, side="right") - 1
        columns = np.array([level.shape[1] for level in maps])[numbers]
        places = np.stack(np.divmod(best - starts[numbers], columns), axis=1)
        apart = np.sort(apart_first(numbers, places)[:count])
        reading, level = np.divmod(numbers[apart], len(self.geometry.strides))
        return Candidates(
            reading, np.concatenate([level[:, None], places[apart]], axis=1), flat[best[apart]]
        )
