from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reference.template_engine import TemplateEngine
from sharpmask.images import ImageError
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.tiles import Tile, TiledProposer, cut

SIDE = 92
"""Of the squares that the engine looks for."""


def reader(tile, **options):
    """A proposer that finds squares at full size, in tiles of a size."""
    return Proposer(
        TemplateEngine(), scales=[0.0], image_size=tile, num_proposals=30, num_candidates=30,
        **options,
    )  # fmt: skip


def squares(found):
    """Boxes of the masks that are whole squares."""
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    whole = np.abs(sides - SIDE).max(axis=1) <= 2
    return sorted(map(tuple, found.boxes[whole].astype(int).tolist()))


@st.composite
def planted(draw):
    """A picture and the boxes of squares far enough apart that no patch sees two."""
    height, width = draw(st.integers(260, 520)), draw(st.integers(260, 700))
    picture = np.full((height, width, 3), 30, np.uint8)
    boxes = []
    for top in range(draw(st.integers(0, 60)), height - SIDE, 2 * SIDE + 30):
        for left in range(draw(st.integers(0, 60)), width - SIDE, 2 * SIDE + 30):
            down, right = draw(st.integers(0, 20)), draw(st.integers(0, 20))
            y, x = min(top + down, height - SIDE), min(left + right, width - SIDE)
            picture[y : y + SIDE, x : x + SIDE] = 250
            boxes.append((x, y, x + SIDE, y + SIDE))
    return picture, sorted(boxes)


@settings(max_examples=8)
@given(planted())
def test_objects_within_the_overlap_are_found_once_and_whole(case):
    picture, boxes = case
    tiled = TiledProposer(reader(240), overlap=0.5)
    found = tiled(picture)
    assert len(tiled.tiles(picture.shape[:2])) > 1
    untiled = reader(10**4)(picture).suppressed(0.7)
    assert squares(found) == boxes == squares(untiled)
    for mask, box in zip(found.masks(), found.boxes.astype(int), strict=True):
        if tuple(box) in boxes:
            left, top, right, bottom = box
            assert mask[top:bottom, left:right].all()
            assert mask.sum() == SIDE**2


def test_nothing_ends_at_a_seam():
    # Windows end at multiples of 16; only a tile's edge can cut a mask at 250.
    picture = np.full((250, 437, 3), 30, np.uint8)
    picture[60 : 60 + SIDE, 204 : 204 + SIDE] = 250
    tiled = TiledProposer(reader(250), overlap=0.25)
    assert [tile.left for tile in tiled.tiles((250, 437))] == [0, 187]
    alone = reader(250)(picture[:, :250])
    assert 250 in alone.boxes[:, 2]
    found = tiled(picture)
    assert (204, 60, 204 + SIDE, 60 + SIDE) in squares(found)
    assert 250 not in found.boxes[:, 2]


def test_an_object_larger_than_a_tile_is_found_at_the_next_level():
    picture = np.full((600, 640, 3), 30, np.uint8)
    picture[100 : 100 + 2 * SIDE, 200 : 200 + 2 * SIDE] = 250
    found = TiledProposer(reader(320), overlap=0.25)(picture)
    assert [200, 100, 200 + 2 * SIDE, 100 + 2 * SIDE] in found.boxes.astype(int).tolist()


@pytest.mark.parametrize("size", [(100, 90), (240, 240), (241, 500), (1000, 333)], ids=str)
@pytest.mark.parametrize("overlap", [0.1, 0.5])
def test_tiles_cover_the_image_and_overlap(size, overlap):
    tiles = TiledProposer(reader(240), overlap=overlap).tiles(size)
    covered = np.zeros(size, int)
    for tile in tiles:
        assert 0 < tile.bottom - tile.top <= 240
        assert 0 < tile.right - tile.left <= 240
        covered[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert covered.min() == 1 or max(size) > 240
    assert covered.min() >= 1
    for side, starts in ((size[0], {t.top for t in tiles}), (size[1], {t.left for t in tiles})):
        ordered = sorted(starts)
        assert all(240 - (b - a) >= int(overlap * 240) for a, b in pairwise(ordered))
        assert len(ordered) == 1 or side > 240


def test_what_an_inner_edge_cuts():
    boxes = np.array([[0, 5, 9, 9], [5, 0, 9, 9], [5, 5, 100, 9], [5, 5, 9, 50], [1, 1, 99, 49]])
    inner, alone = Tile(10, 20, 60, 120), Tile(0, 0, 50, 100)
    assert cut(boxes, inner, (200, 200)).tolist() == [True, True, True, True, False]
    assert cut(boxes, alone, (50, 100)).tolist() == [False] * 5
    assert cut(boxes, alone, (50, 200)).tolist() == [False, False, True, False, False]


def test_no_more_masks_than_asked_for():
    picture = np.full((500, 700, 3), 30, np.uint8)
    for left in (60, 300, 540):
        picture[50 : 50 + SIDE, left : left + SIDE] = 250
    everything = TiledProposer(reader(240))(picture)
    found = TiledProposer(reader(240), num_proposals=2)(picture)
    assert len(everything) >= 3
    assert found.to_coco(1) == everything[:2].to_coco(1)
    assert (np.diff(everything.scores) <= 0).all()


def test_a_mapped_file_and_a_picture_are_read_alike(tmp_path):
    picture = np.full((300, 500, 3), 30, np.uint8)
    picture[50 : 50 + SIDE, 260 : 260 + SIDE] = 250
    np.save(tmp_path / "a.npy", picture)
    Image.fromarray(picture).save(tmp_path / "a.png")
    tiled = TiledProposer(reader(240))
    mapped = tiled(np.load(tmp_path / "a.npy", mmap_mode="r"))
    assert mapped.to_coco(1) == tiled(tmp_path / "a.png").to_coco(1)
    assert squares(mapped)


def test_settings_and_arrays_are_checked():
    with pytest.raises(ValueError, match="num_proposals: expected at least 1, got 0"):
        TiledProposer(reader(240), num_proposals=0)
    for overlap in (0, 1, -0.5):
        with pytest.raises(ValueError, match="overlap: expected a number between 0 and 1"):
            TiledProposer(reader(240), overlap=overlap)
    with pytest.raises(ImageError):
        TiledProposer(reader(240))(np.zeros((300, 300)))
