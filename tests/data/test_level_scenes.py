import dataclasses
import itertools

import numpy as np
import pytest
import torch

from reference.pixels import values_near
from sharpmask.coco.annotations import load_coco
from sharpmask.data import level_scenes
from sharpmask.data.level_scenes import LevelSceneDataset, collate_level_scenes
from sharpmask.data.pieces import Piece
from sharpmask.masks import decode
from sharpmask.pyramid_geometry import PyramidGeometry
from synthetic_coco import COLOURS

SIZE = 320
GEOMETRY = PyramidGeometry(cell_offset=1.0)


@pytest.fixture(scope="module")
def data(coco_folder):
    return load_coco(coco_folder.train, coco_folder.images)


def scenes(data, seed=0, windows=6, **options):
    options = {"scene_size": SIZE, "windows": windows} | options
    return LevelSceneDataset(data, GEOMETRY, seed=seed, **options)


def place(dataset, index):
    """Which piece of which photo a scene is, as the data set draws it."""
    return dataset._place(np.random.default_rng((dataset.seed, *index, 4)), index[1])


def objects_in(data, number, piece):
    """Box in the scene, share of it inside, and whether it is labelled, of what reaches into it."""
    image = data.images[number]
    x0, y0, x1, y1 = piece.box
    for k, (left, top, right, bottom) in enumerate([*image.boxes.tolist(), *image.crowds]):
        scale_x, scale_y = piece.size[0] / (x1 - x0), piece.size[1] / (y1 - y0)
        left, right = (left - x0) * scale_x, (right - x0) * scale_x
        if piece.flip:
            left, right = piece.size[0] - right, piece.size[0] - left
        top, bottom = (top - y0) * scale_y, (bottom - y0) * scale_y
        a, b = max(left, 0), min(right, piece.size[0])
        c, d = max(top, 0), min(bottom, piece.size[1])
        if a < b and c < d:
            share = (b - a) * (d - c) / ((right - left) * (bottom - top))
            yield (a, c, b, d), share, k < len(image.instances)


def in_crowd(image, piece, x, y):
    """Whether a place of the scene lies in a crowd region: both if that is near its border."""
    if image.crowd is None:
        return {False}
    left, top, right, bottom = piece.box
    width, height = piece.size
    x = width - x if piece.flip else x
    scale = np.array([(right - left) / width, (bottom - top) / height])
    return values_near(decode(image.crowd), np.array([x, y]) * scale + [left, top], max(scale))


@pytest.mark.parametrize("number", range(16))
def test_labels_follow_distances_in_cells_and_octaves(data, number):
    dataset = scenes(data, windows=10_000)
    index, piece = place(dataset, (2, number))
    objects = list(objects_in(data, index, piece))
    labels = dataset[2, number][1]
    for level, stride in enumerate(GEOMETRY.strides):
        side = SIZE // stride
        expected = np.full((side, side), -1.0 if data.images[index].complete else 0.0)
        for row, column in itertools.product(range(side), repeat=2):
            for learned in (False, True):
                for (left, top, right, bottom), share, labelled in objects:
                    octave = np.log2(max(right - left, bottom - top) / (46 * 2**level))
                    x, y = (left + right) / 2, (top + bottom) / 2
                    cells = max(abs(stride * column + 1 - x), abs(stride * row + 1 - y)) / stride
                    if learned and labelled and share >= 0.35 and abs(octave) <= 0.6 and cells <= 1:
                        expected[row, column] = 1
                    elif not learned and abs(octave) < 1 and cells < 2.6:
                        expected[row, column] = max(expected[row, column], 0)
            crowded = in_crowd(data.images[index], piece, stride * column + 1, stride * row + 1)
            if expected[row, column] < 0 and True in crowded:
                # Within a pixel of a crowd's border either is right.
                expected[row, column] = (
                    min(labels[level][row, column], 0) if len(crowded) > 1 else 0
                )
        np.testing.assert_array_equal(labels[level].numpy(), expected)


def test_every_level_has_objects_background_and_doubt(data):
    items = [scenes(data)[0, k] for k in range(60)]
    for level in range(4):
        labels = torch.stack([item[1][level] for item in items])
        for value in (1, 0, -1):
            assert (labels == value).sum() > 3


