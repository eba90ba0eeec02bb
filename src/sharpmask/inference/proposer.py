"""From a photo to ranked object masks (SharpMask, section 5).

Pyramid, one bottom-up pass for each scale, scores everywhere, the best windows over all scales;
masks are decoded for those alone, from features that were computed once.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from sharpmask import defaults
from sharpmask.decoding import MAX_PIXELS, check_size
from sharpmask.engines.exported import ExportedEngine
from sharpmask.engines.load import EngineName, engine_of
from sharpmask.engines.protocol import Engine, ScoreMaps
from sharpmask.engines.threads import cores
from sharpmask.geometry import GREY, octaves_of
from sharpmask.images import ImageError, PhotoLike, read_image
from sharpmask.inference.batch import find_in_each
from sharpmask.inference.prompts import ReadPhoto
from sharpmask.inference.reading import Level, apart_first, decode, ranked
from sharpmask.proposals import Proposals
from sharpmask.shapes import Float, Int, UInt8

if TYPE_CHECKING:  # engines need no torch
    from sharpmask.models.pretrained import Model

POOL = 1000
"""Best windows of a photo among which ``apart_first`` spreads the ones that are decoded."""
AT_ONCE = 2
"""Scales of a photo that are read at the same time: while one waits for memory the other adds."""

GivenPhoto = TypeVar("GivenPhoto", bound=PhotoLike)


class Proposer:
    """Proposes objects in photos. Threads may share one.

    Args:
        source: Name, file, folder or Hugging Face repository of a model; a model, which torch
            runs; or an engine.
        num_proposals: Maximum number of proposals per photo.
        num_candidates: Minimum number of masks decoded, to be ranked by quality and compared with
            each other; the one chosen for the model's kind if None: more found no more objects
            (docs/log.md).
        scales: "default", "zoom" (one more scale, for smaller objects), "zoom2" (two more), "fast"
            (a feature pyramid's, smaller by half an octave), or octaves.
        mask_threshold: Probability above which a pixel belongs to the object; the one chosen for
            the model's kind if None.
        quality_exponent: Proposals are ranked by score * quality ** quality_exponent, where quality
            is the mean probability inside the mask; 0 ranks by the score alone, as the paper does;
            the one chosen for the model's kind if None.
        suppression: A mask whose IoU with a better one exceeds this is ranked behind all that
            repeat none; 1 leaves the order alone, as the paper does.
        clean: Reduce each mask to its largest piece, with holes filled.
        image_size: Photos whose longer side exceeds this many pixels are first reduced to it, so
            that the pyramid's scales mean what they mean on COCO. Masks have the photo's own size.
        engine: What runs the model where ``source`` names one; see ``load_engine``.
        device: "auto", "cpu" or "cuda".

    Raises:
        WeightsError: There is no such model.
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        source: "str | PathLike[str] | Model | Engine" = defaults.MODEL,
        *,
        num_proposals: int = defaults.NUM_PROPOSALS,
        num_candidates: int | None = None,
        scales: str | Sequence[float] = "default",
        mask_threshold: float | None = None,
        quality_exponent: float | None = None,
        suppression: float = defaults.SUPPRESSION,
        clean: bool = True,
        image_size: int = defaults.IMAGE_SIZE,
        engine: EngineName = "auto",
        device: str = "auto",
    ) -> None:
        self.engine = engine_of(source, engine, device)
        geometry = self.engine.geometry
        if mask_threshold is None:
            mask_threshold = geometry.mask_threshold
        if quality_exponent is None:
            quality_exponent = geometry.quality_exponent
        if num_candidates is None:
            num_candidates = geometry.num_candidates
        for name, count in (("num_proposals", num_proposals), ("num_candidates", num_candidates)):
            if not isinstance(count, int | np.integer) or count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}")
        if not 0 < mask_threshold < 1:
            raise ValueError(
                f"mask_threshold: expected a number between 0 and 1, got {mask_threshold}"
            )
        if not 0 < suppression <= 1:
            raise ValueError(f"suppression: expected a number between 0 and 1, got {suppression}")
        if not 0 <= quality_exponent < np.inf:
            raise ValueError(f"quality_exponent: expected 0 or more, got {quality_exponent}")
        if not image_size >= 32:
            raise ValueError(f"image_size: expected at least 32 pixels, got {image_size}")
        self.octaves = octaves_of(scales, geometry.pyramids)
        self.num_proposals = num_proposals
        self.num_candidates = num_candidates
        self.mask_threshold = mask_threshold
        self.quality_exponent = quality_exponent
        self.suppression = suppression
        self.clean = clean
        self.image_size = image_size
        # Torch keeps things for each thread that calls it, and uses all cores by itself.
        exported = isinstance(self.engine, ExportedEngine)
        self.at_once = min(AT_ONCE, len(self.octaves), cores()) if exported else 1

    def map(
        self, photos: Iterable[GivenPhoto]
    ) -> Iterator[tuple[GivenPhoto, Proposals | ImageError]]:
        """Propose objects in many photos, some at the same time.

        A photo that cannot be read costs itself alone: its error takes the place of its proposals.
        Photos are taken, and results kept, only a few ahead of the one that is asked for.

        Args:
            photos: Paths, PIL images or arrays, mixed as you like.

        Returns:
            Each photo as it was given, in order, with its proposals or its error.
        """
        return find_in_each(self, photos)

    def __call__(self, image: PhotoLike) -> Proposals:
        """Propose objects in one photo.

        Args:
            image: A path, a PIL image, or an RGB uint8 array (H, W, 3).

        Raises:
            ImageError: It cannot be read.
        """
        return self.read(image).propose()

    def read(self, image: PhotoLike) -> ReadPhoto:
        """Read a photo once, to ask it more than once: for all objects, at points, in boxes.

        Args:
            image: A path, a PIL image, or an RGB uint8 array (H, W, 3).

        Raises:
            ImageError: It cannot be read.
        """
        pixels = read_image(image)
        levels = self.levels(pixels)
        return ReadPhoto(
            pixels, levels, self.engine, self.mask_threshold, self.quality_exponent, self.clean,
            partial(self._propose, pixels, levels),
        )  # fmt: skip

    def _propose(self, pixels: UInt8[np.ndarray, "h w 3"], levels: Sequence[Level]) -> Proposals:
        """All objects of a photo that was read."""
        reranks = self.quality_exponent > 0 or self.suppression < 1
        maps = [level.scores for level in levels]
        if reranks:
            count = max(self.num_proposals, self.num_candidates)
            numbers, cells, scores = self.select(maps, max(count, POOL))
            nearness = [self.engine.geometry.nearness[level.index] for level in levels]
            apart = np.sort(apart_first(numbers, cells, nearness, count))
            numbers, cells, scores = numbers[apart], cells[apart], scores[apart]
        else:
            numbers, cells, scores = self.select(maps, self.num_proposals)
        masks, windows = decode(self.engine, levels, numbers, cells, pixels.shape[:2])
        proposals = ranked(
            pixels, scores, masks, windows, mask_threshold=self.mask_threshold,
            quality_exponent=self.quality_exponent, clean=self.clean,
        )  # fmt: skip
        if self.suppression == 1:
            return proposals[proposals.areas > 0][: self.num_proposals]
        proposals, distinct = proposals.distinct_first(self.suppression, self.num_proposals)
        # What repeats a better mask scores below all that do not.
        scores = proposals.scores.copy()
        scores[distinct:] *= scores[:distinct].min(initial=1)
        return replace(proposals, scores=scores)

    def levels(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Level]:
        """The pyramid of a photo, each scale read and scored.

        Raises:
            ImageError: At one of the scales it has more pixels than a photo may have.
        """
        longest = max(image.shape[:2])
        reduction = min(0.0, float(np.log2(self.image_size / longest)))
        geometry = self.engine.geometry
        sizes = [
            geometry.scaled_size(image.shape[:2], octave + reduction) for octave in self.octaves
        ]

        for octave, size in zip(self.octaves, sizes, strict=True):
            check_size(size, f"the photo enlarged by --scales={octave:g}", MAX_PIXELS)

        def encode(size: tuple[int, int]) -> tuple[ScoreMaps, Any]:
            return self.engine.encode(self.scale(image, size))

        with ThreadPoolExecutor(self.at_once) as threads:
            in_each = threads.map if self.at_once > 1 else map
            encoded = list(in_each(encode, sizes))
        levels = []
        for reading, (size, (maps, features)) in enumerate(zip(sizes, encoded, strict=True)):
            for index, scores in enumerate(maps):
                rows, columns = geometry.inside(index, size)
                levels.append(Level(reading, size, features, index, scores[:rows, :columns]))
        return levels

    def scale(
        self, image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "hp wp 3"]:
        """The photo at a size (height, width), in grey up to a size that can be read."""
        height, width = size
        geometry = self.engine.geometry
        canvas = np.full((*map(geometry.padded_size, size), 3), GREY, np.uint8)
        rows = slice(geometry.border, geometry.border + height)
        columns = slice(geometry.border, geometry.border + width)
        scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        canvas[rows, columns] = np.asarray(scaled)
        return canvas

    def select(
        self, score_maps: Sequence[Float[np.ndarray, "_ _"]], count: int
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
        """The best cells over all maps, best first; ties go to the earlier map, row and column.

        Returns:
            For each cell the number of its map, its (row, column), and its score logit.
        """
        flat = np.concatenate([scores.ravel() for scores in score_maps])
        best = np.argsort(-flat, kind="stable")[:count]
        starts = np.cumsum([0, *(scores.size for scores in score_maps)])
        numbers = np.searchsorted(starts, best, side="right") - 1
        columns = np.array([scores.shape[1] for scores in score_maps])[numbers]
        cells = np.stack(np.divmod(best - starts[numbers], columns), axis=1)
        return numbers, cells, flat[best]
