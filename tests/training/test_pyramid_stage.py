import json
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from sharpmask.coco.annotations import load_coco
from sharpmask.data.level_scenes import LevelSceneBatch
from sharpmask.models.pretrained import load
from sharpmask.models.pyramid import build_pyramid
from sharpmask.training import pyramid_stage
from sharpmask.training.pyramid_stage import (
    dice_loss,
    fit_pyramid,
    level_scene_loss,
    pyramid,
    soft_ious,
)
from tolerances import SINGLE

SIDES = (8, 4, 2, 1)


def batch(seed=0):
    """Two images of 64 px: windows on three levels; some cells are neither."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.tensor([[0, 0, 3, 5], [1, 1, 2, 0], [1, 3, 0, 0], [0, 0, 0, 1]])
    labels = tuple(torch.randint(-1, 1, (2, n, n), generator=generator).float() for n in SIDES)
    for image, level, row, column in cells.tolist():
        labels[level][image, row, column] = 1
    masks = torch.randint(0, 256, (4, 81, 81), generator=generator).to(torch.uint8)
    return LevelSceneBatch(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), labels, cells, masks)


def logits(seed=1):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(4, 81, 81, generator=generator)
    scores = [torch.randn(2, n, n, generator=generator) for n in SIDES]
    return masks.requires_grad_(), [score.requires_grad_() for score in scores]


def test_the_loss_is_the_sum_over_windows_and_cells():
    targets, (masks, scores) = batch(), logits()
    pixel = dice = score = 0.0
    quality = {}
    for cell, mask, target in zip(targets.cells.tolist(), masks, targets.masks, strict=True):
        p, t = mask.sigmoid(), target.float() / 255
        pixel += -(t * p.log() + (1 - t) * (1 - p).log()).sum() / 81**2
        dice += 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
        mine, theirs = p > 0.5, t > 0.5
        quality[tuple(cell)] = float((mine & theirs).sum() / (mine | theirs).sum())
    for level, (values, labels) in enumerate(zip(scores, targets.labels, strict=True)):
        for index in (labels != 0).nonzero().tolist():
            p = values[tuple(index)].sigmoid()
            q = quality.get((index[0], level, *index[1:]), 0.0)
            entropy = -(q * p.log() + (1 - q) * (1 - p).log())
            score += entropy * (p - q) ** 2
    terms = level_scene_loss(masks, scores, targets, score_weight=0.7)
    expected = {"mask_loss": pixel / 4, "dice_loss": dice / 4, "score_loss": 0.7 * score / 4}
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name], **SINGLE)


def test_doubtful_cells_and_other_images_get_no_gradient():
    targets, (masks, scores) = batch(), logits()
    sum(level_scene_loss(masks, scores, targets, score_weight=1.0).values()).backward()
    for score, labels in zip(scores, targets.labels, strict=True):
        assert ((score.grad == 0) == (labels == 0)).all()


def test_scenes_without_objects_teach_that_they_are_background():
    targets = batch()
    nothing = targets._replace(
        cells=targets.cells[:0], masks=targets.masks[:0],
        labels=tuple(labels.clamp(max=0) for labels in targets.labels),
    )  # fmt: skip
    masks, scores = logits()
    terms = level_scene_loss(masks[:0], scores, nothing, score_weight=1.0)
    assert terms["mask_loss"] == terms["dice_loss"] == 0
    assert terms["score_loss"] > 0


def test_dice_of_a_perfect_mask_is_nothing_whatever_its_size():
    targets = torch.zeros(2, 81, 81)
    targets[0, 40:44, 40:44] = 1
    targets[1, 5:75, 5:75] = 1
    assert (dice_loss(60 * targets - 30, targets) < 1e-6).all()
    assert (dice_loss(-60 * targets + 30, targets) > 0.9).all()


def test_ious_count_samples_that_are_half_covered():
    masks = torch.tensor([[[0, 127, 128, 255]]], dtype=torch.uint8)
    assert soft_ious(torch.tensor([[[-1.0, 1, 1, -1]]]), masks).item() == pytest.approx(1 / 3)


RECIPE = replace(
    pyramid(), steps=4, batch_size=2, scene_size=128, validate_every=2, warmup_steps=2, seed=3
)


def train(coco_folder, output, recipe=RECIPE):
    torch.manual_seed(0)
    model = build_pyramid(
        width=4, channels=12, vector=8, block_channels=4, mask_channels=[6, 5, 4, 3],
        lateral_hidden=[4, 4, 4, 4, 4],
    )  # fmt: skip
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    data = load_coco(coco_folder.train, coco_folder.images)
    fit_pyramid(
        model, data=data, recipe=recipe, output=output, fabric=fabric, workers=0,
        known={"kept_back": ["a.jpg"]},
    )  # fmt: skip
    return model


@pytest.fixture(scope="module")
def trained(coco_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("pyramid")
    return train(coco_folder, output), output


def test_training_writes_a_model_that_knows_its_data(trained):
    model, output = trained
    loaded = load(output / "model.safetensors")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert loaded.metadata["kept_back"] == ["a.jpg"]
    assert loaded.metadata["recipe"]["steps"] == 4
    assert loaded.metadata["steps"] == {"done": 4, "of": 4}
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert {"mask_loss", "dice_loss", "score_loss"} <= lines[-1].keys()


def test_the_first_layers_stay_as_they_are_and_the_others_learn(trained):
    model, _ = trained
    torch.manual_seed(0)
    before = build_pyramid(**{k: v for k, v in model.architecture.items() if k != "model"})
    same = {
        name
        for name, value in before.state_dict().items()
        if torch.equal(value, model.state_dict()[name])
    }
    frozen = ("backbone.backbone.stem", "backbone.backbone.dark2")
    # Nothing but windows of the coarsest level reads laterals of stride 32: four steps saw none.
    assert {name for name in same if not name.startswith("laterals.4")} == {
        name for name in before.state_dict() if name.startswith(frozen)
    }


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(trained, coco_folder, tmp_path):
    _, whole = trained
    terms = [level_scene_loss, level_scene_loss, interrupted]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pyramid_stage, "level_scene_loss", lambda *args, **kws: terms.pop(0)(*args, **kws)
        )
        with pytest.raises(KeyboardInterrupt):
            train(coco_folder, tmp_path)
    train(coco_folder, tmp_path)
    first, second = (load_file(folder / "checkpoint.safetensors") for folder in (whole, tmp_path))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def interrupted(*_, **__):
    raise KeyboardInterrupt
