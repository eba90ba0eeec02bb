import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharpmask.coco import annotations as annotations_module
from sharpmask.coco.annotations import CocoDataset, CocoImage, Instance, load_coco
from sharpmask.data import patches
from sharpmask.data.patches import PatchDataset, augment, collate, cut, cut_mask, cut_window
from sharpmask.data.sampling import Patch, PatchSampler
from sharpmask.geometry import SHARPMASK_GEOMETRY
from synthetic_coco import compressed_rle

GREY = 128
NOISE = np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)


# --- cut ---


def slow_cut(pixels, center, scale, side, fill):
    """Every patch pixel by itself: a triangle as wide as a patch pixel, or as an image pixel."""
    height, width = pixels.shape[:2]
    scale, center = Fraction(scale), [Fraction(c) for c in center]
    patch = np.full((side, side, *pixels.shape[2:]), float(fill))
    weights = []
    for axis, length in ((0, width), (1, height)):
        start = center[axis] - Fraction(side, 2) / scale
        weights.append([])
        for k in range(side):
            first, last = start + k / scale, start + (k + 1) / scale
            if first < 0 or last > length:
                weights[axis].append(None)
                continue
            reach = max(Fraction(1), 1 / scale)
            middle = (first + last) / 2
            distance = [abs(n + Fraction(1, 2) - middle) / reach for n in range(length)]
            triangle = np.array([float(max(Fraction(0), 1 - d)) for d in distance])
            weights[axis].append(triangle / triangle.sum())
    for row, down in enumerate(weights[1]):
        for column, across in enumerate(weights[0]):
            if down is not None and across is not None:
                patch[row, column] = np.einsum("y,x,yx...->...", down, across, pixels)
    return patch


@given(
    st.integers(-40, 160),
    st.integers(-40, 130),
    st.sampled_from(["1/4", "1/3", "1/2", "3/4", "1", "3/2", "2", "3"]),
    st.integers(1, 13),
    st.booleans(),
)
def test_cutting_against_reading_every_pixel_by_itself(x, y, scale, side, is_grey):
    pixels = NOISE[..., 0] if is_grey else NOISE
    center = (Fraction(x, 4), Fraction(y, 4))
    fill = 0 if is_grey else GREY
    found = cut(
        Image.fromarray(pixels), tuple(map(float, center)), float(Fraction(scale)), side, fill
    )
    expected = slow_cut(pixels, center, scale, side, fill)
    # Pillow rounds to whole grey values after each axis.
    np.testing.assert_allclose(np.asarray(found, float), expected, atol=1.6)
    # What is outside is exactly the fill.
    assert found.mode == ("L" if is_grey else "RGB")
    outside = slow_cut(np.full_like(pixels, 7), center, scale, side, 99) == 99
    np.testing.assert_array_equal(np.asarray(found)[outside], fill)


def test_at_scale_one_the_pixels_are_the_photos_own():
    found = np.asarray(cut(Image.fromarray(NOISE), (10.0, 12.0), 1.0, 8, GREY))
    np.testing.assert_array_equal(found, NOISE[8:16, 6:14])


def test_beyond_the_photo_is_grey_and_nothing_of_the_photo_is_lost():
    found = np.asarray(cut(Image.fromarray(NOISE), (0.0, 0.0), 1.0, 80, GREY))
    expected = np.full((80, 80, 3), GREY)
    expected[40 : 40 + 23, 40 : 40 + 31] = NOISE
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("center", [(-500.0, 5.0), (5.0, 500.0), (-14.1, -14.1), (1e6, 1e6)])
def test_wholly_outside_the_photo_all_is_grey(center):
    assert np.all(np.asarray(cut(Image.fromarray(NOISE), center, 0.5, 14, GREY)) == GREY)


# --- windows and masks ---


