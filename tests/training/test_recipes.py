import dataclasses
import math

import pytest

from sharpmask.training.recipes import RECIPES, Recipe, change, deepmask, paper_deepmask


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete(name):
    recipe = RECIPES[name]()
    assert isinstance(recipe, Recipe)
    assert recipe == RECIPES[name]()
    assert 0 < recipe.factor(0) <= 1
    assert all(0 <= recipe.factor(step) <= 1 for step in range(0, recipe.steps, recipe.steps // 97))
    # Thirds or halves come out even, also on two devices.
    assert recipe.batch_size % {"joint": 6, "scenes": 2}.get(recipe.batches, 4) == 0
    is_mask_stage = name.endswith("sharpmask")
    is_dense = "-" not in name
    assert (recipe.batches == "scenes") is is_dense
    assert (recipe.batches == "masks") is (is_mask_stage and not is_dense)
    assert (recipe.score_weight == 0) is is_mask_stage
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.steps = 1


def test_the_papers_numbers():
    """SharpMask, section 5, in means over the batch of 32 instead of sums."""
    recipe = paper_deepmask()
    assert recipe.learning_rate / recipe.batch_size == 1e-3
    assert recipe.score_weight == 1 / 32
    assert recipe.weight_decay == 5e-5
    assert recipe.batches == "alternating"
    assert recipe.optimizer == "sgd"


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1.0),
        (50 * 4000 - 1, 1.0),  # the last batch of epoch 50
        (50 * 4000, 0.5),
        (120 * 4000 - 1, 0.5),
        (120 * 4000, 0.1),
        (599_999, 0.1),
    ],
)
def test_the_papers_schedule(step, factor):
    assert paper_deepmask().factor(step) == factor


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.1),
        (4, 0.5 * 0.5 * (1 + math.cos(math.pi * 0.04))),
        (9, 0.5 * (1 + math.cos(math.pi * 0.09))),
        (25, 0.5 + math.sqrt(0.5) / 2),
        (50, 0.5),
        (75, 0.5 - math.sqrt(0.5) / 2),
        (99, 0.5 * (1 - math.cos(math.pi * 0.01))),
        (100, 0.0),
    ],
)
def test_the_cosine_schedule(step, factor):
    recipe = dataclasses.replace(deepmask(), steps=100, warmup_steps=10)
    assert recipe.factor(step) == pytest.approx(factor, abs=1e-12)


def test_without_warmup_the_cosine_begins_at_one():
    assert dataclasses.replace(deepmask(), warmup_steps=0).factor(0) == 1


def test_change():
    changed = change(
        deepmask(),
        ["steps=7", "learning_rate=2.5e-3", "optimizer=sgd", "batches=alternating", "steps=8"],
    )
    assert changed == dataclasses.replace(
        deepmask(), steps=8, learning_rate=0.0025, optimizer="sgd", batches="alternating"
    )
    assert isinstance(changed.steps, int)
    assert change(deepmask(), []) == deepmask()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("step=7", "--set step=7: unknown key 'step'; did you mean 'steps'?"),
        ("learning-rate=1", "did you mean 'learning_rate'?"),
        ("xyz=1", "unknown key 'xyz'; known keys: steps, batch_size,"),
        ("steps", "--set steps: expected key=value"),
        ("", "--set : expected key=value"),
        ("factor=1", "unknown key 'factor'"),
        ("steps=many", "--set steps=many: 'many' is not of type int"),
        ("steps=1.5", "'1.5' is not of type int"),
        ("learning_rate=fast", "'fast' is not of type float"),
        ("optimizer=adam", "--set optimizer=adam: expected one of adamw, sgd"),
        ("batches=", "expected one of joint, alternating, masks, scenes"),
        ("steps=0", "steps: expected at least 1, got 0"),
        ("batch_size=-3", "batch_size: expected at least 1, got -3"),
        ("validate_every=0", "validate_every: expected at least 1, got 0"),
        ("learning_rate=-1e-3", "learning_rate: expected 0 or a positive number, got -0.001"),
        ("learning_rate=nan", "learning_rate: expected 0 or a positive number, got nan"),
        ("clip_norm=inf", "clip_norm: expected 0 or a positive number, got inf"),
        ("seed=-1", "seed: expected 0 or a positive number, got -1"),
        ("ema_decay=1.5", "ema_decay: expected at most 1, got 1.5"),
        ("colour_jitter=2", "colour_jitter: expected at most 1, got 2.0"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(setting, message):
    with pytest.raises(ValueError, match=r"expected|unknown|is not") as caught:
        change(deepmask(), [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
