"""Masks as polygons: the outline of each piece, simplified, as a valid ring.

Pixels that touch only at a corner belong to two pieces. Holes are filled, and with them what lies
inside: COCO, YOLO and Label Studio know no polygon with a hole.
"""

from collections.abc import Iterator

import numpy as np

from sharpmask.masks import Rle, decode, rle_boxes
from sharpmask.shapes import Bool, Float, Int

TOLERANCE = 1.0
"""How far simplifying may move an outline by default, in pixels."""
RELATIVE_TOLERANCE = 0.05
"""Nor farther than this share of a piece's size (the root of its area)."""
_ROWS = 256  # sides compared with all others at once

Ring = Int[np.ndarray, "k 2"]


def polygons(rle: Rle, tolerance: float = TOLERANCE) -> list[Float[np.ndarray, "k 2"]]:
    """The pieces of a mask as polygons, the largest first.

    A ring's points are x, y in pixels, clockwise on the screen, the first not repeated at the end;
    (0, 0) is the upper left corner of the photo's first pixel. No ring crosses or touches itself.
    Every point of the mask's outline is within ``tolerance`` of its ring, or within a twentieth of
    the piece's size if that is less. Pieces of less than (2 tolerance)^2 pixels are left out, but
    for the largest.

    Args:
        rle: The mask.
        tolerance: Pixels; 0 keeps every corner.

    Raises:
        ValueError: The tolerance is negative or not finite.
    """
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance: expected 0 or more pixels, got {tolerance}")
    left, top, right, bottom = rle_boxes([rle])[0].astype(int)
    mask = decode(rle)[top:bottom, left:right].astype(bool)
    rings = outlines(mask)
    if not rings:
        return []
    areas = [_area(ring) for ring in rings]
    order = sorted(range(len(rings)), key=lambda index: -areas[index])
    kept = [index for index in order if index == order[0] or areas[index] >= (2 * tolerance) ** 2]
    return [
        _simplified(rings[index], min(tolerance, RELATIVE_TOLERANCE * areas[index] ** 0.5))
        + np.array([left, top], float)
        for index in kept
    ]


def outlines(mask: Bool[np.ndarray, "h w"]) -> list[Ring]:
    """The exact outline of each piece, holes filled: corners x, y, clockwise on the screen."""
    width = mask.shape[1] + 1
    rings = []
    for loop in _loops(mask):
        for simple in _simple_loops(loop):
            y, x = np.divmod(np.array(simple), width)
            ring = np.stack([x, y], axis=1)
            if _area(ring) > 0:  # holes run the other way round
                rings.append(ring)
    depth = _depth(rings, mask.shape)
    corners = [ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]] for ring in rings]
    return [ring for ring, (x, y) in zip(rings, corners, strict=True) if depth[y, x] == 1]


def _depth(rings: list[Ring], image_size: tuple[int, ...]) -> Int[np.ndarray, "h w"]:
    """In how many rings each pixel lies: right of a side that runs up it is in, of one down out."""
    height, width = image_size
    depth = np.zeros((height + 1, width + 1), np.int64)
    for ring in rings:
        ends = np.roll(ring, -1, axis=0)
        upright = ring[:, 0] == ends[:, 0]
        np.add.at(depth, (ends[upright, 1], ends[upright, 0]), 1)
        np.add.at(depth, (ring[upright, 1], ring[upright, 0]), -1)
    return depth.cumsum(0).cumsum(1)[:-1, :-1]


