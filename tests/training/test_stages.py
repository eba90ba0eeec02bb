import dataclasses
import itertools
import json
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from safetensors.torch import load_file

from sharpmask.coco.annotations import load_coco
from sharpmask.data import sampling, scenes
from sharpmask.geometry import PatchGeometry
from sharpmask.masks import decode
from sharpmask.models.backbones import BasicBlock, ResNet
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.pretrained import read_metadata
from sharpmask.models.sharpmask import SharpMask
from sharpmask.training import recipes, stages
from sharpmask.training.losses import patch_loss
from sharpmask.training.patch_metrics import measure_patches
from sharpmask.training.stages import train_stage, validation_patches, validator

SMALL = PatchGeometry(patch_size=32, context=16, object_size=18, coarse_size=14)
ONE = dataclasses.replace(
    recipes.patches_deepmask(), steps=30, batch_size=12, learning_rate=1e-2,
    backbone_learning_rate=1e-2, warmup_steps=5, ema_decay=0.8, epoch_steps=15,
    validate_every=15, colour_jitter=0.1, score_weight=1.0,
)  # fmt: skip
TWO = dataclasses.replace(
    recipes.patches_sharpmask(), steps=16, batch_size=6, learning_rate=5e-3, warmup_steps=2,
    ema_decay=0.5, validate_every=16,
)  # fmt: skip


def thin_deepmask(seed=0):
    torch.manual_seed(seed)
    backbone = ResNet(BasicBlock, (1, 1, 1), width=8)
    model = DeepMask(backbone, geometry=SMALL, bottleneck_channels=8, vector=16)
    model.architecture = {"model": "thin"}
    return model


def thin_sharpmask(seed=0):
    # Halving would end in a single channel, which a ReLU can close for good.
    model = SharpMask(thin_deepmask(seed), mask_channels=6, skip_channels=6, schedule="constant")
    model.architecture = {"model": "thin"}
    return model


