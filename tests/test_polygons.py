import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from sharpmask.polygons import largest_piece, outlines

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def area(ring):
    x, y = ring.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


def pieces(mask):
    """Each piece joined by sides with its holes filled, by OpenCV; the largest first."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    filled = []
    for label in range(1, count):
        outside = np.pad((labels != label).astype(np.uint8), 1, constant_values=1)
        # What is not joined to the outside by sides is a hole.
        _, around = cv2.connectedComponents(outside, connectivity=4)
        filled.append((around != around[0, 0])[1:-1, 1:-1])
    return sorted(filled, key=lambda piece: -piece.sum())


def crosses(ring):
    """Whether sides that are not neighbours share a point: every pair, by exact arithmetic."""
    sides = list(zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True))

    def side(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    def on(a, b, c):
        return all(min(a[k], b[k]) <= c[k] <= max(a[k], b[k]) for k in (0, 1))

    def meet(a, b, c, d):
        signs = [side(a, b, c), side(a, b, d), side(c, d, a), side(c, d, b)]
        if signs[0] * signs[1] < 0 and signs[2] * signs[3] < 0:
            return True
        points = zip(signs, ((a, b, c), (a, b, d), (c, d, a), (c, d, b)), strict=True)
        return any(sign == 0 and on(*three) for sign, three in points)

    count = len(sides)
    return any(
        meet(*sides[i], *sides[j]) for i in range(count) for j in range(i + 2, count - (i == 0))
    )


@given(MASKS)
def test_exact_outlines_are_those_of_the_pieces(mask):
    rings, expected = outlines(mask), pieces(mask)
    assert [area(ring) for ring in rings] == [piece.sum() for piece in expected]
    for ring in rings:
        assert len(np.unique(ring, axis=0)) == len(ring) >= 4
        assert ((ring != np.roll(ring, 1, axis=0)).sum(axis=1) == 1).all()  # along the pixels


@given(MASKS)
def test_no_outline_crosses_or_touches_itself(mask):
    for tolerance in (0, 0.8, 2.0):
        for ring in outlines(mask, tolerance):
            assert len(ring) >= 3
            assert area(ring) > 0
            assert not crosses(ring)


@given(MASKS)
def test_the_largest_piece_has_no_holes(mask):
    found, expected = largest_piece(mask), pieces(mask)
    if not expected:
        assert not found.any()
    else:
        largest = [piece for piece in expected if piece.sum() == expected[0].sum()]
        assert any(np.array_equal(found, piece) for piece in largest)


def ellipse():
    y, x = np.mgrid[:120, :160]
    return ((x - 80) / 60) ** 2 + ((y - 60) / 40) ** 2 < 1


@pytest.mark.parametrize(("tolerance", "most"), [(1.0, 50), (3.0, 20)])
def test_a_simplified_outline_stays_near_the_exact_one(tolerance, most):
    mask = ellipse()
    (exact,), (simple,) = outlines(mask), outlines(mask, tolerance)
    assert len(simple) < most < len(exact)
    contour = simple.astype(np.float32)
    far = [abs(cv2.pointPolygonTest(contour, point, True)) for point in exact.tolist()]
    assert max(far) <= tolerance + 1e-6


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_coco_draws_the_mask_from_its_polygon():
    mask = ellipse()
    (ring,) = outlines(mask, 1.0)
    drawn = coco.decode(coco.frPyObjects([ring.ravel().tolist()], *mask.shape))[..., 0].astype(bool)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.96


def test_outlines_by_hand():
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]], bool)
    large, small = outlines(mask)
    assert {tuple(corner) for corner in large.tolist()} == {
        (0, 0), (3, 0), (3, 2), (4, 2), (4, 3), (0, 3),
    }  # fmt: skip
    assert area(large) == 10
    assert {tuple(corner) for corner in small.tolist()} == {(0, 4), (1, 4), (1, 5), (0, 5)}
    assert outlines(np.zeros((3, 4), bool)) == []


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_tolerances_that_are_no_distance_are_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance: expected 0 or more pixels"):
        outlines(np.ones((2, 2), bool), tolerance)