def _loops(mask: Bool[np.ndarray, "h w"]) -> Iterator[list[int]]:
    """Closed paths along the sides of pixels, the mask on their right hand.

    Gives:
        The corners of one path, each as ``y * (w + 1) + x``.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    width = mask.shape[1] + 1
    y, x0, x1, right = _straights(padded[1:] - padded[:-1])
    h_from, h_to = y * width + np.where(right > 0, x0, x1), y * width + np.where(right > 0, x1, x0)
    x, y0, y1, down = _straights((padded[:, :-1] - padded[:, 1:]).T)
    v_from, v_to = np.where(down > 0, y0, y1) * width + x, np.where(down > 0, y1, y0) * width + x
    # Where four sides meet, a path turns right: from right to down, from down to left.
    follow_h, follow_v = np.empty_like(h_from), np.empty_like(v_from)
    follow_h[np.lexsort((right, h_to))] = np.lexsort((down, v_from))
    follow_v[np.lexsort((-down, v_to))] = np.lexsort((right, h_from))
    follow = follow_v[follow_h].tolist()
    starts, ends = h_from.tolist(), h_to.tolist()
    seen = [False] * len(follow)
    for first in range(len(follow)):
        loop = []
        at = first
        while not seen[at]:
            seen[at] = True
            loop += [starts[at], ends[at]]
            at = follow[at]
        if loop:
            yield loop


def _straights(sides: Int[np.ndarray, "n m"]) -> tuple[np.ndarray, ...]:
    """Runs of sides of one sign in each row: row, start, end, sign."""
    changes = sides[:, 1:] != sides[:, :-1]
    row, start = np.nonzero(changes & (sides[:, 1:] != 0))
    _, end = np.nonzero(changes & (sides[:, :-1] != 0))
    return row, start, end, sides[row, start + 1]


def _simple_loops(loop: list[int]) -> Iterator[list[int]]:
    """A loop taken apart where it comes back to a corner."""
    if len(set(loop)) == len(loop):
        yield loop
        return
    path: list[int] = []
    position: dict[int, int] = {}
    for corner in loop:
        if corner in position:
            start = position[corner]
            yield path[start:]
            for passed in path[start:]:
                del position[passed]
            del path[start:]
        position[corner] = len(path)
        path.append(corner)
    yield path


def _area(ring: Ring) -> float:
    """Pixels inside; negative if the ring runs anticlockwise on the screen."""
    (x, y), (next_x, next_y) = ring.T, np.roll(ring, -1, axis=0).T
    return float((x * next_y - next_x * y).sum()) / 2


def _simplified(ring: Ring, tolerance: float) -> Ring:
    """A ring with fewer corners; those left out lie within ``tolerance`` of it.

    Douglas and Peucker 1973, from the first corner and the one farthest from it. Should the ring
    cross itself, the tolerance is halved until it does not.
    """
    while tolerance > 0:
        kept: Ring = ring[_corners(ring, tolerance)]
        if len(kept) > 2 and _is_simple(kept):
            return kept
        # Corners have whole coordinates: below this nothing would change any more.
        tolerance = tolerance / 2 if tolerance > 1e-3 else 0
    return ring


def _corners(ring: Ring, tolerance: float) -> Int[np.ndarray, " m"]:
    """Indices of the corners to keep; all spans between kept ones are split at once."""
    closed = np.vstack([ring, ring[:1]])
    kept = np.zeros(len(closed), bool)
    kept[[0, int(np.argmax(((ring - ring[0]) ** 2).sum(1))), -1]] = True
    while True:
        ends = np.flatnonzero(kept)
        span = np.cumsum(kept)[:-1] - 1
        start = closed[ends[:-1]][span]
        along = closed[ends[1:]][span] - start
        points = ring - start
        share = ((points * along).sum(1) / (along**2).sum(1)).clip(0, 1)
        distances = ((points - share[:, None] * along) ** 2).sum(1)
        worst = np.maximum.reduceat(distances, ends[:-1])
        far = np.flatnonzero((distances == worst[span]) & (distances > tolerance**2))
        if not len(far):
            return ends[:-1]
        kept[far[np.unique(span[far], return_index=True)[1]]] = True


def _is_simple(ring: Ring) -> bool:
    """Whether no two sides of a ring meet, except neighbours at their common corner."""
    starts, ends = ring, np.roll(ring, -1, axis=0)
    along, before = ends - starts, starts - np.roll(ring, 1, axis=0)
    back = _cross(before, along) == 0
    if np.any(back & ((before * along).sum(1) < 0)):
        return False
    low, high = np.minimum(starts, ends).T, np.maximum(starts, ends).T
    count = len(ring)
    for top in range(0, count, _ROWS):
        rows = np.arange(top, min(top + _ROWS, count))
        near = np.arange(count) > rows[:, None] + 1  # each pair once, without neighbours
        for axis in (0, 1):
            near &= low[axis, rows, None] <= high[axis]
            near &= low[axis] <= high[axis, rows, None]
        first, second = np.nonzero(near)
        first += top
        apart = (first == 0) & (second == count - 1)  # neighbours too
        for one, other in ((first, second), (second, first)):
            # Both ends of the other side lie on one hand of this one's line.
            hands = [_cross(along[one], end[other] - starts[one]) for end in (starts, ends)]
            apart |= np.sign(hands[0]) * np.sign(hands[1]) > 0
        if not apart.all():
            return False
    return True


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    product: np.ndarray = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return product
