"""How a detector finds its regions; its proposer is noted in its file, and found again."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from sharpmask import defaults
from sharpmask.coco.annotations import CocoImage
from sharpmask.detection.region_sources import (
    CachedRegions,
    FileRegions,
    RegionSource,
    regions_of_all,
)
from sharpmask.detection.regions import Regions
from sharpmask.engines.load import EngineName, load_engine
from sharpmask.engines.protocol import Engine, RegionEngine
from sharpmask.files import cache_folder, fingerprint
from sharpmask.inference.batch import Progress, Report, streams_for
from sharpmask.inference.proposer import Proposer
from sharpmask.models.sources import WeightsError, names, resolve, source_fingerprint

Photos = Sequence[tuple[CocoImage, Regions]]
"""Photos and where to look in them."""


@dataclass(frozen=True)
class Proposing:
    """How a detector finds its regions.

    Attributes:
        weights: Model that proposes, and whose features tell what regions show.
        num_proposals: Maximum number of regions of a photo.
        scales: Sizes at which it reads a photo, as for ``Proposer``.
        file: Regions to use instead, for the photos to learn from: COCO results, a Parquet file, or
            a folder of them.
        val_file: The same for those to measure on.
    """

    weights: str = defaults.MODEL
    num_proposals: int = defaults.NUM_PROPOSALS
    scales: str = "default"
    file: Path | None = None
    val_file: Path | None = None

    def note(self) -> dict[str, Any]:
        """What the detector's file holds of it."""
        note = proposer_note(self.weights, num_proposals=self.num_proposals, scales=self.scales)
        return note | ({"file": self.file.name} if self.file else {})

    def origin(self) -> dict[str, Any]:
        """What tells these regions from others."""
        files = {"proposals": self.file, "val_proposals": self.val_file}
        return {
            "num_proposals": self.num_proposals,
            "weights": source_fingerprint(self.weights),
            "scales": self.scales,
            **{key: file and fingerprint(*_files(file))[:16] for key, file in files.items()},
        }

    def proposer(self, device: str, streams: int) -> Proposer:
        """Reads photos for a detector.

        Raises:
            ValueError: The model has no feature pyramid.
        """
        engine = load_engine(self.weights, device=device, streams=streams)
        check_engine(engine, self.weights)
        return Proposer(engine, num_proposals=self.num_proposals, scales=self.scales)

    def regions(
        self,
        images: Sequence[CocoImage],
        file: Path | None,
        proposer: Proposer,
        report: Report,
        progress: Progress,
    ) -> Photos:
        """Photos with their regions: from a file, or proposed and kept in the user's cache."""
        streams = streams_for(len(images))
        source: RegionSource
        if file:
            source = FileRegions(file, self.num_proposals, images, report)
        else:
            folder = Path(self.weights)
            is_exported = folder.is_dir() and not (folder / "model.safetensors").exists()
            source = CachedRegions(
                cache_folder() / "proposals",
                folder if is_exported else resolve(self.weights),
                proposer,
            )
        found = regions_of_all(images, source, streams=streams, report=report)
        return list(progress(found, len(images), "photos proposed"))


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def proposer_note(
    weights: str | PathLike[str], *, num_proposals: int, scales: str
) -> dict[str, Any]:
    """What a detector's file holds of its proposer.

    A path is made absolute, so that it is found from any folder.
    """
    path = Path(weights)
    is_path = str(weights) not in names() and path.exists()
    return {
        "weights": str(path.absolute() if is_path else weights),
        "fingerprint": source_fingerprint(weights),
        "num_proposals": num_proposals,
        "scales": scales,
    }


def proposer_source(metadata: Mapping[str, Any], detector: str | PathLike[str]) -> str:
    """Name or path of the model that proposed when a detector was trained.

    Args:
        metadata: Of the detector's file.
        detector: What messages call it.

    Raises:
        ValueError: The model is not there.
    """
    note = metadata.get("proposals", {})
    source = note.get("weights", defaults.MODEL)
    try:
        found = source_fingerprint(source)
    except WeightsError:
        raise ValueError(
            f"{detector}: the model that proposed when this detector was trained, {source}, is not "
            "there; put it back, or say where it is now (--weights)"
        ) from None
    if found != note.get("fingerprint", found):
        warnings.warn(
            f"{detector}: {source} is not the model that it was trained with any more; its names "
            "are guesses until it is trained again",
            stacklevel=2,
        )
    return str(source)


def check_engine(engine: Engine, weights: str | PathLike[str]) -> None:
    """Refuse an engine whose features do not tell what regions show.

    Raises:
        ValueError: It is one.
    """
    if not isinstance(engine, RegionEngine) or not engine.has_region_maps:
        raise ValueError(
            f"{weights}: a detector needs a model with a feature pyramid, such as "
            f"{defaults.MODEL}; one that was exported by an earlier version must be exported again"
        )


def load_proposer(
    metadata: Mapping[str, Any],
    detector: str | PathLike[str],
    *,
    weights: str | PathLike[str] | None = None,
    engine: EngineName = "auto",
    device: str = "auto",
    streams: int = 1,
    clean: bool = True,
) -> Proposer:
    """The proposer of a detector, with the settings that it was trained with.

    Args:
        metadata: Of the detector's file.
        detector: What messages call it.
        weights: Where the model is that it was trained with, if not where it was.
        engine: As for ``load_engine``.
        device: As for ``load_engine``.
        streams: As for ``load_engine``.
        clean: As of a ``Proposer``.

    Raises:
        ValueError: The model is not there, or has no feature pyramid.
    """
    note = metadata.get("proposals", {})
    source = weights or proposer_source(metadata, detector)
    loaded = load_engine(source, engine, device, streams=streams)
    check_engine(loaded, source)
    return Proposer(
        loaded,
        num_proposals=note.get("num_proposals", defaults.NUM_PROPOSALS),
        scales=note.get("scales", "default"),
        clean=clean,
    )
