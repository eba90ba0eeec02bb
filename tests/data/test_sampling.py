import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpmask.coco.annotations import CocoDataset, CocoImage, Instance, load_coco
from sharpmask.data.sampling import NEGATIVE_SCALES, PatchSampler
from sharpmask.geometry import DEEPMASK_GEOMETRY, SHARPMASK_GEOMETRY
from sharpmask.masks import encode

EVERY_KIND = ("joint", "alternating", "masks")


def photo(boxes, *, size=(300, 400), categories=None, complete=True, crowds=()):
    """A photo of which the sampler needs only the boxes."""
    categories = categories or [0] * len(boxes)
    instances = tuple(
        Instance(k, category, tuple(map(float, box)), {"size": list(size), "counts": ""})
        for k, (box, category) in enumerate(zip(boxes, categories, strict=True))
    )
    return CocoImage(0, None, size, complete, instances, tuple(crowds))


def sampler(*photos, seed=0, batch_size=6, batches="joint", geometry=SHARPMASK_GEOMETRY):
    dataset = CocoDataset(tuple(photos), ("a", "b", "c"), (1, 2, 3), Counter())
    return PatchSampler(dataset, geometry, seed=seed, batch_size=batch_size, batches=batches)


def draw(source, count, epoch=0):
    return [source.patch(epoch, k) for k in range(count)]


@st.composite
def photos(draw):
    """A photo with up to four objects of any place and shape."""
    height, width = draw(st.integers(60, 700)), draw(st.integers(60, 700))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        left, top = draw(st.integers(0, width - 6)), draw(st.integers(0, height - 6))
        right = draw(st.integers(left + 5, width))
        bottom = draw(st.integers(top + 5, height))
        boxes.append((left, top, right, bottom))
    half = draw(st.integers(0, len(boxes)))
    return photo(boxes[half:], size=(height, width), crowds=boxes[:half])


# --- single patches ---


@given(photos(), st.integers(0, 5), st.sampled_from([SHARPMASK_GEOMETRY, DEEPMASK_GEOMETRY]))
def test_positives_stay_near_the_canonical_window(one, seed, geometry):
    other = photo([(10, 20, 110, 60)])
    source = sampler(one, other, seed=seed, batches="masks", geometry=geometry)
    for patch in draw(source, 12):
        left, top, right, bottom = (one, other)[patch.image].instances[patch.instance].box
        canonical = geometry.object_size / max(right - left, bottom - top)
        assert abs(math.log2(patch.scale / canonical)) <= 0.25 + 1e-9
        assert abs(patch.center[0] - (left + right) / 2) * patch.scale <= 16 + 1e-9
        assert abs(patch.center[1] - (top + bottom) / 2) * patch.scale <= 16 + 1e-9


def test_the_whole_jitter_is_used():
    patches = draw(sampler(photo([(50, 60, 142, 100)]), batches="masks"), 2000)
    dx = np.array([(p.center[0] - 96) * p.scale for p in patches])
    dy = np.array([(p.center[1] - 80) * p.scale for p in patches])
    octaves = np.log2([p.scale for p in patches])
    for values, reach in ((dx, 16), (dy, 16), (octaves, 0.25)):
        # A uniform distribution: 2000 draws come within a hundredth of both ends.
        assert values.min() == pytest.approx(-reach, abs=reach / 50)
        assert values.max() == pytest.approx(reach, abs=reach / 50)
        assert values.mean() == pytest.approx(0, abs=reach / 20)
        assert values.std() == pytest.approx(reach / math.sqrt(3), rel=0.05)
        assert np.abs(np.corrcoef([dx, dy, octaves]) - np.eye(3)).max() < 0.1
    assert np.mean([p.flip for p in patches]) == pytest.approx(0.5, abs=0.04)


