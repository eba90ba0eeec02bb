import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpmask.coco.reader import parse_coco
from sharpmask.coco.sizes import (
    LARGEST_READING,
    fitting_readings,
    most_objects,
    object_sides,
    recall_ceiling,
    share_in_reach,
)
from sharpmask.pyramid_geometry import PyramidGeometry, geometry_of

GEOMETRY = PyramidGeometry(cell_offset=1.0, readings=(0.5, 0.0))


def photos_of(*sides, size=(480, 640)):
    """One photo for each list of longer sides; a negative one is a crowd."""
    images = [
        {"id": k, "height": size[0], "width": size[1], "file_name": f"{k}.png"}
        for k in range(len(sides))
    ]
    annotations = [
        {"id": None, "image_id": k, "bbox": [0, 0, abs(side), 1], "iscrowd": int(side < 0)}
        for k, photo in enumerate(sides)
        for side in photo
    ]
    return parse_coco({"images": images, "annotations": annotations, "categories": []}).images


def test_sides_are_those_in_the_reduced_photo():
    assert object_sides(photos_of([100, -20, 300]), 640).tolist() == [100, 300]
    large = photos_of([100, 300], size=(960, 1280))
    assert object_sides(large, 640).tolist() == [50, 150]
    assert object_sides(large, 2000).tolist() == [100, 300]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([46] * 40, (0.5, 0.0)),  # the finest level's own size: the model's own readings
        ([46] * 20 + [368] * 20, (0.5, 0.0)),  # the coarsest level's too
        ([46] * 31 + [3] * 9, (0.5, 0.0)),  # they fit three quarters
        ([11.5] * 40, (2.0, 1.5)),  # four times too small
        ([11.5] * 39 + [3], (2.0, 1.5)),  # one of forty asks for nothing
        ([11.5] * 37 + [8] * 3, (2.5, 2.0)),
        ([46] * 20 + [640] * 20, (0.0, -0.5, -1.0, -1.5)),
    ],
)
def test_photos_are_read_so_that_objects_fall_on_levels(sides, expected):
    assert fitting_readings(photos_of(sides), GEOMETRY, 640) == expected


def test_no_reading_is_larger_than_what_memory_takes():
    tiny = photos_of([3] * 40)
    first = fitting_readings(tiny, GEOMETRY, 640)[0]
    assert 640 * 2**first <= LARGEST_READING < 640 * 2 ** (first + 0.5)
    small_photos = photos_of([3] * 40, size=(200, 200))
    assert fitting_readings(small_photos, GEOMETRY, 640)[0] > first


@given(st.lists(st.floats(8, 600), min_size=1, max_size=60))
def test_three_quarters_of_the_objects_are_near_a_level_at_least(sides):
    images = photos_of(sides)
    readings = fitting_readings(images, GEOMETRY, 640)
    assert share_in_reach(object_sides(images, 640), readings, GEOMETRY) >= 0.75


def test_the_share_in_reach_is_that_within_some_octaves_of_a_level():
    """By hand: readings .5 and 0 meet 32.5 px at the finest level, 368 px at the coarsest."""
    edges = 46 * 2**-0.5 * 2**-0.25, 368 * 2**0.25
    sides = np.array([edges[0] * 1.01, edges[0] * 0.99, edges[1] * 0.99, edges[1] * 1.01])
    assert share_in_reach(sides, GEOMETRY.readings, GEOMETRY, 0.25) == 0.5
    assert share_in_reach(sides, (1.0, 0.5, 0.0), GEOMETRY, 0.25) == 0.75


def test_a_photo_with_more_objects_than_proposals_has_a_ceiling():
    crowded = photos_of([10] * 300, [10] * 50, [-10])
    assert most_objects(crowded) == 300
    assert recall_ceiling(crowded, 100) == pytest.approx(150 / 350)
    assert recall_ceiling(crowded, 1000) == 1
    assert recall_ceiling(photos_of([]), 10) == 1


def test_data_without_an_object_have_no_sizes():
    with pytest.raises(ValueError, match="no object"):
        fitting_readings(photos_of([-10]), GEOMETRY, 640)


def test_named_scales_lie_round_the_models_own_sizes():
    geometry = geometry_of({"strides": [8, 16, 32, 64], "readings": [2.0, 1.5]})
    assert geometry.pyramids == {
        "default": (2.0, 1.5), "fast": (1.5, 1.0),
        "zoom": (2.5, 2.0, 1.5), "zoom2": (3.0, 2.5, 2.0, 1.5),
    }  # fmt: skip
    with pytest.raises(ValueError, match="at least one octave"):
        PyramidGeometry(readings=())