def copy_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module", autouse=True)
def small_distances():
    """The paper's distances are pixels of a patch of 160; here a patch has 32."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAX_SHIFT", "NEGATIVE_SHIFT"):
            patch.setattr(sampling, name, getattr(sampling, name) / 5)
            # The cells of a scene are as far apart as ever.
            patch.setattr(scenes, name, getattr(sampling, name) * 3)
        yield


@pytest.fixture(scope="module")
def fabric():
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


@pytest.fixture(scope="module")
def data(coco_folder):
    return load_coco(coco_folder.train, coco_folder.images)


@pytest.fixture(scope="module")
def val(coco_folder):
    return load_coco(coco_folder.val, coco_folder.images)


def run(model, folder, data, fabric, *, recipe, val=None, workers=0):
    return train_stage(
        model, data=data, validation=val, recipe=recipe, output=folder, fabric=fabric,
        workers=workers,
    )  # fmt: skip


@torch.no_grad()
def loss_on(model, data):
    model.eval()
    batches = validation_patches(data, SMALL, None)
    return [
        sum(term.item() for term in terms) / len(batches)
        for terms in zip(
            *(patch_loss(*model(b.windows), b, score_weight=1.0) for b in batches), strict=True
        )
    ]


# --- stage one ---


@pytest.fixture(scope="module")
def first(tmp_path_factory, data, val, fabric):
    """A thin stage one: folder, model, its tensors before, figures."""
    folder, model = tmp_path_factory.mktemp("first"), thin_deepmask()
    before = copy_of(model)
    return folder, model, before, run(model, folder, data, fabric, recipe=ONE, val=val)


def test_stage_one_learns_masks_and_scores(first, data):
    untrained, trained = loss_on(thin_deepmask(), data), loss_on(first[1], data)
    assert trained[0] < untrained[0] / 2
    assert trained[1] < untrained[1] / 2
    assert first[3]["mean_iou"] > 0.5
    assert first[3]["score_auc"] > 0.8


def test_the_first_layers_stay_as_they_are(first):
    _, model, before, _ = first
    for key, value in model.state_dict().items():
        frozen = key.startswith(("backbone.conv1.", "backbone.layer1."))
        assert torch.equal(value, before[key]) is frozen, key


def test_without_frozen_layers_all_are_trained(tmp_path, data, fabric):
    model = thin_deepmask()
    before = copy_of(model)
    recipe = dataclasses.replace(ONE, steps=3, validate_every=3, frozen_stride=0, ema_decay=0.0)
    run(model, tmp_path, data, fabric, recipe=recipe)
    same = [key for key, value in model.state_dict().items() if torch.equal(value, before[key])]
    assert same == []


def test_the_model_file_holds_what_was_trained_and_measured(first, data, val, fabric):
    folder, model, _, figures = first
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in saved.items())
    assert figures == validator(val, SMALL, None, fabric)(model)
    assert read_metadata(folder / "model.safetensors") == {
        "architecture": {"model": "thin"},
        "recipe": dataclasses.asdict(ONE),
        "data": {"photos": 9, "objects": sum(len(image.instances) for image in data.images)},
        "steps": {"done": 30, "of": 30},
        "validation": figures,
    }


def test_the_log_holds_both_losses_and_the_figures(first):
    folder, _, _, figures = first
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [15, 20, 30, 30]
    assert {"mask_loss", "score_loss"} < lines[1].keys()
    assert lines[3] == {"step": 30} | {f"val_{name}": v for name, v in figures.items()}
    assert figures.keys() == {
        "mean_iou", "median_iou", "iou_50", "iou_70", "score_auc", "patches",
    }  # fmt: skip


def test_a_stage_that_is_interrupted_goes_on_bit_for_bit(tmp_path, data, fabric, monkeypatch):
    recipe = dataclasses.replace(ONE, steps=6, validate_every=4)
    whole, parts = thin_deepmask(), thin_deepmask(seed=5)
    run(whole, tmp_path / "whole", data, fabric, recipe=recipe)
    calls = itertools.count(1)

    def interrupted_loss(*arguments, **options):
        if next(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return patch_loss(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "patch_loss", interrupted_loss)
        with pytest.raises(KeyboardInterrupt, match="3 of 6 steps"):
            run(thin_deepmask(), tmp_path / "parts", data, fabric, recipe=recipe)
    run(parts, tmp_path / "parts", data, fabric, recipe=recipe)
    for key, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[key], value), key


def test_half_precision(tmp_path, data, val):
    half = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    half.launch()
    recipe = dataclasses.replace(ONE, steps=2, validate_every=2)
    model = thin_deepmask()
    figures = run(model, tmp_path, data, half, recipe=recipe, val=val)
    assert all(np.isfinite(value) for value in figures.values())
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


# --- stage two ---


@pytest.fixture(scope="module")
def second(tmp_path_factory, data, val, fabric):
    """A thin stage two."""
    folder, model = tmp_path_factory.mktemp("second"), thin_sharpmask()
    before = copy_of(model)
    return folder, model, before, run(model, folder, data, fabric, recipe=TWO, val=val)


def test_stage_two_leaves_stage_one_alone_and_trains_all_else(second):
    _, model, before, _ = second
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) is key.startswith("deepmask."), key


def test_stage_two_learns_masks_only(second, data):
    folder, model, _, _ = second
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert "mask_loss" in lines[0]
    assert "score_loss" not in lines[0]
    assert loss_on(model, data)[0] < 0.9 * loss_on(thin_sharpmask(), data)[0]


def test_a_sharpmask_is_measured_beside_its_own_deepmask(second, val):
    _, model, _, figures = second
    batches = [(b.windows, b.masks, b.labels) for b in validation_patches(val, SMALL, None)]
    own = measure_patches(model, batches).to_dict()
    coarse = measure_patches(model.deepmask, batches).to_dict()
    gain = {"gain": own["mean_iou"] - coarse["mean_iou"]}
    assert figures == own | gain | {f"deepmask_{name}": v for name, v in coarse.items()}
    assert figures["mean_iou"] != figures["deepmask_mean_iou"]
    assert figures["score_auc"] == figures["deepmask_score_auc"]


# --- dense training ---

DENSE = dataclasses.replace(
    ONE, steps=72, batches="scenes", batch_size=4, scene_size=64, scene_windows=6, copy_paste=0.5
)


def test_stage_one_learns_from_scenes(tmp_path, data, val, fabric):
    model, untrained = thin_deepmask(), loss_on(thin_deepmask(), data)
    figures = run(model, tmp_path, data, fabric, recipe=DENSE, val=val)
    assert loss_on(model, data)[0] < untrained[0] / 2
    assert figures["mean_iou"] > 0.3
    assert figures["score_auc"] > 0.7


def test_stage_two_learns_from_scenes(tmp_path, data, fabric):
    recipe = dataclasses.replace(
        DENSE, steps=16, validate_every=16, learning_rate=5e-3, score_weight=0.0
    )
    model = thin_sharpmask()
    before = copy_of(model)
    run(model, tmp_path, data, fabric, recipe=recipe)
    assert loss_on(model, data)[0] < 0.9 * loss_on(thin_sharpmask(), data)[0]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) is key.startswith("deepmask."), key


# Forking while TensorBoard's thread writes: newer Pythons warn.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("recipe", [ONE, DENSE], ids=["patches", "scenes"])
def test_workers_change_nothing(tmp_path, data, fabric, recipe):
    short = dataclasses.replace(recipe, steps=3, validate_every=3)
    ends = []
    for workers in (0, 2):
        np.random.seed(workers)  # noqa: NPY002 - what was random before must not matter
        model = thin_deepmask()
        run(model, tmp_path / str(workers), data, fabric, recipe=short, workers=workers)
        ends.append(model.state_dict())
    for key, value in ends[0].items():
        assert all(torch.equal(end[key], value) for end in ends[1:]), key


# --- validation ---


def test_validation_patches_are_the_canonical_ones(val):
    batches = validation_patches(val, SMALL, None, batch_size=4)
    assert [len(b.labels) for b in batches[:-1]] == [4] * (len(batches) - 1)
    labels = torch.cat([b.labels for b in batches])
    windows, masks = (torch.cat([getattr(b, n) for b in batches]) for n in ("windows", "masks"))
    objects = [(image, i) for image in val.images for i in image.instances]
    assert labels.tolist() == [1, -1] * len(objects)
    assert not masks[1::2].any()
    for (image, instance), window, mask in zip(objects, windows[::2], masks[::2], strict=True):
        # By Pillow's own affine reading of the whole photo, the object in the middle.
        left, top, right, bottom = instance.box
        step = max(right - left, bottom - top) / 18
        x, y = (left + right) / 2 - 32 * step, (top + bottom) / 2 - 32 * step
        photo = Image.open(image.path).convert("RGB")
        grid = (np.arange(64) + 0.5) * step
        rows, columns = np.floor(y + grid).astype(int), np.floor(x + grid).astype(int)
        inside = np.ix_(
            (rows >= step) & (rows < image.size[0] - step),
            (columns >= step) & (columns < image.size[1] - step),
        )
        rows, columns = rows.clip(0, image.size[0] - 1), columns.clip(0, image.size[1] - 1)
        nearest = np.asarray(photo)[np.ix_(rows, columns)].astype(float)
        seen = window.permute(1, 2, 0).numpy().astype(float)
        # Resampling smooths noise and edges; a shift by a pixel would cost far more.
        assert np.abs(seen - nearest)[inside].mean() < 14
        target = decode(instance.rle)[np.ix_(rows, columns)][16:48, 16:48]
        assert (mask.numpy() != target).mean() < 0.06


def test_validation_takes_objects_from_all_photos(data):
    batches = validation_patches(data, SMALL, 4)
    assert sum(len(b.labels) for b in batches) == 8
    count = sum(len(image.instances) for image in data.images)
    everything = validation_patches(data, SMALL, None)
    assert sum(len(b.labels) for b in everything) == 2 * count
    few, all_windows = (torch.cat([b.windows for b in x])[::2] for x in (batches, everything))
    found = [
        next(k for k, window in enumerate(all_windows) if torch.equal(window, one)) for one in few
    ]
    assert found == [0, (count - 1) // 3, 2 * (count - 1) // 3, count - 1]
    again = validation_patches(data, SMALL, 4)
    assert all(torch.equal(a.windows, b.windows) for a, b in zip(batches, again, strict=True))


def test_bad_validation_data_is_found_before_training(tmp_path, data, val, fabric):
    partly = tuple(dataclasses.replace(image, complete=False) for image in val.images)
    for images, message in ((partly, "complete"), ((), "no object")):
        bad = dataclasses.replace(val, images=images, skipped=Counter())
        with pytest.raises(ValueError, match=message):
            run(thin_deepmask(), tmp_path, data, fabric, recipe=ONE, val=bad)
    assert list(tmp_path.iterdir()) == []


def test_validation_is_optional(tmp_path, data, fabric):
    recipe = dataclasses.replace(TWO, steps=2)
    assert run(thin_sharpmask(), tmp_path, data, fabric, recipe=recipe) == {}
    assert read_metadata(tmp_path / "model.safetensors")["validation"] == {}