def far_from_all(image, center, scale, object_size):
    """The paper's predicate, written out: 32 px on an axis or an octave from every object."""
    for left, top, right, bottom in [*(i.box for i in image.instances), *image.crowds]:
        canonical = object_size / max(right - left, bottom - top)
        octaves = abs(math.log2(scale) - math.log2(canonical))
        across = abs(center[0] - (left + right) / 2) * scale
        down = abs(center[1] - (top + bottom) / 2) * scale
        if octaves < 1 and across < 32 and down < 32:
            return False
    return True


@given(photos(), st.integers(0, 5), st.sampled_from([SHARPMASK_GEOMETRY, DEEPMASK_GEOMETRY]))
def test_negatives_keep_away_from_every_object_and_crowd(one, seed, geometry):
    source = sampler(one, photo([(10, 20, 110, 60)]), seed=seed, geometry=geometry)
    for k in range(2, 30, 3):
        patch = source.patch(0, k)
        image = source.dataset.images[patch.image]
        assert patch.instance is None
        assert far_from_all(image, patch.center, patch.scale, geometry.object_size)
        height, width = image.size
        assert 0 <= patch.center[0] <= width
        assert 0 <= patch.center[1] <= height
        assert round(math.log2(patch.scale), 9) in np.arange(-3, 2.01, 0.25)


def test_negatives_are_not_centred_in_a_crowd_region():
    region = np.zeros((300, 400), bool)
    region[:, 150:] = True
    one = replace(photo([(0, 0, 20, 20)]), crowd=encode(region, region.shape))
    centers = [p.center for p in draw(sampler(one), 300) if p.instance is None]
    assert len(centers) == 100
    assert max(x for x, _ in centers) < 150


BOUNDARY = [
    (0.0, 0.0, 0.999, False),
    (0.0, 0.0, 1.001, True),
    (0.0, 0.0, -0.999, False),
    (0.0, 0.0, -1.001, True),
    (31.9, -31.9, 0.0, False),
    (32.1, 0.0, 0.0, True),
    (0.0, -32.1, 0.0, True),
    # Shifts are measured in pixels of the patch itself, here of twice and half the size.
    (32.1, 0.0, 0.9, True),
    (31.9, 0.0, 0.9, False),
    (31.9, 0.0, -0.9, False),
    (32.1, 0.0, -0.9, True),
]


@pytest.mark.parametrize(("across", "down", "octaves", "is_far"), BOUNDARY)
def test_the_border_between_near_and_far(across, down, octaves, is_far):
    source = sampler(photo([(0, 0, 46, 20)]))
    scale = 2 * 2**octaves
    center = np.array([23 + across / scale, 10 + down / scale])
    assert source.is_negative(np.array([[0, 0, 46, 20]]), center, scale) is is_far
    # One near object is enough.
    boxes = np.array([[200, 200, 246, 220], [0, 0, 46, 20]])
    assert source.is_negative(boxes, center, scale) is is_far


@given(photos(), st.integers(0, 100))
def test_the_predicate_is_that_of_the_slow_one(one, seed):
    rng = np.random.default_rng(seed)
    source = sampler(one, photo([(10, 20, 110, 60)]))
    boxes = np.array([*(i.box for i in one.instances), *one.crowds]).reshape(-1, 4)
    for _ in range(20):
        center, scale = rng.random(2) * one.size[::-1], 2.0 ** rng.uniform(-3, 2)
        assert source.is_negative(boxes, center, scale) == far_from_all(one, center, scale, 92)


def test_negatives_come_from_the_whole_photo_and_every_scale():
    patches = [p for p in draw(sampler(photo([(0, 0, 20, 20)])), 3000) if p.instance is None]
    assert len(patches) == 1000
    found = Counter(round(math.log2(p.scale), 9) for p in patches)
    assert sorted(found) == NEGATIVE_SCALES.tolist() == np.arange(-3, 2.01, 0.25).tolist()
    for axis, side in ((0, 400), (1, 300)):
        places = np.array([p.center[axis] for p in patches]) / side
        assert np.histogram(places, 5, (0, 1))[0].min() > 130


