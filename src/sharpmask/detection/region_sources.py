"""Where regions come from: proposals of a model, kept on disk, or of any method, from a file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from sharpmask.coco.annotations import CocoImage
from sharpmask.defaults import VERSION
from sharpmask.detection.regions import Regions
from sharpmask.evaluation.run import open_results
from sharpmask.files import fingerprint, write_json
from sharpmask.images import ImageError
from sharpmask.inference.batch import Report, map_ordered
from sharpmask.inference.proposer import Proposer


class RegionSource(Protocol):
    """Where the regions of a data set's photos come from."""

    def __call__(self, image: CocoImage) -> Regions:
        """The photo's regions."""
        ...


class FileRegions:
    """Proposals of any method from a file.

    Args:
        path: COCO results, Parquet, or a folder of Parquet files.
        count: Maximum number of regions of a photo, the best by score.
        images: The photos it is meant for.
        report: Is told when it lacks some of them.

    Raises:
        ValueError: It is none of these, holds none of the photos, or several have the same id.
    """

    def __init__(self, path: Path, count: int, images: Sequence[CocoImage], report: Report) -> None:
        self.results = open_results(path)
        self.count = count
        known = set(self.results.image_ids)
        missing = [image.id for image in images if image.id not in known]
        if len(missing) == len(images):
            raise ValueError(
                f"{path}: holds proposals for none of the {len(images)} photos, e.g. not for image "
                f"{missing[0]}; were they made for another data set?"
            )
        if len({image.id for image in images}) < len(images):
            raise ValueError(
                f"{path}: some photos have the same image id, so its proposals cannot be told "
                "apart; give one --train file"
            )
        if missing:
            report(
                f"{path}: holds no proposals for {len(missing)} of {len(images)} photos, e.g. for "
                f"image {missing[0]}"
            )

    def __call__(self, image: CocoImage) -> Regions:
        """The photo's regions; none if the file does not name it."""
        try:
            return Regions.from_records(self.results.proposals(image.id), image.size, self.count)
        except ValueError as error:
            raise ValueError(f"{self.results.path}: image {image.id}: {error}") from None


class CachedRegions:
    """Proposals of a model, computed once and kept on disk, a file for each photo.

    Args:
        folder: Where; a folder below it is named by all that the proposals depend on.
        weights: The proposer's model file, or the folder of an exported model.
        proposer: Computes what is not there yet.
    """

    def __init__(self, folder: Path, weights: Path, proposer: Proposer) -> None:
        how = ("engine", "at_once")  # which change no proposal
        settings = {key: value for key, value in vars(proposer).items() if key not in how}
        known = repr((VERSION, proposer.engine.name, sorted(settings.items())))
        files = sorted(weights.iterdir()) if weights.is_dir() else [weights]
        self.folder = folder / fingerprint(known.encode(), *files)[:16]
        self.proposer = proposer

    def __call__(self, image: CocoImage) -> Regions:
        """The photo's regions, from the disk if they were computed before."""
        file = self.folder / f"{fingerprint(image.path)}.json"
        try:
            records = json.loads(file.read_text())
        except (OSError, ValueError):  # none, or a damaged one
            records = self.proposer(image.path).to_coco(0)
            write_json(file, records)
        return Regions.from_records(records, image.size, self.proposer.num_proposals)


def regions_of_all(
    images: Sequence[CocoImage],
    source: RegionSource,
    *,
    streams: int = 1,
    report: Report,
) -> Iterator[tuple[CocoImage, Regions]]:
    """Each photo with its regions, in order; one that cannot be read is reported and left out."""
    for image, call in zip(images, map_ordered(source, images, streams), strict=True):
        try:
            yield image, call.result()
        except ImageError as error:
            report(str(error))