def ellipse(size, center, radii):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return (((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2) <= 1


def record_of(mask, path=None):
    """A photo with one object."""
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    instance = Instance(1, 0, tuple(map(float, box)), compressed_rle(mask))
    return CocoImage(1, path, mask.shape, True, (instance,), ())


def patch_at(center, scale, *, instance=0, flip=False):
    return Patch(0, instance, center, scale, flip, True, True)


OBJECT = ellipse((150, 200), (70, 60), (55, 30))
RECORD = record_of(OBJECT)


def test_an_object_lies_in_the_middle_at_its_canonical_size():
    left, top, right, bottom = RECORD.instances[0].box
    scale = 92 / (right - left)
    mask = cut_mask(
        RECORD, patch_at(((left + right) / 2, (top + bottom) / 2), scale), SHARPMASK_GEOMETRY, 160
    )
    rows, columns = np.nonzero(mask)
    assert columns.max() + 1 - columns.min() == pytest.approx(92, abs=1)
    assert (columns.max() + 1 + columns.min()) / 2 == pytest.approx(80, abs=0.5)
    assert (rows.max() + 1 + rows.min()) / 2 == pytest.approx(80, abs=0.5)
    assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize("size", [160, 112, 56])
@pytest.mark.parametrize("scale", [0.4, 0.83, 1.0, 1.7])
@pytest.mark.parametrize("center", [(70.0, 60.0), (50.3, 81.6), (190.0, 20.0)])
def test_a_mask_is_the_ellipse_of_the_continuous_image(center, scale, size):
    """Every target pixel asks where its centre lies in the photo, and whether that is inside."""
    mask = cut_mask(RECORD, patch_at(center, scale), SHARPMASK_GEOMETRY, size)
    step = 160 / size / scale
    offsets = (np.arange(size) + 0.5 - size / 2) * step
    x, y = center[0] + offsets[None], center[1] + offsets[:, None]
    depth = np.hypot((x - 70) / 55, (y - 60) / 30)
    inside_photo = (x > step) & (x < 200 - step) & (y > step) & (y < 150 - step)
    # Only pixels near the outline, where the photo's own pixels decide, may differ.
    sure = np.abs(depth - 1) > 1.0 * max(step, 1) / 30
    expected = (depth < 1) & inside_photo
    np.testing.assert_array_equal(mask[sure & inside_photo], expected[sure & inside_photo])
    assert (sure & inside_photo & expected).sum() > 50 or center[0] == 190


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.3, 0.7, 1.0, 1.9])
@pytest.mark.parametrize("center", [(70.0, 60.0), (48.7, 90.2), (180.0, 130.0), (5.0, -20.0)])
def test_the_window_of_a_photo_that_is_its_mask_is_the_mask(tmp_path, center, scale, flip):
    path = tmp_path / "photo.png"
    Image.fromarray(np.repeat(OBJECT[..., None] * np.uint8(255), 3, axis=2)).save(path)
    dataset = dataset_of(record_of(OBJECT, path), mask_size=160)
    patch = patch_at(center, scale, flip=flip)
    window, mask, *_ = dataset.cut(patch, np.random.default_rng(0))
    assert window.shape == (3, 192, 192)
    assert mask.shape == (160, 160)
    seen = window[0, 16:-16, 16:-16].numpy()
    seen = np.where(seen == GREY, 0, seen) >= 128  # grey lies beyond the photo
    assert np.mean(seen != mask.numpy()) < 0.001


def dataset_of(record, *, mask_size, seed=0, batches="masks", **options):
    source = PatchSampler(
        CocoDataset((record,), ("a",), (1,), Counter()),
        SHARPMASK_GEOMETRY,
        seed=seed,
        batch_size=4,
        batches=batches,
    )
    return PatchDataset(source, mask_size=mask_size, **options)


