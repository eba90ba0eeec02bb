import dataclasses
from collections import Counter

import numpy as np
import pytest

from sharpmask.coco.annotations import load_coco
from sharpmask.data.mixture import SourceSampler, keep_back


@pytest.fixture(scope="module")
def data(coco_folder):
    """Photos of three sources: the last is only partly labelled."""
    loaded = load_coco(coco_folder.train, coco_folder.images)
    sources = ("street", "street", "street", "kitchen", "kitchen", "street", "zoo", "zoo", "zoo")
    images = tuple(
        dataclasses.replace(image, source=source, complete=source != "zoo")
        for image, source in zip(loaded.images, sources, strict=True)
    )
    return dataclasses.replace(loaded, images=images)


def drawn(data, draw, count=3000):
    rng = np.random.default_rng(0)
    return Counter(data.images[draw(rng)].source for _ in range(count))


def test_the_source_is_read_from_the_file(coco_folder):
    assert {i.source for i in load_coco(coco_folder.train, coco_folder.images).images} == {""}


def test_sources_weigh_as_the_root_of_their_objects(data):
    sampler = SourceSampler(data, {})
    objects = Counter()
    for image in data.images:
        objects[image.source] += len(image.instances)
    roots = {source: count**0.5 for source, count in objects.items()}
    counts = drawn(data, lambda rng: sampler.object(rng)[0])
    for source, root in roots.items():
        assert counts[source] / 3000 == pytest.approx(root / sum(roots.values()), abs=0.04)


def test_a_fixed_share_is_kept_and_the_others_share_the_rest(data):
    sampler = SourceSampler(data, {"kitchen": 0.7})
    counts = drawn(data, lambda rng: sampler.object(rng)[0])
    assert counts["kitchen"] / 3000 == pytest.approx(0.7, abs=0.04)
    assert set(counts) == {"street", "kitchen", "zoo"}


def test_complete_photos_are_drawn_from_sources_that_have_some(data):
    sampler = SourceSampler(data, {"kitchen": 0.25, "zoo": 0.5})
    counts = drawn(data, sampler.complete_photo)
    assert set(counts) == {"street", "kitchen"}
    assert counts["kitchen"] == pytest.approx(1500, abs=150)


def test_partly_labelled_photos_alone_hold_no_complete_one(data):
    zoo = tuple(image for image in data.images if image.source == "zoo")
    assert not SourceSampler(dataclasses.replace(data, images=zoo), {}).has_complete
    assert SourceSampler(data, {}).has_complete


@pytest.mark.parametrize("shares", [{"beach": 0.1}, {"street": 0.6, "zoo": 0.6}])
def test_impossible_shares_are_refused(data, shares):
    with pytest.raises(ValueError, match="shares: expected at most 1 in all of kitchen, street"):
        SourceSampler(data, shares)


def test_photos_kept_back_are_whole_sources_and_some_of_the_others(data):
    rest, kept = keep_back(data, sources=["kitchen"], count=4, seed=0)
    paths = [image.path for image in (*rest.images, *kept.images)]
    assert sorted(paths) == sorted(image.path for image in data.images)
    counts = Counter((image.source, image.complete) for image in kept.images)
    assert counts == {("kitchen", True): 2, ("street", True): 2, ("zoo", False): 2}
    assert keep_back(data, sources=["kitchen"], count=4, seed=0)[1] == kept
    assert {keep_back(data, sources=[], count=2, seed=k)[1] != kept for k in range(3)} == {True}