def test_partly_labelled_photos_give_positives_but_never_negatives():
    partly = photo([(10, 20, 110, 60)], complete=False)
    for batches in ("joint", "alternating"):
        patches = draw(sampler(partly, photo([(9, 9, 50, 60)]), batches=batches), 600)
        negatives = {p.image for p in patches if p.instance is None}
        positives = {p.image for p in patches if p.instance is not None}
        assert negatives == {1}
        assert positives == {0, 1}


def test_photos_without_objects_give_negatives():
    patches = draw(sampler(photo([]), photo([(9, 9, 50, 60)])), 600)
    assert {p.image for p in patches if p.instance is None} == {0, 1}


@pytest.mark.parametrize("batches", ["joint", "alternating"])
def test_a_photo_covered_by_objects_gives_positives_instead(batches):
    # Around this one's centre lie objects of every size: nothing is an octave or 32 px away.
    boxes = [(5 - r, 5 - r, 5 + r, 5 + r) for r in 46 / 2 ** np.array([-2.2, -0.4, 1.4])]
    covered = photo([], size=(10, 10), crowds=boxes)
    source = sampler(
        covered, photo([(10, 20, 110, 60)], complete=False), batch_size=4, batches=batches
    )
    patches = draw(source, 80)
    assert all(p.instance == 0 and p.image == 1 for p in patches)
    if batches == "alternating":
        assert all(p.for_mask is not p.for_score for p in patches)
    else:
        assert all(p.for_mask and p.for_score for p in patches)


# --- what is drawn how often ---


def chi_square(counts, expected):
    return sum((n - expected) ** 2 / expected for n in counts)


UNEVEN = [
    photo([(10, 10, 60, 40)] * 12, categories=[1] * 9 + [2] * 3),
    photo([(10, 10, 60, 40)], categories=[2]),
    photo([(10, 10, 60, 40)] * 3, categories=[0, 2, 2]),
]


@pytest.mark.parametrize(("batches", "numbers"), [("joint", (0, 3)), ("masks", (0, 2))])
def test_masks_are_drawn_evenly_over_categories(batches, numbers):
    source = sampler(*UNEVEN, seed=4, batches=batches)
    patches = [source.patch(0, k) for k in itertools.islice(itertools.count(*numbers), 3000)]
    check_even_over_categories(patches)


def check_even_over_categories(patches):
    found = Counter((p.image, p.instance) for p in patches)
    by_category = Counter()
    for (image, instance), count in found.items():
        by_category[UNEVEN[image].instances[instance].category] += count
    # 13.8: one in a thousand for two degrees of freedom.
    assert chi_square(by_category.values(), len(patches) / 3) < 13.8
    # Within a category every object alike: nine of category 1, six of category 2.
    ones = [found[0, k] for k in range(9)]
    assert chi_square(ones, by_category[1] / 9) < 26.1
    twos = [found[0, 9], found[0, 10], found[0, 11], found[1, 0], found[2, 1], found[2, 2]]
    assert chi_square(twos, by_category[2] / 6) < 20.5


@pytest.mark.parametrize(("batches", "numbers"), [("joint", (1, 3)), ("masks", (1, 2))])
def test_scores_are_drawn_evenly_over_photos(batches, numbers):
    source = sampler(*UNEVEN, photo([]), seed=5, batches=batches)
    patches = [source.patch(0, k) for k in itertools.islice(itertools.count(*numbers), 3000)]
    check_even_over_photos(patches)


def check_even_over_photos(patches):
    images = Counter(p.image for p in patches)
    assert sorted(images) == [0, 1, 2]
    assert chi_square(images.values(), len(patches) / 3) < 13.8
    within = Counter(p.instance for p in patches if p.image == 0)
    assert chi_square([within[k] for k in range(12)], images[0] / 12) < 31.3


