"""What a detector learns from: described regions of training photos."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharpmask.boxes import encode_boxes
from sharpmask.coco.annotations import CocoImage
from sharpmask.detection.matching import match
from sharpmask.detection.region_vectors import describe
from sharpmask.detection.regions import Regions
from sharpmask.files import fingerprint, replacing_file
from sharpmask.inference.batch import map_ordered
from sharpmask.inference.proposer import Proposer
from sharpmask.shapes import Bool, Float, Int

Describe = Callable[[CocoImage, Float[np.ndarray, "n 4"]], Float[np.ndarray, "n c"]]
"""Makes the vectors of regions (xyxy) of a photo."""


@dataclass(frozen=True)
class Examples:
    """Described regions of training photos: proposals, and the objects themselves.

    Attributes:
        vectors: float16.
        overlaps: Largest box IoU with an object of each category.
        deltas: What moves the region to the object that it overlaps most.
        objects: Category of an object's own row, -1 for a proposal.
        unsure: Whether a region may show an object that is not labelled (see ``Matches``).
    """

    vectors: Float[np.ndarray, "n c"]
    overlaps: Float[np.ndarray, "n k"]
    deltas: Float[np.ndarray, "n 4"]
    objects: Int[np.ndarray, " n"]
    unsure: Bool[np.ndarray, " n"]


class KeptVectors:
    """Vectors of photos' regions, kept on disk for a training that is stopped and goes on.

    Args:
        proposer: Reads the photos.
        weights: Tells its weights from others.
        folder: Holds a file for each photo, named by all that its vectors depend on.
    """

    def __init__(self, proposer: Proposer, weights: str, folder: Path) -> None:
        self.proposer, self.folder = proposer, folder
        self.known = repr((weights, proposer.octaves, proposer.image_size)).encode()

    def __call__(
        self, image: CocoImage, boxes: Float[np.ndarray, "n 4"]
    ) -> Float[np.ndarray, "n c"]:
        """Vectors of regions (xyxy), float16."""
        file = self.folder / f"{fingerprint(self.known, image.path, boxes.tobytes())}.npy"
        try:
            vectors: Float[np.ndarray, "n c"] = np.load(file)
        except (OSError, ValueError, EOFError):  # none, or a damaged one
            photo = self.proposer.read(image.read())
            vectors = describe(photo, boxes).astype(np.float16)
            with replacing_file(file) as output:
                np.save(output, vectors)
        return vectors


def collect(
    describe: Describe,
    photos: Sequence[tuple[CocoImage, Regions]],
    categories: Mapping[int, int],
    *,
    streams: int = 1,
    progress: Callable[[Iterable[Examples]], Iterable[Examples]] = iter,
) -> Examples:
    """Describe the regions of training photos.

    Args:
        describe: Makes the vectors.
        photos: With their regions. On those that are partly labelled nothing is background.
        categories: The detector's index of each category of the data set that it knows.
        streams: Photos described at once.
        progress: Passes what is described on, photo by photo.

    Raises:
        ValueError: There is nothing to learn from.
    """

    def of_photo(photo: tuple[CocoImage, Regions]) -> Examples:
        image, regions = photo
        known = [i for i in image.instances if i.category in categories]
        objects = np.array([i.box for i in known]).reshape(-1, 4)
        boxes = np.concatenate([objects, regions.boxes])
        matches = match(boxes, image, categories)
        own = np.full(len(boxes), -1)
        own[: len(known)] = [categories[i.category] for i in known]
        return Examples(
            describe(image, boxes),
            matches.overlaps,
            encode_boxes(boxes, matches.targets),
            own,
            matches.unsure,
        )

    used = [photo for photo in photos if len(photo[1]) or photo[0].instances]
    calls = map_ordered(of_photo, used, streams)
    parts = list(progress(call.result() for call in calls))
    if not parts:
        raise ValueError("no photo has an object or a proposal to learn from")
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Examples(*(np.concatenate(arrays) for arrays in columns))
