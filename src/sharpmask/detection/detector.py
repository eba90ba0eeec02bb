"""Detection: regions of a photo are classified, their boxes are refined, repeats are dropped."""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike

import numpy as np

from sharpmask import defaults
from sharpmask.boxes import suppress
from sharpmask.detection.detections import Detections
from sharpmask.detection.files import load_head
from sharpmask.detection.heads import RegionHead
from sharpmask.detection.proposing import load_proposer
from sharpmask.detection.region_vectors import describe
from sharpmask.detection.regions import Regions
from sharpmask.engines.load import EngineName
from sharpmask.images import ImageError, PhotoLike
from sharpmask.inference.batch import find_in_each
from sharpmask.inference.prompts import ReadPhoto
from sharpmask.inference.proposer import GivenPhoto, Proposer
from sharpmask.shapes import Float, UInt8

MAX_DETECTIONS = 100
"""Maximum number of detections of a photo, over all categories: COCO counts no more."""


class Detector:
    """Finds and names objects in photos. A photo is read once, for proposals and their names.

    A detection's score is the class score times the root of the proposal's: a part of an object
    often looks as much like its class as the whole.

    Args:
        head: Of an R-CNN or Fast R-CNN.
        proposer: Reads the photos, and finds the regions; the one that the head was trained with.
        suppression: Of two boxes of one category whose IoU exceeds this, the better is kept.
        min_score: Detections below are left out; 0.01 or less for measuring Average Precision.
    """

    def __init__(
        self,
        head: RegionHead,
        proposer: Proposer,
        *,
        suppression: float = 0.3,
        min_score: float = defaults.MIN_SCORE,
    ) -> None:
        if not 0 < suppression <= 1:
            raise ValueError(f"suppression: expected a number between 0 and 1, got {suppression}")
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score: expected a number between 0 and 1, got {min_score}")
        self.head = head
        self.proposer = proposer
        self.suppression = suppression
        self.min_score = min_score

    @classmethod
    def load(
        cls,
        source: str | PathLike[str] = defaults.DETECTOR,
        *,
        weights: str | PathLike[str] | None = None,
        engine: EngineName = "auto",
        device: str = "auto",
        streams: int = 1,
        clean: bool = True,
        suppression: float = 0.3,
        min_score: float = defaults.MIN_SCORE,
    ) -> "Detector":
        """A trained detector with its proposer, ready for photos.

        Args:
            source: A name, a run's folder, a file, or a Hugging Face repository.
            weights: Where the model is that it was trained with, if not where it was.
            engine: What runs the proposer (see ``load_engine``).
            device: Of the proposer: "auto", "cpu" or "cuda".
            streams: Photos read at once (see ``load_engine``).
            clean: As of a ``Proposer``.
            suppression: As of a ``Detector``.
            min_score: As of a ``Detector``.

        Raises:
            WeightsError: There is no such detector.
            ValueError: Its proposer is not where it was.
        """
        head = load_head(source)
        proposer = load_proposer(
            head.metadata, source, weights=weights, engine=engine, device=device,
            streams=streams, clean=clean,
        )  # fmt: skip
        return cls(head, proposer, suppression=suppression, min_score=min_score)

    def __call__(self, image: PhotoLike) -> Detections:
        """Detect objects in one photo.

        Args:
            image: A path, a PIL image, or an RGB uint8 array (H, W, 3).

        Raises:
            ImageError: It cannot be read.
        """
        return self.on(self.proposer.read(image))

    def on(self, photo: ReadPhoto, regions: Regions | None = None) -> Detections:
        """Detect objects in a photo that the proposer has read.

        Args:
            photo: What ``Proposer.read`` gave.
            regions: Where to look; proposed if None.
        """
        if regions is None:
            regions = Regions.of(photo.propose())
        vectors = describe(photo, regions.boxes)
        scores, boxes = self.head.classify(vectors, regions.boxes, photo.image.shape[:2])
        return self.best(photo.image, regions, scores, boxes)

    def best(
        self,
        pixels: UInt8[np.ndarray, "h w 3"],
        regions: Regions,
        scores: Float[np.ndarray, "n k"],
        boxes: Float[np.ndarray, "n k 4"],
    ) -> Detections:
        """The best detections among all regions and categories, without repeats.

        Args:
            pixels: The photo, RGB.
            regions: Where it was looked.
            scores: Class scores, 0 to 1.
            boxes: Refined, xyxy.
        """
        # Deviation: detection-score
        scores = scores * np.sqrt(regions.scores)[:, None]
        found = [
            (index, label)
            for label in range(scores.shape[1])
            for index in self._apart(scores[:, label], boxes[:, label])
        ]
        found = sorted(found, key=lambda pair: -scores[pair])[:MAX_DETECTIONS]
        chosen, labels = np.array(found, np.int64).reshape(-1, 2).T
        return Detections(
            pixels,
            self.head.categories,
            labels,
            scores[chosen, labels],
            boxes[chosen, labels],
            None if regions.rles is None else tuple(regions.rles[k] for k in chosen),
        )

    def map(
        self, photos: Iterable[GivenPhoto]
    ) -> Iterator[tuple[GivenPhoto, Detections | ImageError]]:
        """Detect objects in many photos, some at the same time.

        A photo that cannot be read costs itself alone: its error takes the place of its detections.

        Args:
            photos: Paths, PIL images or arrays.

        Returns:
            Each photo as it was given, in order, with its detections or its error.
        """
        return find_in_each(self, photos)

    def _apart(
        self, scores: Float[np.ndarray, " n"], boxes: Float[np.ndarray, "n 4"]
    ) -> Sequence[int]:
        """Regions of one category that stay, best first."""
        candidates = np.flatnonzero(scores >= self.min_score)
        kept = suppress(boxes[candidates], scores[candidates], self.suppression)
        return candidates[kept].tolist()  # type: ignore[no-any-return]
