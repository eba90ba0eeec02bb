"""Drawing objects and photos by source, so that no kind of photo crowds out the others."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sharpmask.coco.annotations import CocoDataset, Instance
from sharpmask.data.sampling import InstanceSampler


@dataclass(frozen=True)
class Mixture:
    """Which photos of its files a run learns from, and how often from each kind.

    Attributes:
        shares: Fixed shares of some sources of the scenes (see ``SourceSampler``).
        sources_kept_back: Sources whose photos are never trained on.
        photos_kept_back: Number of photos of other sources never trained on (see ``keep_back``).
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    sources_kept_back: Collection[str] = ()
    photos_kept_back: int = 0

    def origin(self) -> dict[str, Any]:
        """What tells a run with this mixture from others, by the option that gives it."""
        return {
            "share": dict(self.shares) or None,
            "keep-back-source": sorted(self.sources_kept_back) or None,
            "keep-back": self.photos_kept_back or None,
        }


class SourceSampler:
    """Draws a source first, then an object or a photo of it.

    A source weighs as the root of the number of its objects: a thousand photos of one kind teach
    more than a hundred, but not ten times as much.

    Args:
        dataset: Images and objects; ``CocoImage.source`` says where a photo is from.
        shares: Fixed shares of some sources, with a sum of at most 1; the others share the rest.
        usable: Which objects may be drawn.

    Raises:
        ValueError: No object to learn from, shares beyond 1, or a share of an unknown source.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        shares: Mapping[str, float],
        usable: Callable[[Instance], bool] = lambda _: True,
    ) -> None:
        members: dict[str, list[int]] = {}
        for number, image in enumerate(dataset.images):
            if any(usable(instance) for instance in image.instances):
                members.setdefault(image.source, []).append(number)
        if not members:
            raise ValueError("the annotations hold no object to learn from")
        unknown = shares.keys() - members.keys()
        if unknown or sum(shares.values()) > 1:
            raise ValueError(
                f"shares: expected at most 1 in all of {', '.join(sorted(members))}; got "
                f"{dict(shares)}"
            )
        roots = {
            source: math.sqrt(sum(len(dataset.images[k].instances) for k in numbers))
            for source, numbers in members.items()
        }
        others = sum(root for source, root in roots.items() if source not in shares)
        rest = 1 - sum(shares.values())
        weights = {s: shares.get(s, rest * root / max(others, 1e-9)) for s, root in roots.items()}
        self.sources = sorted(members)
        self._instances = [
            InstanceSampler(dataset, usable, members[source]) for source in self.sources
        ]
        self._complete = [
            [k for k in members[source] if dataset.images[k].complete] for source in self.sources
        ]
        self.shares = np.array([weights[source] for source in self.sources])
        self.shares /= self.shares.sum()
        complete = self.shares * [bool(photos) for photos in self._complete]
        self.complete_shares = complete / max(complete.sum(), 1e-9)

    @property
    def has_complete(self) -> bool:
        """Whether any photo has all its objects labelled."""
        return bool(self.complete_shares.sum() > 0)

    def object(self, rng: np.random.Generator) -> tuple[int, int]:
        """Image and index in it of an object: of a category or of a photo, even odds."""
        sampler = self._instances[rng.choice(len(self.sources), p=self.shares)]
        return sampler.by_category(rng) if rng.random() < 0.5 else sampler.by_image(rng)

    def complete_photo(self, rng: np.random.Generator) -> int:
        """A photo all of whose objects are labelled."""
        photos = self._complete[rng.choice(len(self.sources), p=self.complete_shares)]
        return photos[rng.integers(len(photos))]


def keep_back(
    dataset: CocoDataset, *, sources: Collection[str], count: int, seed: int
) -> tuple[CocoDataset, CocoDataset]:
    """Split a data set into photos to train on and photos to measure on.

    Args:
        dataset: All photos.
        sources: Kept back as a whole: kinds of photos that nothing like is trained on.
        count: Photos kept back of the other sources, half of them completely labelled; each source
            gives as the root of the number of its photos.
        seed: Of the draw.

    Returns:
        What is left, and what is kept back.
    """
    kept = {k for k, image in enumerate(dataset.images) if image.source in sources}
    rng = np.random.default_rng(seed)
    for complete, number in ((True, count // 2), (False, count - count // 2)):
        members: dict[str, list[int]] = {}
        for k, image in enumerate(dataset.images):
            if k not in kept and image.complete == complete and image.instances:
                members.setdefault(image.source, []).append(k)
        photos = [k for source in sorted(members) for k in members[source]]
        weights = [1 / math.sqrt(len(members[dataset.images[k].source])) for k in photos]
        drawn = min(number, len(photos))
        if drawn:
            odds = np.array(weights) / sum(weights)
            kept |= set(rng.choice(photos, drawn, replace=False, p=odds).tolist())
    rest, back = (
        tuple(image for k, image in enumerate(dataset.images) if (k in kept) == wanted)
        for wanted in (False, True)
    )
    return replace(dataset, images=rest), replace(dataset, images=back)
