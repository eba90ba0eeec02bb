import dataclasses

import numpy as np
import pytest
import torch

from reference.pixels import values_near
from sharpmask.coco.annotations import load_coco
from sharpmask.data.patches import cut_mask
from sharpmask.data.sampling import Patch, PatchSampler
from sharpmask.data.scenes import SceneDataset, collate_scenes
from sharpmask.geometry import SHARPMASK_GEOMETRY
from sharpmask.masks import decode
from synthetic_coco import COLOURS

SIZE = 352
STRIDE, PATCH = 16, 160
GEOMETRIES = [SHARPMASK_GEOMETRY, dataclasses.replace(SHARPMASK_GEOMETRY, cell_offset=1)]


@pytest.fixture(scope="module")
def data(coco_folder):
    return load_coco(coco_folder.train, coco_folder.images)


def scenes(data, seed=0, windows=50, geometry=SHARPMASK_GEOMETRY, **options):
    return SceneDataset(data, geometry, seed=seed, scene_size=SIZE, windows=windows, **options)


def place(dataset, index):
    """Where a scene lies, as the data set draws it."""
    return dataset._place(np.random.default_rng((dataset.seed, *index, 3)), index[1])


def centers_in_photo(center, scale, geometry=SHARPMASK_GEOMETRY, flip=False):
    """Middle of each cell's window in the photo, (rows, columns, xy)."""
    cells = np.arange((SIZE - PATCH) // STRIDE + 1) * STRIDE + PATCH / 2
    if geometry.cell_offset is not None:
        cells += geometry.cell_offset - STRIDE / 2
    x, y = np.meshgrid(SIZE - cells if flip else cells, cells)
    return np.stack([x, y], axis=-1) / scale - SIZE / 2 / scale + np.array(center)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["centred", "padded"])
@pytest.mark.parametrize("number", range(24))
def test_labels_follow_the_papers_predicates(data, number, geometry):
    dataset = scenes(data, geometry=geometry)
    index, center, scale = place(dataset, (2, number))
    image = data.images[index]
    sampler = PatchSampler(data, SHARPMASK_GEOMETRY, seed=0, batch_size=6)
    boxes = np.concatenate([image.boxes, np.array(image.crowds).reshape(-1, 4)])
    crowd = None if image.crowd is None else decode(image.crowd)
    labels = dataset[2, number][1].numpy()
    agreed = []
    for flip in (False, True):
        expected = np.zeros((13, 13))
        middles = centers_in_photo(center, scale, geometry, flip)
        for (row, column), _ in np.ndenumerate(expected):
            middle = middles[row, column]
            if image.complete and sampler.is_negative(boxes, middle, scale):
                # Within a pixel of a crowd's border either is right.
                shares = {False} if crowd is None else values_near(crowd, middle, 1 / scale)
                both = labels[row, column] if len(shares) > 1 else 0
                expected[row, column] = -1 if shares == {False} else min(both, 0)
            for left, top, right, bottom in image.boxes:
                longer = max(right - left, bottom - top)
                shift = np.abs(np.array([left + right, top + bottom]) / 2 - middle).max() * scale
                if shift <= 16 and abs(np.log2(scale * longer / 92)) <= 0.25:
                    expected[row, column] = 1
        agreed.append((labels == expected).all())
    assert any(agreed)


def test_there_are_objects_background_and_doubt(data):
    labels = torch.stack([scenes(data)[0, k][1] for k in range(40)])
    for value in (1, 0, -1):
        assert (labels == value).sum() > 40


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["centred", "padded"])
def test_masks_are_those_of_single_patches(data, geometry):
    dataset = scenes(data, geometry=geometry)
    compared = 0
    for number in range(0, 40, 2):
        index, center, scale = place(dataset, (0, number))
        _, labels, cells, masks = dataset[0, number]
        middles = [centers_in_photo(center, scale, geometry, flip) for flip in (False, True)]
        # Every cell is tried mirrored and not; the objects of a photo are far apart.
        for (row, column), mask in zip(cells.tolist(), masks.numpy(), strict=True):
            assert labels[row, column] == 1
            differences = []
            for flip in (False, True):
                middle = middles[flip][row, column]
                for instance in range(len(data.images[index].instances)):
                    patch = Patch(index, instance, tuple(middle), scale, False, True, True)
                    alone = cut_mask(data.images[index], patch, SHARPMASK_GEOMETRY, PATCH)
                    differences.append((mask != (alone[:, ::-1] if flip else alone)).mean())
            assert min(differences) < 0.01
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["centred", "padded"])
@pytest.mark.parametrize("copy_paste", [0.0, 2.0])
def test_masks_lie_on_their_objects(data, copy_paste, geometry):
    """Objects are evenly coloured: so is what a mask cuts out of the scene, pasted or not."""
    dataset = scenes(data, copy_paste=copy_paste, geometry=geometry)
    # A patch begins 8 px before its first cell's centre.
    start = 0 if geometry.cell_offset is None else geometry.cell_offset - STRIDE // 2
    colours = np.array(list(COLOURS.values()))
    checked = 0
    for number in range(40):
        pixels, _, cells, masks = dataset[1, number]
        for (row, column), mask in zip(cells.tolist(), masks.numpy() > 0, strict=True):
            y, x = np.nonzero(mask)
            y, x = y + row * STRIDE + start, x + column * STRIDE + start
            inside = pixels.numpy()[:, y, x].T[:, None]
            distance = np.abs(inside - colours.astype(float)).max(-1)
            near = distance[:, distance.mean(axis=0).argmin()] < 40
            # At the edges of what is pasted, colours mix.
            assert near.mean() > (0.85 if copy_paste else 0.93)
            checked += 1
    assert checked > 100


