"""Outlines of masks as polygons, and masks cleaned by them.

The frame is the image's: a pixel is the square between two whole numbers, x before y.
"""

from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

Ring = Float[np.ndarray, "n 2"]


def outlines(mask: Bool[np.ndarray, "h w"], tolerance: float = 0.0) -> list[Ring]:
    """The outline of each piece of a mask, the largest piece first; holes are left out.

    A piece is what is joined by the sides of pixels; a hole is what they do not join to the
    outside. With ``tolerance`` 0 an outline runs along the sides of the pixels exactly. No outline
    crosses or touches itself.

    Args:
        mask: The mask.
        tolerance: How far, in pixels, an outline may be from the exact one
            (Douglas and Peucker 1973); less where it would cross itself.

    Raises:
        ValueError: The tolerance is negative or not finite.
    """
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance: expected 0 or more pixels, got {tolerance}")
    rings = [ring for ring in _rings(mask) if _area(ring) > 0]
    rings.sort(key=_area, reverse=True)
    return [_simplified(ring.astype(float), tolerance) for ring in rings]


def largest_piece(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The largest piece of a mask, with its holes filled; an empty mask stays empty."""
    rings = outlines(mask)
    filled = np.zeros(mask.shape, bool)
    if not rings:
        return filled
    ring = rings[0].astype(int)
    turns = np.zeros((mask.shape[0], mask.shape[1] + 1), bool)
    for (x, y), (other_x, other_y) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if x == other_x:
            turns[min(y, other_y) : max(y, other_y), x] ^= True
    np.logical_xor.accumulate(turns[:, :-1], axis=1, out=filled)
    return filled


def _rings(mask: Bool[np.ndarray, "h w"]) -> list[Int[np.ndarray, "n 2"]]:
    """Corners of all closed lines between inside and outside, clockwise round what is inside."""
    inside = np.pad(mask, 1).astype(np.int8)
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Along each line of the grid: +1 where the inside begins, -1 where it ends.
    for axis in (0, 1):
        steps = np.diff(inside, axis=axis)
        steps = steps[:, 1:-1] if axis == 0 else steps[1:-1].T
        padded = np.pad(steps, ((0, 0), (1, 1)))
        line, place = np.nonzero(np.diff(padded, axis=1))
        # Where one run of sides ends another of the opposite sign may begin: each is a pair.
        value = padded[line, place]  # before the change
        following = padded[line, place + 1]
        starts = following != 0
        stops = value != 0
        for number, first, last, sign in zip(
            line[starts].tolist(),
            place[starts].tolist(),
            place[stops].tolist(),
            following[starts].tolist(),
            strict=True,
        ):
            # Clockwise: along the top to the right, along the bottom to the left; up on the left.
            forward = (sign > 0) == (axis == 0)
            a, b = (first, last) if forward else (last, first)
            start, end = ((a, number), (b, number)) if axis == 0 else ((number, a), (number, b))
            ends.setdefault(start, []).append(end)
    rings = []
    while ends:
        start = next(iter(ends))
        corners, here, before = [start], start, start
        while True:
            following_corners = ends[here]
            there = following_corners[0]
            if len(following_corners) == 2 and here != start:
                # Where pieces meet at a corner, turn right, which keeps them apart.
                there = max(following_corners, key=partial(_right, before, here))
            following_corners.remove(there)
            if not following_corners:
                del ends[here]
            here, before = there, here
            if here == start:
                break
            corners.append(here)
        rings += _apart(corners)
    return [_cornered(np.array(ring)) for ring in rings]


def _right(before: tuple[int, int], here: tuple[int, int], corner: tuple[int, int]) -> int:
    """Positive for a turn to the right (y points down)."""
    return (here[0] - before[0]) * (corner[1] - here[1]) - (here[1] - before[1]) * (
        corner[0] - here[0]
    )


def _apart(corners: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Cut a closed line where it touches itself."""
    rings: list[list[tuple[int, int]]] = []
    path: list[tuple[int, int]] = []
    at: dict[tuple[int, int], int] = {}
    for corner in corners:
        if corner in at:
            start = at[corner]
            rings.append(path[start:])
            for gone in path[start + 1 :]:
                del at[gone]
            path = path[: start + 1]
        else:
            at[corner] = len(path)
            path.append(corner)
    return [*rings, path]


def _cornered(ring: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "m 2"]:
    """Without corners at which a line goes straight on."""
    before, after = np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0)
    straight = ((before == ring) & (ring == after)).any(axis=1)
    cornered: Int[np.ndarray, "m 2"] = ring[~straight]
    return cornered


def _area(ring: Ring | Int[np.ndarray, "n 2"]) -> float:
    """Area inside a line; negative where it runs round a hole."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _simplified(ring: Ring, tolerance: float) -> Ring:
    while tolerance >= 0.25:
        simple: Ring = ring[_kept(ring, tolerance)]
        if len(simple) >= 3 and _area(simple) > 0 and not _crosses(simple):
            return simple
        tolerance /= 2
    return ring


def _kept(ring: Ring, tolerance: float) -> Int[np.ndarray, " m"]:
    """Corners that stay: between two of them none is farther than the tolerance from the line."""
    count = len(ring)
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(1)))
    closed = np.concatenate([ring, ring[:1]])
    kept = {0, far}
    spans = [(0, far), (far, count)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        start, line = closed[first], closed[last] - closed[first]
        between = closed[first + 1 : last] - start
        length = float(line @ line)
        along = np.clip(between @ line / length, 0, 1) if length else np.zeros(len(between))
        distance = ((between - along[:, None] * line) ** 2).sum(1)
        worst = int(np.argmax(distance))
        if distance[worst] > tolerance**2:
            middle = first + 1 + worst
            kept.add(middle)
            spans += [(first, middle), (middle, last)]
    return np.array(sorted(kept))


def _crosses(ring: Ring) -> bool:
    """Whether two sides that are not neighbours meet."""
    start, end = ring, np.roll(ring, -1, axis=0)

    def side(a: Ring, b: Ring, c: Ring) -> Float[np.ndarray, "n n"]:
        """On which side of the line from a to b c lies."""
        across = b - a
        offset = c[None] - a[:, None]
        signs: Float[np.ndarray, "n n"] = np.sign(
            across[:, :1] * offset[..., 1] - across[:, 1:] * offset[..., 0]
        )
        return signs

    first, second = side(start, end, start), side(start, end, end)
    apart = first * second > 0
    # On one line they meet if their boxes do.
    low, high = np.minimum(start, end), np.maximum(start, end)
    boxes = ((low[:, None] <= high[None]) & (low[None] <= high[:, None])).all(2)
    meet = ~apart & ~apart.T & boxes
    count = len(ring)
    index = np.arange(count)
    meet[index, index] = False
    meet[index, (index + 1) % count] = meet[(index + 1) % count, index] = False
    return bool(meet.any())
