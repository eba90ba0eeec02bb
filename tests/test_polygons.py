import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco
from scipy import ndimage
from shapely import Point, Polygon, contains_xy, union_all
from shapely.geometry import box

import sharpmask.polygons
from found_masks import any_mask, iou, mask_of, rle_of, shapes, solid
from sharpmask.coco.segmentation import segmentation_to_rle
from sharpmask.polygons import RELATIVE_TOLERANCE, outlines, polygons


def filled_pieces(mask):
    """The pieces of a mask whose pixels meet at sides, each with its holes filled, none nested."""
    labels, count = ndimage.label(mask)
    filled = [ndimage.binary_fill_holes(labels == number + 1) for number in range(count)]
    return [
        piece
        for piece in filled
        if not any((piece <= other).all() and piece.sum() < other.sum() for other in filled)
    ]


def as_pixels(ring, shape):
    """Pixels whose centres lie in a ring, by shapely."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return contains_xy(Polygon(ring), x, y)


def ellipse():
    y, x = np.mgrid[:120, :160]
    return ((x - 80) / 60) ** 2 + ((y - 60) / 40) ** 2 < 1


@given(any_mask)
def test_outlines_are_exactly_the_pieces_without_their_holes(mask):
    rings = outlines(mask)
    found = {as_pixels(ring, mask.shape).tobytes() for ring in rings}
    assert found == {piece.tobytes() for piece in filled_pieces(mask)}
    assert len(found) == len(rings)


@given(any_mask)
def test_outlines_cover_the_area_of_their_pixels(mask):
    for ring in outlines(mask):
        pixels = np.argwhere(as_pixels(ring, mask.shape))
        union = union_all([box(x, y, x + 1, y + 1) for y, x in pixels])
        assert Polygon(ring).symmetric_difference(Polygon(union.exterior)).area == 0


@given(any_mask, st.sampled_from([0, 0.5, 1, 3, 20]))
def test_polygons_are_valid_rings_that_run_clockwise_on_the_screen(mask, tolerance):
    for ring in polygons(rle_of(mask), tolerance):
        assert Polygon(ring).is_valid
        x, y = ring.T
        assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0
        assert (ring >= 0).all()
        assert (ring <= mask.shape[::-1]).all()


@given(any_mask, st.sampled_from([0.5, 1, 3]))
def test_the_outline_stays_within_the_tolerance_of_its_polygon(mask, tolerance):
    largest, simple = polygons(rle_of(mask), 0)[0], polygons(rle_of(mask), tolerance)[0]
    limit = min(tolerance, RELATIVE_TOLERANCE * Polygon(largest).area ** 0.5)
    line = Polygon(simple).exterior
    assert max(line.distance(Point(corner)) for corner in largest) <= limit + 1e-9


@given(any_mask)
def test_polygons_come_largest_first_and_the_largest_is_never_left_out(mask):
    for tolerance in (0, 1.5):
        areas = [Polygon(ring).area for ring in polygons(rle_of(mask), tolerance)]
        assert areas == sorted(areas, reverse=True)
        assert len(areas) >= 1


def test_a_ring_that_would_cross_itself_is_simplified_less(monkeypatch):
    module = sharpmask.polygons
    monkeypatch.setattr(module, "RELATIVE_TOLERANCE", 10)
    crossed = 0
    for seed in range(8):
        mask = np.random.default_rng(seed).random((24, 24)) < 0.62
        for ring in outlines(mask):
            coarse = ring[module._corners(ring, 2)]
            if len(coarse) > 2:
                assert module._is_simple(coarse) == Polygon(coarse).is_valid
                crossed += not Polygon(coarse).is_valid
        assert all(Polygon(ring).is_valid for ring in polygons(rle_of(mask), 2))
    assert crossed


def test_a_piece_inside_a_hole_is_filled_with_it():
    mask = np.zeros((12, 12), bool)
    mask[:9, :9] = True
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    (ring,) = outlines(mask)
    np.testing.assert_array_equal(ring, [[0, 0], [9, 0], [9, 9], [0, 9]])


def test_specks_are_left_out_with_the_tolerance():
    mask = np.zeros((20, 20), bool)
    mask[:10, :10] = True
    mask[15:17, 15:17] = True
    mask[0, 19] = True
    assert [len(polygons(rle_of(mask), tolerance)) for tolerance in (0, 1, 1.1)] == [3, 2, 1]


def test_an_empty_mask_has_no_polygon():
    assert polygons(rle_of(np.zeros((5, 6), bool))) == []


@pytest.mark.parametrize(("scale", "bound"), [(1, 0.95), (4, 0.985)])
def test_polygons_of_objects_rasterise_back_to_their_filled_masks(scale, bound):
    size = 96 * scale, 128 * scale
    for mask, whole in zip(shapes(*size), solid(shapes(*size)), strict=True):
        rings = polygons(rle_of(mask))
        back = mask_of(segmentation_to_rle([rings[0].ravel().tolist()], size))
        assert iou(back, whole) > bound
        assert len(rings[0]) < 40 * scale**0.5


def test_few_points_remain_of_a_straight_outline():
    mask = np.zeros((40, 50), bool)
    mask[10:30, 5:45] = True
    (ring,) = polygons(rle_of(mask))
    np.testing.assert_array_equal(ring, [[5, 10], [45, 10], [45, 30], [5, 30]])


@pytest.mark.parametrize(("tolerance", "most"), [(1.0, 50), (3.0, 20)])
def test_opencv_finds_the_exact_outline_near_the_simplified_one(tolerance, most):
    (exact,), (simple,) = polygons(rle_of(ellipse()), 0), polygons(rle_of(ellipse()), tolerance)
    assert len(simple) < most < len(exact)
    contour = simple.astype(np.float32)
    far = [abs(cv2.pointPolygonTest(contour, point, True)) for point in exact.tolist()]
    assert max(far) <= tolerance + 1e-6


def test_coco_draws_the_mask_from_its_polygon():
    (ring,) = polygons(rle_of(ellipse()))
    (drawn,) = coco.frPyObjects([ring.ravel().tolist()], *ellipse().shape)
    assert iou(mask_of(drawn), ellipse()) > 0.96


def test_outlines_by_hand():
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]], bool)
    large, small = polygons(rle_of(mask), 0)
    assert large.tolist() == [[0, 0], [3, 0], [3, 2], [4, 2], [4, 3], [0, 3]]
    assert small.tolist() == [[0, 4], [1, 4], [1, 5], [0, 5]]


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_tolerance_that_is_not_a_distance_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance: expected 0 or more pixels"):
        polygons(rle_of(np.ones((2, 2), bool)), tolerance)