def test_pasting_adds_objects_and_hides_others(data):
    with_pasted, without = scenes(data, copy_paste=3.0), scenes(data)
    counts = [sum(len(d[0, k][2]) for k in range(60)) for d in (with_pasted, without)]
    assert counts[0] > 2 * counts[1]
    # A pasted object may leave less than half of one that is there: then it is not learned from.
    for number in range(60):
        _, _, cells, masks = with_pasted[0, number]
        for mask in masks.numpy():
            # No shape fills less than a third of its box, no half of it less than a sixth.
            assert mask.sum() > 92**2 / 2**0.5 / 6
        assert len(cells) == len(masks)


def test_a_partly_labelled_photo_has_no_background(data):
    dataset = scenes(data)
    seen = 0
    for number in range(60):
        index, _, _ = place(dataset, (0, number))
        has_background = bool((dataset[0, number][1] < 0).any())
        if not data.images[index].complete:
            assert not has_background
            seen += 1
    assert seen > 3


def test_one_in_four_lies_anywhere_in_a_complete_photo(data):
    dataset = scenes(data)
    placed = [place(dataset, (0, number)) for number in range(3, 400, 4)]
    assert all(data.images[index].complete for index, _, _ in placed)
    octaves = np.log2([scale for _, _, scale in placed])
    assert octaves.min() < -2.3
    assert octaves.max() > 1.3
    assert np.std(np.histogram(octaves, 4, (-2.75, 1.75))[0]) < 12


def test_one_scene_in_four_lies_anywhere_and_sources_get_their_shares(data):
    sources = ["street" if k % 2 else "zoo" for k in range(len(data.images))]
    images = [
        dataclasses.replace(image, source=source, complete=source == "street")
        for image, source in zip(data.images, sources, strict=True)
    ]
    mixed = dataclasses.replace(data, images=tuple(images))
    dataset = scenes(mixed, shares={"zoo": 0.8})
    drawn = [sources[place(dataset, (0, number))[0]] for number in range(1200)]
    assert set(drawn[3::4]) == {"street"}  # the only ones with all objects labelled
    others = [source for k, source in enumerate(drawn) if k % 4 < 3]
    assert others.count("zoo") / len(others) == pytest.approx(0.8, abs=0.05)


def test_a_scene_shows_its_photo_with_no_more_grey_than_inference(data):
    dataset = scenes(data)
    for number in range(80):
        index, center, scale = place(dataset, (0, number))
        size = np.array(data.images[index].size[::-1]) * scale
        first = SIZE / 2 - np.array(center) * scale  # the photo's corner in the scene
        last = first + size
        for low, high, side in zip(first, last, size, strict=True):
            if side + 160 >= SIZE:
                assert low <= 80.001
                assert high >= SIZE - 80.001
            else:
                assert low >= 79.999
                assert high <= SIZE - 79.999


def test_a_cap_on_windows_leaves_the_rest_in_doubt(data):
    for number in range(20):
        _, labels, cells, masks = scenes(data, windows=2)[0, number]
        _, all_labels, all_cells, _ = scenes(data)[0, number]
        assert len(cells) == len(masks) == min(2, len(all_cells))
        assert (labels > 0).sum() == len(cells)
        assert ((labels < 0).sum(), (labels >= 0).sum()) == (
            (all_labels < 0).sum(),
            (all_labels >= 0).sum(),
        )


def test_a_scene_depends_on_its_number_alone(data):
    options = {"copy_paste": 1.0, "colour_jitter": 0.4}
    first, again = scenes(data, **options), scenes(data, **options)
    list(map(first.__getitem__, [(0, k) for k in range(5)]))
    for one, other in zip(first[3, 7], again[3, 7], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first[3, 7][0], first[3, 8][0])
    assert not torch.equal(first[3, 7][0], scenes(data, seed=1, **options)[3, 7][0])


def test_a_batch_numbers_its_images(data):
    items = [scenes(data)[0, k] for k in range(6)]
    batch = collate_scenes(items)
    assert batch.images.shape == (6, 3, SIZE, SIZE)
    assert batch.labels.shape == (6, 13, 13)
    start = 0
    for number, (_, _, cells, masks) in enumerate(items):
        part = slice(start, start := start + len(cells))
        assert (batch.cells[part, 0] == number).all()
        assert torch.equal(batch.cells[part, 1:], cells)
        assert torch.equal(batch.masks[part], masks)
    assert start == len(batch.cells)
    assert (batch.labels[tuple(batch.cells.T)] == 1).all()


@pytest.mark.parametrize("size", [144, 350])
def test_a_size_that_does_not_fit(data, size):
    with pytest.raises(ValueError, match=f"scene_size: expected a multiple of 16 .* got {size}"):
        SceneDataset(data, SHARPMASK_GEOMETRY, seed=0, scene_size=size, windows=4)


def test_objects_too_small_for_every_scale(data):
    tiny = dataclasses.replace(SHARPMASK_GEOMETRY, object_size=20 * 92)
    with pytest.raises(ValueError, match="no object to learn from"):
        SceneDataset(data, tiny, seed=0, scene_size=SIZE, windows=4)