def test_flipping_mirrors_window_and_mask(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(1).integers(0, 256, (*OBJECT.shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    dataset = dataset_of(record_of(OBJECT, path), mask_size=112)
    center, scale = (60.0, 75.0), 0.8
    straight = dataset.cut(patch_at(center, scale), np.random.default_rng(0))
    flipped = dataset.cut(patch_at(center, scale, flip=True), np.random.default_rng(0))
    assert torch.equal(flipped[0], straight[0].flip(2))
    assert torch.equal(flipped[1], straight[1].flip(1))
    # As if the photo and its mask had been mirrored.
    Image.fromarray(pixels[:, ::-1].copy()).save(path)
    mirrored = dataset_of(record_of(OBJECT[:, ::-1], path), mask_size=112)
    seen = mirrored.cut(patch_at((200 - 60.0, 75.0), scale), np.random.default_rng(0))
    assert torch.max(torch.abs(seen[0].int() - flipped[0].int())) <= 1
    assert torch.mean((seen[1] != flipped[1]).float()) < 0.001


def test_a_negative_has_an_empty_mask(tmp_path):
    mask = cut_mask(RECORD, patch_at((70.0, 60.0), 0.8, instance=None), SHARPMASK_GEOMETRY, 112)
    assert mask.shape == (112, 112)
    assert not mask.any()


def test_the_window_holds_the_context_round_the_patch():
    photo = Image.fromarray(np.repeat(OBJECT[..., None] * np.uint8(255), 3, axis=2))
    window = np.asarray(cut_window(photo, patch_at((100.0, 75.0), 1.0), SHARPMASK_GEOMETRY))
    assert window.shape == (192, 192, 3)
    np.testing.assert_array_equal(window[21:171, :, 0], OBJECT[:, 4:196] * 255)
    assert np.all(window[:21] == GREY)
    assert np.all(window[171:] == GREY)


# --- the data set ---


@pytest.fixture
def loaded(coco_folder):
    return load_coco(coco_folder.train, coco_folder.images)


def made(dataset, *, colour_jitter=0.4, seed=0):
    source = PatchSampler(dataset, SHARPMASK_GEOMETRY, seed=seed, batch_size=6)
    return PatchDataset(source, mask_size=112, colour_jitter=colour_jitter)


def test_a_patch_is_a_function_of_seed_epoch_and_number(loaded):
    one, two = made(loaded), made(loaded)
    keys = [(0, 0), (0, 1), (0, 2), (1, 0), (5, 7)]
    first = {key: one[key] for key in keys}
    for key in reversed(keys):
        assert one[key][0] is not two[key][0]
        for a, b in zip(first[key], two[key], strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    other = made(loaded, seed=1)
    assert all(not torch.equal(other[key][0], first[key][0]) for key in keys)


def test_colours_change_but_not_shapes(loaded):
    plain, jittered = made(loaded, colour_jitter=0.0), made(loaded)
    for k in range(6):
        assert torch.equal(plain[0, k][1], jittered[0, k][1])
        assert plain[0, k][2:] == jittered[0, k][2:]
        assert torch.mean(torch.abs(plain[0, k][0].float() - jittered[0, k][0].float())) > 1


def test_what_is_done_to_the_colours_is_drawn_for_each_patch_anew(loaded, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        patches, "augment", lambda window, rng, strength: drawn.append(rng.random()) or window
    )
    for dataset in (made(loaded), made(loaded), made(loaded, seed=1)):
        for key in ((0, 0), (0, 1), (1, 0)):
            dataset[key]
    assert drawn[:3] == drawn[3:6]
    assert len(set(drawn)) == 6


def test_without_strength_augmenting_changes_nothing():
    window = Image.fromarray(NOISE)
    found = augment(window, np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(np.asarray(found), NOISE)


def test_augmenting_brightens_darkens_blurs_and_removes_colour():
    window = Image.fromarray(NOISE)
    found = [np.asarray(augment(window, np.random.default_rng(k), 0.8), float) for k in range(200)]
    brightness = [picture.mean() / NOISE.mean() for picture in found]
    assert min(brightness) < 0.5
    assert max(brightness) > 1.3
    grey = np.mean([np.ptp(picture, axis=2).max() <= 1 for picture in found])
    assert grey == pytest.approx(0.2, abs=0.08)
    rough = NOISE.astype(float).std()
    assert np.mean([picture.std() < rough / 2 for picture in found]) > 0.2
    assert all(picture.shape == NOISE.shape for picture in found)


def test_labels_say_what_a_patch_is_for(loaded):
    dataset = made(loaded)
    for k in range(9):
        _, mask, label, for_mask, for_score = dataset[0, k]
        assert (label, for_mask, for_score) == ((-1, 0, 1) if k % 3 == 2 else (1, 1, 1))
        assert bool(mask.any()) is (label > 0)


def test_a_photo_of_another_size_is_named(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (150, 200)).save(path)
    dataset = dataset_of(record_of(OBJECT, path), mask_size=112)
    with pytest.raises(ValueError, match=r"photo\.png: the photo is 150x200.*say 200x150"):
        dataset[0, 0]


@pytest.mark.parametrize("photos", [99, 3, 0])
def test_photos_are_decoded_once_as_far_as_memory_allows(loaded, monkeypatch, photos):
    height, width = loaded.images[0].size
    room = photos * 3 * height * width
    monkeypatch.setattr(patches, "CACHE_BYTES", room)
    read = []
    decode_photo = annotations_module.read_image
    monkeypatch.setattr(
        annotations_module, "read_image", lambda path: read.append(path) or decode_photo(path)
    )
    dataset = made(loaded)
    expected, kept = [], set()
    for k in range(30):
        assert dataset[0, k][0].shape == (3, 192, 192)
        image = loaded.images[dataset.sampler.patch(0, k).image]
        if image.path not in kept:
            expected.append(image.path)
            bytes_needed = 3 * image.size[0] * image.size[1]
            if bytes_needed <= room:
                kept.add(image.path)
                room -= bytes_needed
    assert read == expected
    assert len(kept) <= photos


def test_collate():
    items = [
        (torch.full((3, 4, 4), k, dtype=torch.uint8), torch.full((2, 2), k % 2), 1.0, 0.0, k / 2)
        for k in range(3)
    ]
    batch = collate(items)
    assert batch.windows.shape == (3, 3, 4, 4)
    assert batch.windows.dtype == torch.uint8
    assert batch.windows[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch.masks[:, 0, 0].tolist() == [0, 1, 0]
    assert batch.labels.tolist() == [1, 1, 1]
    assert batch.for_mask.tolist() == [0, 0, 0]
    assert batch.for_score.tolist() == [0, 0.5, 1]
    assert batch.labels.dtype == batch.for_mask.dtype == batch.for_score.dtype == torch.float32


def test_a_batch_of_a_loaded_data_set(loaded):
    dataset = made(loaded)
    batch = collate([dataset[0, k] for k in range(6)])
    assert batch.windows.shape == (6, 3, 192, 192)
    assert batch.masks.shape == (6, 112, 112)
    assert set(batch.masks.unique().tolist()) == {0, 1}
    assert math.isclose(batch.labels.sum().item(), 2)
