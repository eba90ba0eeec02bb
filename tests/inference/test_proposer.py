from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

import sharpmask
from reference.small_nets import GEOMETRY
from reference.template_engine import TemplateEngine
from sharpmask import defaults
from sharpmask.cli.propose import propose
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.images import ImageError
from sharpmask.inference.proposer import Proposer
from sharpmask.inference.reading import DECODE_BATCH, apart_first, mask_quality, sigmoid
from sharpmask.models.backbones import Bottleneck, ResNet
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.pretrained import build, save
from sharpmask.models.sharpmask import SharpMask
from sharpmask.models.sources import WeightsError

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (90, 131, 3), dtype=np.uint8)


class CellEngine:
    """Random scores; every mask says which cell of which scale it was decoded for."""

    name = "cells"
    geometry = GEOMETRY

    def __init__(self):
        self.maps = []
        self.batches = []

    def encode(self, image):
        number = len(self.maps)
        shape = tuple(self.geometry.num_cells(side) for side in image.shape[:2])
        # Few different values: there are many ties.
        scores = np.random.default_rng(number).integers(-9, 10, shape).astype(np.float32) / 3
        self.maps.append(scores)
        return (scores,), number

    def decode(self, number, cells):
        self.batches.append(len(cells))
        codes = np.empty((len(cells), 32, 32))
        codes[:, :10] = 100 + number
        codes[:, 10:20] = 100 + cells[:, 1, None, None]
        codes[:, 20:] = 100 + cells[:, 2, None, None]
        return np.log(codes / (255 - codes))  # the logits of these values out of 255


def photo_with_object(height, width, top, left, side):
    photo = RNG.integers(0, 60, (height, width, 3), dtype=np.uint8)
    photo[top : top + side, left : left + side] = 250
    truth = np.zeros((height, width), bool)
    truth[top : top + side, left : left + side] = True
    return photo, truth


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def real_net():
    torch.manual_seed(0)
    deepmask = DeepMask(
        ResNet(Bottleneck, (1, 1, 1), width=4), bottleneck_channels=4, vector=6, score_channels=8
    )
    return SharpMask(deepmask, mask_channels=16, skip_channels=8, lateral_channels=(4,) * 4)


@pytest.fixture(scope="module")
def net():
    return real_net()


PAPER = {"quality_exponent": 0.0, "suppression": 1.0, "clean": False}
"""Settings that rank by the scores alone and leave masks as they are."""