@pytest.mark.parametrize("copy_paste", [0.0, 2.0])
def test_masks_lie_on_their_objects_on_every_level(data, copy_paste):
    """Objects are evenly coloured: where a mask is 1 or 0 the window shows them or does not."""
    dataset = scenes(data, copy_paste=copy_paste)
    colours = np.array(list(COLOURS.values()), float)
    checked = np.zeros(4, int)
    for number in range(60):
        pixels, _, cells, masks = dataset[1, number]
        scene = pixels.permute(1, 2, 0).numpy().astype(float)
        for (level, row, column), mask in zip(cells.tolist(), masks.numpy(), strict=True):
            stride = GEOMETRY.strides[level]
            steps = np.arange(-40, 41) * stride / 8 + 1
            ys, xs = (np.floor(stride * k + steps).astype(int) for k in (row, column))
            inside = np.ix_((ys >= 0) & (ys < SIZE), (xs >= 0) & (xs < SIZE))
            window = scene[np.ix_(ys[(ys >= 0) & (ys < SIZE)], xs[(xs >= 0) & (xs < SIZE)])]
            whole = mask[inside] > 250
            distance = np.abs(window[..., None, :] - colours).max(-1)
            colour = distance[whole].mean(axis=0).argmin()
            assert (distance[whole][:, colour] < 60).mean() > 0.9
            checked[level] += 1
            if not copy_paste:  # else another of that colour may lie in the window
                assert (distance[mask[inside] < 5][:, colour] < 40).mean() < 0.1
    assert checked.min() > 4


def test_windows_are_shared_out_among_the_objects_of_a_level(data):
    few, many = scenes(data, windows=2), scenes(data, windows=1000)
    for number in range(20):
        few_labels, few_cells = few[0, number][1:3]
        all_cells = many[0, number][2]
        for level in range(4):
            mine, everything = (c[c[:, 0] == level] for c in (few_cells, all_cells))
            assert len(mine) == min(2, len(everything))
            # What is not chosen has no target for its score.
            assert (few_labels[level] == 1).sum() == len(mine)
            assert all(few_labels[level][row, column] == 1 for _, row, column in mine.tolist())


def test_a_covered_object_is_not_learned(data, monkeypatch):
    monkeypatch.setattr(level_scenes, "PASTED_SIZES", (200.0, 260.0))
    for number in range(40):
        for mask in scenes(data, copy_paste=4.0)[0, number][3].numpy():
            assert mask.any()


def test_a_partly_labelled_photo_has_no_background(data):
    dataset = scenes(data)
    seen = 0
    for number in range(60):
        index, _ = place(dataset, (0, number))
        if not data.images[index].complete:
            assert all((labels >= 0).all() for labels in dataset[0, number][1])
            seen += 1
    assert seen > 2


def test_one_in_four_is_drawn_from_complete_photos(data):
    dataset = scenes(data)
    placed = [place(dataset, (0, number)) for number in range(3, 200, 4)]
    assert all(data.images[index].complete for index, _ in placed)
    sizes = {data.images[index].size for index, _ in placed}
    assert len(sizes) > 1


def test_a_piece_moves_boxes_as_it_moves_pixels():
    from PIL import Image

    photo = np.zeros((60, 80), np.uint8)
    photo[20:30, 10:40] = 255
    for flip in (False, True):
        piece = Piece((5.0, 10.0, 65.0, 50.0), (120, 80), flip)
        moved = np.asarray(piece.resample(Image.fromarray(photo))) >= 128
        (left, top, right, bottom) = piece.boxes(np.array([[10.0, 20.0, 40.0, 30.0]]))[0]
        rows, columns = np.flatnonzero(moved.any(1)), np.flatnonzero(moved.any(0))
        assert (left, top) == (columns[0], rows[0])
        assert (right, bottom) == (columns[-1] + 1, rows[-1] + 1)


def test_a_scene_depends_on_its_index_alone(data):
    first, second = scenes(data, copy_paste=1.0), scenes(data, copy_paste=1.0)
    second[0, 7]
    for a, b in zip(first[3, 5][2:], second[3, 5][2:], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first[3, 5][0], second[3, 5][0])
    assert not torch.equal(first[3, 5][0], first[3, 6][0])


def test_a_batch_numbers_its_images(data):
    dataset = scenes(data)
    items = [dataset[0, k] for k in range(3)]
    batch = collate_level_scenes(items)
    assert batch.images.shape == (3, 3, SIZE, SIZE)
    assert [labels.shape[1] for labels in batch.labels] == [40, 20, 10, 5]
    counts = [len(item[2]) for item in items]
    assert torch.bincount(batch.cells[:, 0], minlength=3).tolist() == counts
    assert batch.masks.shape == (sum(counts), 81, 81)


def test_a_scene_of_broken_cells_is_refused(data):
    with pytest.raises(ValueError, match="scene_size: expected a multiple of 64, got 100"):
        scenes(data, scene_size=100)


def test_photos_without_objects_teach_nothing(data):
    empty = tuple(dataclasses.replace(image, instances=()) for image in data.images)
    with pytest.raises(ValueError, match="object"):
        scenes(dataclasses.replace(data, images=empty))