def test_joint_batches_are_thirds():
    for k, patch in enumerate(draw(sampler(*UNEVEN), 60)):
        is_positive = k % 3 != 2
        assert (patch.instance is not None) is is_positive
        assert patch.for_mask is is_positive
        assert patch.for_score


def test_mask_batches_hold_only_positives_for_the_mask_head():
    for patch in draw(sampler(*UNEVEN, batches="masks"), 60):
        assert patch.instance is not None
        assert patch.for_mask
        assert not patch.for_score


def test_alternating_batches_are_for_one_head():
    """DeepMask, section 3.2: each batch for one head, even odds; scores half and half."""
    source = sampler(*UNEVEN, seed=6, batch_size=8, batches="alternating")
    patches = draw(source, 8 * 600)
    batches = [patches[k : k + 8] for k in range(0, len(patches), 8)]
    for_mask, for_score = [], []
    for batch in batches:
        assert len({(p.for_mask, p.for_score) for p in batch}) == 1
        (for_mask if batch[0].for_mask else for_score).extend(batch)
    assert all(p.for_mask and not p.for_score and p.instance is not None for p in for_mask)
    assert all(p.for_score and not p.for_mask for p in for_score)
    assert len(for_mask) / len(patches) == pytest.approx(0.5, abs=0.06)
    assert sum(p.instance is None for p in for_score) * 2 == len(for_score)
    check_even_over_categories(for_mask)
    check_even_over_photos([p for p in for_score if p.instance is not None])
    # Not simply one after the other.
    kinds = [batch[0].for_mask for batch in batches]
    changes = np.mean([a != b for a, b in itertools.pairwise(kinds)])
    assert changes == pytest.approx(0.5, abs=0.06)


# --- order ---


@pytest.mark.parametrize("batches", EVERY_KIND)
def test_a_patch_is_a_function_of_seed_epoch_and_number(batches):
    one, two = (sampler(*UNEVEN, seed=3, batches=batches) for _ in range(2))
    keys = [(epoch, k) for epoch in (0, 1, 7) for k in range(24)]
    first = {key: one.patch(*key) for key in keys}
    shuffled = np.random.default_rng(0).permutation(len(keys))
    assert {keys[n]: two.patch(*keys[n]) for n in shuffled} == first
    assert len({p.center for p in first.values()}) == len(keys)
    other = sampler(*UNEVEN, seed=2, batches=batches)
    assert all(other.patch(*key).center != first[key].center for key in keys)


def test_the_kind_of_a_batch_changes_with_epoch_and_seed():
    kinds = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        source = sampler(*UNEVEN, seed=seed, batch_size=2, batches="alternating")
        kinds[seed, epoch] = tuple(p.for_mask for p in draw(source, 80, epoch))
    assert len(set(kinds.values())) == 3


# --- errors ---


@pytest.mark.parametrize("batches", EVERY_KIND)
def test_there_must_be_an_object(batches):
    with pytest.raises(ValueError, match="no object to learn from"):
        sampler(photo([]), batches=batches)


@pytest.mark.parametrize("batches", EVERY_KIND)
def test_negatives_need_a_completely_labelled_photo(batches):
    partly = photo([(10, 20, 110, 60)], complete=False)
    if batches == "masks":
        assert len(draw(sampler(partly, batches=batches), 4)) == 4
        return
    with pytest.raises(ValueError, match=r'"complete": false.*add completely labelled'):
        sampler(partly, batches=batches)


def test_a_loaded_data_set(coco_folder):
    dataset = load_coco(coco_folder.train, coco_folder.images)
    source = PatchSampler(dataset, SHARPMASK_GEOMETRY, seed=0, batch_size=6)
    patches = draw(source, 300)
    assert {p.image for p in patches if p.instance is not None} == {0, 1, 3, 4, 5, 6, 7, 8}
    assert {p.image for p in patches if p.instance is None} == {0, 2, 3, 4, 5, 6, 7, 8}
