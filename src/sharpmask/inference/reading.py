"""What reading a photo gives, and masks decoded from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharpmask.engines.protocol import Engine
from sharpmask.proposals import Proposals
from sharpmask.shapes import Float, Int, UInt8

DECODE_BATCH = 128
"""Windows refined at once: bounds memory, larger is no faster."""


@dataclass(frozen=True)
class Level:
    """One score map of the pyramid: of a photo at one scale, and there of one of its levels.

    Attributes:
        reading: Which scale.
        scaled_size: Height and width of the scaled image, without borders.
        features: The engine's own, of all levels that it reads at this scale.
        index: Which of those levels this is.
        scores: Objectness logits of the cells whose windows are centred on the photo.
    """

    reading: int
    scaled_size: tuple[int, int]
    features: Any
    index: int
    scores: Float[np.ndarray, "rows columns"]


def apart_first(
    numbers: Int[np.ndarray, " n"],
    cells: Int[np.ndarray, "n 2"],
    nearness: Sequence[int],
    count: int,
) -> Int[np.ndarray, " m"]:
    """The first ``count`` cells, best first, once those near a better one are put last.

    Neighbours in the same map see nearly the same window (in a row or column IoU .82, two cells
    away .68) and find the same object; without them as many windows find more objects.

    Args:
        numbers: The map of each cell, best first.
        cells: Its row and column.
        nearness: Cells of a map are near each other if rows and columns between them add up to no
            more.
        count: How many are wanted.
    """
    near = [
        [(y, x) for y in range(-far, far + 1) for x in range(abs(y) - far, far - abs(y) + 1)]
        for far in nearness
    ]
    taken: set[tuple[int, int, int]] = set()
    apart: list[int] = []
    beside: list[int] = []
    for index, place in enumerate(zip(numbers.tolist(), *cells.T.tolist(), strict=True)):
        if len(apart) == count:
            break
        if place in taken:
            beside.append(index)
        else:
            number, row, column = place
            taken.update((number, row + y, column + x) for y, x in near[number])
            apart.append(index)
    return np.array([*apart, *beside][:count], np.int64)


def decode(
    engine: Engine,
    levels: Sequence[Level],
    numbers: Int[np.ndarray, " n"],
    cells: Int[np.ndarray, "n 2"],
    image_size: tuple[int, int],
) -> tuple[UInt8[np.ndarray, "n s s"], Float[np.ndarray, "n 4"]]:
    """Masks of chosen cells, in the patch frame, and their windows in the image.

    Args:
        engine: What read the levels.
        levels: Of all readings.
        numbers: Which level each cell is of; at least one.
        cells: (row, column) there.
        image_size: Height and width of the image.

    Returns:
        Probabilities times 255, and windows, xyxy pixels.
    """
    cells = np.concatenate([np.array([levels[k].index for k in numbers])[:, None], cells], 1)
    readings = np.array([level.reading for level in levels])[numbers]
    windows = np.zeros((len(cells), 4))
    masks: UInt8[np.ndarray, "n s s"] | None = None
    for level in levels[:: engine.geometry.num_levels]:  # one of each reading
        chosen = np.flatnonzero(readings == level.reading)
        for part in np.split(chosen, range(DECODE_BATCH, len(chosen), DECODE_BATCH)):
            logits = engine.decode(level.features, cells[part])
            if masks is None:
                masks = np.empty((len(cells), *logits.shape[1:]), np.uint8)
            masks[part] = np.rint(sigmoid(logits) * 255)
            windows[part] = engine.geometry.cells_to_windows(
                cells[part], image_size, level.scaled_size
            )
    assert masks is not None
    return masks, windows


def ranked(
    image: UInt8[np.ndarray, "h w 3"],
    logits: Float[np.ndarray, " n"],
    masks: UInt8[np.ndarray, "n s s"],
    windows: Float[np.ndarray, "n 4"],
    *,
    mask_threshold: float,
    quality_exponent: float,
    clean: bool,
) -> Proposals:
    """Proposals by score and certainty, best first.

    Args:
        image: The photo, RGB.
        logits: Scores of the cells.
        masks: Of the same cells, from ``decode``, as are the windows.
        windows: xyxy pixels.
        mask_threshold: As for ``Proposer``, and so are those that follow.
        quality_exponent: How much a mask's certainty counts.
        clean: Reduce each mask to its largest piece, with holes filled.
    """
    # Deviation: ranking
    scores = sigmoid(logits) * mask_quality(masks, mask_threshold) ** quality_exponent
    order = np.argsort(-scores, kind="stable")
    return Proposals(
        image,
        scores[order],
        windows[order],
        masks[order],
        mask_threshold,
        clean=clean,  # Deviation: one-piece
    )


def mask_quality(masks: UInt8[np.ndarray, "n s s"], threshold: float) -> Float[np.ndarray, " n"]:
    """Mean probability inside each mask; 0 for an empty one."""
    # One by one: the arrays in between stay in the cache.
    inside = (mask[mask > int(threshold * 255)] for mask in masks)
    return np.array([part.mean() / 255 if part.size else 0.0 for part in inside], np.float32)


def sigmoid(logits: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Probability of a logit."""
    probability: Float[np.ndarray, "*n"] = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
    return probability