def same(first, second):
    for name in ("scores", "windows", "patch_masks", "image"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


# --- which cells, and where they lie ---


@pytest.mark.parametrize("count", [1, 7, 40, 300])  # the last takes two batches of one scale
def test_the_mask_and_window_are_those_of_the_scored_cell(count):
    engine = CellEngine()
    octaves = (0.0, -1.0, 1.0)
    settings = {"num_proposals": count, "scales": octaves, "mask_threshold": 0.1}
    proposals = Proposer(engine, **settings, **PAPER)(PHOTO)
    # The best by score, ties to the earlier scale, row and column: in one list of everything.
    everything = [
        (-score, number, *cell)
        for number, scores in enumerate(engine.maps)
        for cell, score in np.ndenumerate(scores)
    ]
    expected = sorted(everything)[:count]
    assert len(proposals) == len(expected) == count
    numbers, rows, columns = proposals.patch_masks[:, [0, 10, 20], 0].astype(int).T - 100
    assert list(zip(numbers, rows, columns, strict=True)) == [e[1:] for e in expected]
    np.testing.assert_array_equal(proposals.scores, sigmoid(-np.float32([e[0] for e in expected])))
    assert proposals.scores.dtype == np.float32
    for number, row, column, window in zip(numbers, rows, columns, proposals.windows, strict=True):
        scaled = GEOMETRY.scaled_size((90, 131), octaves[number])
        factor = 90 / scaled[0], 131 / scaled[1]
        left, top = (16 * column - 16) * factor[1], (16 * row - 16) * factor[0]
        box = [left, top, left + 32 * factor[1], top + 32 * factor[0]]
        np.testing.assert_allclose(window, box)
    assert max(engine.batches) <= DECODE_BATCH
    assert (max(engine.batches) == DECODE_BATCH) == (count == 300)
    assert sum(engine.batches) == count  # nothing is decoded in vain


def test_more_proposals_than_cells_are_all_cells_once():
    engine = CellEngine()
    proposals = Proposer(engine, num_proposals=10**6, scales=[0, -0.5])(PHOTO)
    assert len(proposals) == sum(scores.size for scores in engine.maps)
    assert len(np.unique(proposals.windows, axis=0)) == len(proposals)


def test_selection_by_hand():
    maps = [np.array([[1.0, 5.0, 2.0]]), np.array([[5.0], [7.0], [2.0]])]
    numbers, cells, scores = Proposer(CellEngine()).select(maps, 5)
    assert numbers.tolist() == [1, 0, 1, 0, 1]
    assert cells.tolist() == [[1, 0], [0, 1], [0, 0], [0, 2], [2, 0]]
    assert scores.tolist() == [7, 5, 5, 2, 2]


@pytest.mark.parametrize(("top", "left"), [(40, 150), (0, 0), (111, 239), (57, 93)])
def test_a_planted_object_is_found_to_the_pixel(top, left):
    # At its canonical size, so that at scale 1 no pixel is resampled.
    photo, truth = photo_with_object(203, 331, top, left, 92)
    best = Proposer(TemplateEngine(), scales=[0.0], num_proposals=5)(photo)[:1]
    middle = (best.windows[0, :2] + best.windows[0, 2:]) / 2
    assert abs(middle - [left + 46, top + 46]).max() <= 8  # half a stride
    assert best.windows[0].tolist() == np.round(best.windows[0]).tolist()
    np.testing.assert_array_equal(next(best.masks()), truth)


@pytest.mark.parametrize("side", [46, 65, 130, 200])
def test_objects_of_other_sizes_are_found_at_their_scale(side):
    photo, truth = photo_with_object(283, 351, 33, 101, side)
    best = Proposer(TemplateEngine(), scales=[-1.5, -1, -0.5, 0, 0.5, 1], num_proposals=3)(photo)
    scale = 160 / (best.windows[0, 2] - best.windows[0, 0])
    assert abs(np.log2(scale * side / 92)) < 0.3  # nearest of half octaves
    assert iou(next(best.masks()), truth) > 0.95


def test_an_object_in_a_large_photo_is_masked_at_the_photos_own_size():
    photo, truth = photo_with_object(900, 1200, 260, 401, 370)
    engine = TemplateEngine()
    best = Proposer(engine, scales=[0.0], num_proposals=1, image_size=300)(photo)
    assert engine.sizes == [(400, 464)]  # 225 x 300 and 80 on each side, in whole strides
    mask = next(best.masks())
    assert mask.shape == (900, 1200)
    assert iou(mask, truth) > 0.95


# --- what the engine is given ---


def test_the_photo_lies_in_grey_borders_in_whole_strides():
    seen = []

    class Spy(CellEngine):
        def encode(self, image):
            seen.append(image)
            return super().encode(image)

    Proposer(Spy(), scales=[0.0, -1.0])(PHOTO)
    first, second = seen
    assert first.shape == (128, 176, 3)  # 90 + 32 and 131 + 32, rounded up to 16
    assert second.shape == (80, 112, 3)  # 45 and 66
    np.testing.assert_array_equal(first[16:106, 16:147], PHOTO)
    half = np.asarray(Image.fromarray(PHOTO).resize((66, 45), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(second[16:61, 16:82], half)
    for canvas, (height, width) in ((first, (90, 131)), (second, (45, 66))):
        outside = np.ones(canvas.shape[:2], bool)
        outside[16 : 16 + height, 16 : 16 + width] = False
        assert (canvas[outside] == 128).all()


@pytest.mark.parametrize(
    ("image_size", "seen"), [((640, 480), (640, 480)), ((1280, 300), (640, 150)), ((9, 640), None)]
)
def test_only_photos_that_are_too_large_are_reduced(image_size, seen):
    engine = CellEngine()
    levels = Proposer(engine, scales=[0.0, -1.0]).levels(np.zeros((*image_size, 3), np.uint8))
    height, width = seen or image_size
    sizes = [level.scaled_size for level in levels]
    assert sizes == [(height, width), ((height + 1) // 2, width // 2)]


# --- real networks ---


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (17, 16)], ids=str)
def test_tiny_photos(net, size):
    proposals = Proposer(net, device="cpu", num_proposals=20)(np.full((*size, 3), 200, np.uint8))
    assert 0 < len(proposals) <= 20
    assert all(mask.shape == size and mask.any() for mask in proposals.masks())


def test_two_runs_are_the_same_bit_for_bit(net):
    first, again = (Proposer(net, device="cpu", scales=[-1.0, -2.0])(PHOTO) for _ in range(2))
    same(first, again)
    assert len(first) > 10
    assert first.scores.tolist() == sorted(first.scores, reverse=True)


def test_the_models_masks_at_the_models_cells(net):
    """Scores and probabilities against the model itself, called without engine and proposer."""
    settings = {"scales": [0.0], "num_proposals": 6, "mask_threshold": 0.01, "device": "cpu"}
    proposals = Proposer(net, **settings, **PAPER)(PHOTO)
    canvas = np.full((256, 304, 3), 128, np.uint8)
    canvas[80:170, 80:211] = PHOTO
    with torch.inference_mode():
        net.eval()
        features = net.encode(torch.from_numpy(canvas).permute(2, 0, 1)[None].float())
        scores = net.score(features)[0]
        best = scores.flatten().argsort(descending=True, stable=True)[:6]
        cells = torch.stack([torch.zeros_like(best), best // 10, best % 10], dim=1)
        masks = net.decode(features, cells).sigmoid()
    assert scores.shape == (7, 10)
    np.testing.assert_allclose(proposals.scores, scores.flatten()[best].sigmoid(), rtol=1e-5)
    assert np.abs(proposals.patch_masks - 255 * masks.numpy()).max() < 0.51
    np.testing.assert_allclose(proposals.windows[:, :2], 16 * cells[:, [2, 1]].numpy() - 80)


def test_a_path_a_picture_and_an_array_are_one_photo(net, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    proposer = Proposer(net, device="cpu", scales=[-1.0], num_proposals=5)
    expected = proposer(PHOTO)
    for source in (path, str(path), Image.fromarray(PHOTO), PHOTO[::-1].copy()[::-1]):
        same(proposer(source), expected)
    np.testing.assert_array_equal(expected.image, PHOTO)


@pytest.mark.reliability("photos with an orientation: the proposals of the turned pixels")
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.swapaxes(0, 1)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.rot90(stored, 2).swapaxes(0, 1)),
        (8, lambda stored: np.rot90(stored, 1)),
    ],
)
def test_a_photo_with_an_orientation_is_its_turned_pixels(net, tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PHOTO).save(tmp_path / "turned.png", exif=exif)
    proposer = Proposer(net, device="cpu", scales=[-2.0], num_proposals=5)
    same(proposer(tmp_path / "turned.png"), proposer(np.ascontiguousarray(upright(PHOTO))))


def test_pictures_that_cannot_be_read_are_refused(net, tmp_path):
    proposer = Proposer(net, device="cpu")
    with pytest.raises(ImageError, match="no such file"):
        proposer(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="expected uint8"):
        proposer(np.zeros((5, 5)))


# --- ranking ---


def slow_quality(mask, threshold):
    inside = [value for value in mask.ravel().tolist() if value > 255 * threshold]
    return sum(inside) / len(inside) / 255 if inside else 0.0


@pytest.mark.parametrize("threshold", [0.1, 0.35, 0.5])
def test_quality_is_the_mean_probability_inside(threshold):
    masks = RNG.integers(0, 256, (4, 9, 9), dtype=np.uint8)
    masks[1] = 0
    masks[2] = 255
    masks[3] = int(255 * threshold)  # not above the threshold
    expected = [slow_quality(mask, threshold) for mask in masks]
    np.testing.assert_allclose(mask_quality(masks, threshold), expected, rtol=1e-6)
    assert expected[1:] == [0, 1, 0]


class DoubtfulEngine(CellEngine):
    """Masks of different certainty, shape and place, so that ranks change and some repeat."""

    def decode(self, number, cells):
        self.batches.append(len(cells))
        logits = np.full((len(cells), 32, 32), -4.0)
        for mask, (_, row, column) in zip(logits, cells, strict=True):
            reach = 12 + (row * 5 + column * 3) % 17
            mask[:reach, : 40 - reach] = ((row * 7 + column * 11) % 8) / 2
        return logits


class SpeckledEngine(CellEngine):
    """Masks of many pieces with holes."""

    def decode(self, number, cells):
        return np.random.default_rng(number).normal(1, 2, (len(cells), 32, 32))


@pytest.mark.parametrize("settings", [{}, {"suppression": 1.0}, {"quality_exponent": 0.0}])
def test_masks_are_one_piece_without_holes_unless_that_is_not_wanted(settings):
    settings = {"scales": [0.0, -0.5], "num_proposals": 30, **settings}
    proposals = Proposer(SpeckledEngine(), **settings)(PHOTO)
    assert len(proposals) == 30
    for mask in proposals.masks():
        assert ndimage.label(mask)[1] == 1
        np.testing.assert_array_equal(ndimage.binary_fill_holes(mask), mask)
    as_they_are = Proposer(SpeckledEngine(), clean=False, **settings)(PHOTO)
    assert any(ndimage.label(mask)[1] > 1 for mask in as_they_are.masks())


@pytest.mark.parametrize(
    ("suppression", "exponent"), [(0.3, 1.0), (0.6, 0.0), (0.6, 2.0), (1.0, 1.0)]
)
def test_ranks_by_score_and_quality_and_repeats_last(suppression, exponent):
    base = {"scales": [0.0, -0.5], "num_proposals": 1000}  # all cells
    plain = Proposer(DoubtfulEngine(), **base, **PAPER)(PHOTO)
    settings = {"quality_exponent": exponent, "suppression": suppression, "clean": False}
    ranked = Proposer(DoubtfulEngine(), **base, **settings)(PHOTO)
    scores = [
        score * slow_quality(mask, 0.35) ** exponent
        for score, mask in zip(plain.scores.tolist(), plain.patch_masks, strict=True)
    ]
    order = sorted(range(len(plain)), key=lambda k: (-np.float32(scores[k]).round(6), k))
    masks = list(plain.masks())
    kept, repeats = [], []
    for k in order:
        repeated = any(iou(masks[k], masks[better]) > suppression for better in kept)
        (repeats if repeated else kept).append(k)
    lowest = scores[kept[-1]]
    expected = [scores[k] for k in kept] + [scores[k] * lowest for k in repeats]
    np.testing.assert_allclose(ranked.scores, expected, rtol=1e-5)
    np.testing.assert_array_equal(ranked.windows, plain.windows[kept + repeats])
    np.testing.assert_array_equal(ranked.patch_masks, plain.patch_masks[kept + repeats])
    assert ranked.rles() == plain[np.array(kept + repeats)].rles()
    assert (np.diff(ranked.scores) <= 0).all()
    assert ranked.scores.dtype == np.float32
    assert (order != sorted(order)) == (exponent > 0)
    assert bool(repeats) == (suppression < 1)


@pytest.mark.parametrize(
    ("settings", "decoded"),
    [(PAPER, 3), ({"suppression": 1.0}, 80), ({"quality_exponent": 0.0}, 80), ({}, 80)],
    ids=str,
)
def test_ranking_anew_needs_more_candidates(settings, decoded):
    settings = settings | {"num_candidates": 80}
    engine = CellEngine()
    proposals = Proposer(engine, num_proposals=3, scales=[0.0, -0.5], **settings)(PHOTO)
    assert len(proposals) == 3
    assert sum(engine.batches) == decoded


@pytest.mark.parametrize("nearness", [(1, 1), (2, 2), (3, 1)])
def test_cells_near_a_better_one_come_last(nearness):
    rng = np.random.default_rng(0)
    places = np.array([(m, r, c) for m in range(2) for r in range(6) for c in range(7)])
    numbers, *cells = rng.permutation(places)[:60].T
    cells = np.stack(cells, axis=1)
    kept = []
    for k in range(60):
        better = [other for other in kept if numbers[other] == numbers[k]]
        if all(np.abs(cells[k] - cells[other]).sum() > nearness[numbers[k]] for other in better):
            kept.append(k)
    beside = sorted({*range(60)} - {*kept})
    assert 5 < len(kept) < 55
    for count in (1, len(kept), len(kept) + 3, 60, 100):
        found = apart_first(numbers, cells, nearness, count)
        assert found.tolist() == (kept + beside)[:count]
    assert apart_first(numbers[:0], cells[:0], nearness, 5).tolist() == []


def test_few_candidates_are_spread_over_the_photo():
    spread, crowded = (
        Proposer(CellEngine(), num_proposals=25, num_candidates=25, scales=[0.0], **settings)(PHOTO)
        for settings in ({}, PAPER)
    )
    steps = spread.windows[:, None, :2] - spread.windows[None, :, :2]
    assert 16 not in np.abs(steps).sum(axis=2)  # nowhere a single stride
    steps = crowded.windows[:, None, :2] - crowded.windows[None, :, :2]
    assert 16 in np.abs(steps).sum(axis=2)


def test_nothing_to_rank():
    nothing = Proposer(CellEngine(), scales=[0.0])
    nothing.engine.decode = lambda features, cells: np.full((len(cells), 32, 32), -5.0)
    assert len(nothing(PHOTO)) == 0


# --- settings ---


def test_masks_that_are_empty_are_no_proposals():
    class Blank(CellEngine):
        def decode(self, number, cells):
            return np.where(cells[:, 1:2, None] % 2, 5.0, -5.0) * np.ones((1, 32, 32))

    engine = Blank()
    proposals = Proposer(engine, num_proposals=10**6, scales=[0.0])(PHOTO)
    assert len(proposals) == engine.maps[0][1::2].size
    assert (proposals.areas > 0).all()


def test_the_mask_threshold_is_that_of_the_masks():
    loose, strict = (
        Proposer(CellEngine(), scales=[0.0], mask_threshold=threshold)(PHOTO)
        for threshold in (0.2, 0.41)  # codes are 100 and more of 255: .39
    )
    assert loose.mask_threshold == 0.2
    assert loose.areas.sum() > strict.areas.sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_proposals": 0}, "num_proposals: expected at least 1, got 0"),
        ({"mask_threshold": 0.0}, r"mask_threshold: expected .* between 0 and 1, got 0\.0"),
        ({"mask_threshold": 1.2}, "mask_threshold"),
        ({"mask_threshold": float("nan")}, "mask_threshold"),
        ({"suppression": 1.5}, r"suppression: expected .*, got 1\.5"),
        ({"suppression": 0.0}, "suppression"),
        ({"quality_exponent": -1.0}, "quality_exponent: expected 0 or more, got -1.0"),
        ({"quality_exponent": float("nan")}, "quality_exponent"),
        ({"quality_exponent": float("inf")}, "quality_exponent"),
        ({"image_size": 3}, "image_size: expected at least 32 pixels, got 3"),
        ({"scales": "large"}, "expected one of default, zoom, zoom2"),
        ({"scales": []}, "at least one octave"),
        ({"device": "abacus"}, "expected auto, cpu or cuda, got 'abacus'"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(net, settings, message):
    with pytest.raises(ValueError, match=message):
        Proposer(net, **settings)


def test_sigmoid():
    assert sigmoid(np.array([0.0])) == 0.5
    assert sigmoid(np.array([-1e9, 1e9])).round(9).tolist() == [0, 1]  # and no overflow warning
    assert sigmoid(np.array([np.log(3)])) == pytest.approx(0.75)


# --- many photos ---


def test_map_gives_each_photo_its_proposals_or_its_error_in_order(net, tmp_path):
    photos = [RNG.integers(0, 256, (30 + k, 40, 3), dtype=np.uint8) for k in range(9)]
    missing = tmp_path / "none.png"
    given = [*photos[:4], missing, *photos[4:]]
    proposer = Proposer(net, device="cpu", scales=[-1.0], num_proposals=5)
    results = list(proposer.map(iter(given)))
    assert all(one is other for (one, _), other in zip(results, given, strict=True))
    (_, error) = results.pop(4)
    assert isinstance(error, ImageError)
    assert "none.png: no such file" in str(error)
    for photo, found in results:
        same(found, proposer(photo))


@pytest.mark.parametrize("kind", [str, Path])
def test_map_of_one_path_is_refused(kind):
    """Of a text it would read the letters."""
    with pytest.raises(ValueError, match=r"photos: expected several, such as \['photos/a.png'\]"):
        Proposer(CellEngine(), scales=[0.0]).map(kind("photos/a.png"))


def test_map_takes_photos_only_a_few_ahead():
    taken = []

    def photos():
        for number in range(100):
            taken.append(number)
            yield np.zeros((20, 20, 3), np.uint8)

    found = Proposer(CellEngine(), scales=[0.0]).map(photos())
    next(found)
    found.close()
    assert len(taken) <= 8


def test_an_error_that_is_not_a_photos_ends_the_map():
    class Broken(CellEngine):
        def decode(self, features, cells):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(Proposer(Broken()).map([PHOTO]))


def test_threads_may_share_a_proposer(net):
    proposer = Proposer(net, device="cpu", scales=[-1.0], num_proposals=5)
    expected = proposer(PHOTO)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: proposer(PHOTO), range(12)):
            same(found, expected)


# --- what runs, and how ---


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    deepmask = {"model": "deepmask", "backbone": "resnet18", "width": 8, "vector": 16}
    model = build(deepmask | {"bottleneck_channels": 8, "score_channels": 16})
    path = tmp_path_factory.mktemp("weights") / "thin.safetensors"
    save(model, path)
    return model, path


def test_a_file_a_model_and_an_engine_propose_alike(saved):
    model, path = saved
    settings = {"scales": [-1.0], "num_proposals": 5}
    engine = TorchEngine(model, torch.device("cpu"))
    expected = Proposer(engine, **settings)(PHOTO)
    same(Proposer(model, device="cpu", **settings)(PHOTO), expected)
    for source in (path, str(path)):
        proposer = Proposer(source, engine="torch", device="cpu", **settings)
        assert proposer.engine.name == "torch"
        same(proposer(PHOTO), expected)


def test_nothing_given_is_the_default_model():
    proposer = Proposer(engine="torch", device="cpu")
    assert proposer.engine.geometry == sharpmask.load(defaults.MODEL).geometry
    with pytest.raises(WeightsError, match="no such weights"):
        Proposer("sharpmask-of-nobody")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_proposals": 0}, "num_proposals: expected at least 1, got 0"),
        ({"num_candidates": -5}, "num_candidates: expected at least 1, got -5"),
        ({"num_candidates": 1.5}, "num_candidates: expected at least 1, got 1.5"),
        ({"scales": [float("nan")]}, "scales: expected octaves between -10 and 10, got nan"),
        ({"scales": []}, "scales: expected at least one octave"),
        ({"mask_threshold": float("nan")}, "mask_threshold: expected a number between 0 and 1"),
        ({"suppression": float("nan")}, "suppression: expected a number between 0 and 1"),
        ({"quality_exponent": float("nan")}, "quality_exponent: expected 0 or more"),
        ({"image_size": float("nan")}, "image_size: expected at least 32 pixels"),
        ({"image_size": 31}, "image_size: expected at least 32 pixels, got 31"),
    ],
    ids=str,
)
def test_settings_that_are_no_sound_numbers_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Proposer(CellEngine(), **setting)


def test_scales_that_would_fill_the_memory_are_refused():
    with pytest.raises(ImageError, match=r"enlarged by --scales=10: .* more than the 200,000,000"):
        Proposer(CellEngine(), scales=[0, 10])(PHOTO)


def test_counts_of_numpy_are_counts():
    proposer = Proposer(CellEngine(), num_proposals=np.int64(3), num_candidates=np.uint8(4))
    assert len(proposer(PHOTO)) == 3


def test_python_and_the_command_have_the_same_defaults():
    python = signature(Proposer).parameters
    for name, parameter in signature(propose).parameters.items():
        if name in python and name != "device":
            assert parameter.default == python[name].default, name
    assert signature(propose).parameters["weights"].default == python["source"].default
    assert python["num_proposals"].default == 100
