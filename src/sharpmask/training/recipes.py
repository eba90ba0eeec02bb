"""Recipes: every number of a training run in one frozen record."""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from sharpmask.data.sampling import Batches


@dataclass(frozen=True)
class Recipe:
    """Settings of ``fit``.

    Attributes:
        steps: Batches to learn from.
        batch_size: Patches or scenes in a batch, over all devices.
        batches: What the patches of a batch are for (see ``PatchSampler``), or "scenes": dense
            training on ``SceneDataset``.
        scene_size: Side of the scenes.
        scene_windows: Most windows of a scene whose masks are learned.
        copy_paste: Mean number of objects of other photos pasted into a scene.
        optimizer: "adamw" or "sgd" (momentum .9).
        learning_rate: Of everything but the backbone. Losses are means over the batch, so the
            paper's 1e-3 on a sum of 32 patches reads .032 here.
        backbone_learning_rate: Of the backbone.
        frozen_stride: Backbone layers up to this stride keep their weights, 0 for none. The first
            layers carry over from ImageNet as they are, and cost the most to learn.
        weight_decay: As the optimizer defines it.
        schedule: "cosine" to zero after a linear warm-up, or the paper's "steps".
        warmup_steps: Of the cosine schedule.
        clip_norm: Bound of the gradient norm, 0 for none.
        ema_decay: Of the moving average of the weights that is kept as the model, 0 for none.
        score_weight: lambda, the weight of the score loss.
        colour_jitter: Strength of colour augmentation.
        epoch_steps: Steps of an epoch; a sample is drawn by its epoch and its index in that.
        validate_every: Steps between validations, which also save; changes nothing that is learned.
        seed: Of everything random.
    """

    steps: int
    batch_size: int
    batches: Literal[Batches, "scenes"]
    scene_size: int
    scene_windows: int
    copy_paste: float
    optimizer: Literal["adamw", "sgd"]
    learning_rate: float
    backbone_learning_rate: float
    frozen_stride: int
    weight_decay: float
    schedule: Literal["cosine", "steps"]
    warmup_steps: int
    clip_norm: float
    ema_decay: float
    score_weight: float
    colour_jitter: float
    epoch_steps: int
    validate_every: int
    seed: int

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "epoch_steps", "validate_every"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: expected at least 1, got {getattr(self, key)}")
        for key, value in vars(self).items():
            if not isinstance(value, str) and not 0 <= value < math.inf:
                raise ValueError(f"{key}: expected 0 or a positive number, got {value}")
        for key in ("ema_decay", "colour_jitter"):
            if getattr(self, key) > 1:
                raise ValueError(f"{key}: expected at most 1, got {getattr(self, key)}")

    def factor(self, step: int) -> float:
        """Learning rate at a step as a fraction of the full one."""
        if self.schedule == "steps":
            # SharpMask, section 5: epochs of 4000 batches; 1e-3, 5e-4 from epoch 51, 1e-4 from 121.
            epoch = step // 4000 + 1
            return 1.0 if epoch < 51 else 0.5 if epoch < 121 else 0.1
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def scenes(self) -> dict[str, Any]:
        """The arguments of ``Scenes`` that the recipe sets."""
        return {
            "seed": self.seed, "scene_size": self.scene_size, "windows": self.scene_windows,
            "copy_paste": self.copy_paste, "colour_jitter": self.colour_jitter,
        }  # fmt: skip


def deepmask() -> Recipe:
    """Stage one from an ImageNet backbone, on scenes, in about 40 minutes on two cores."""
    return Recipe(
        steps=3000, batch_size=6, batches="scenes",
        scene_size=352, scene_windows=12, copy_paste=1.0, optimizer="adamw",
        learning_rate=1e-3, backbone_learning_rate=2e-4, frozen_stride=4,
        weight_decay=0.05,
        schedule="cosine", warmup_steps=100, clip_norm=1.0, ema_decay=0.999,
        score_weight=0.5, colour_jitter=0.4, epoch_steps=1000, validate_every=1000,
        seed=0,
    )  # fmt: skip


def sharpmask() -> Recipe:
    """Stage two on a trained DeepMask, in about half an hour on two cores: only masks learn.

    Fewer windows of a scene, as each costs more.
    """
    return dataclasses.replace(
        deepmask(), steps=2400, learning_rate=2e-3, scene_windows=4, score_weight=0.0
    )


def patches_deepmask() -> Recipe:
    """Stage one on patches, sampled as in the paper, with today's optimizer and schedule."""
    return dataclasses.replace(
        deepmask(), steps=6000, batch_size=36, batches="joint",
        scene_size=0, scene_windows=0, copy_paste=0.0, score_weight=0.25,
    )  # fmt: skip


def patches_sharpmask() -> Recipe:
    """Stage two on patches."""
    return dataclasses.replace(
        patches_deepmask(),
        steps=3600, batches="masks", learning_rate=2e-3, batch_size=24, score_weight=0.0,
    )  # fmt: skip


def paper_deepmask() -> Recipe:
    """Stage one as published: about 5 days on a GPU of 2015."""
    return Recipe(
        steps=600_000, batch_size=32, batches="alternating",
        scene_size=0, scene_windows=0, copy_paste=0.0, optimizer="sgd",
        learning_rate=0.032, backbone_learning_rate=0.032, frozen_stride=0,
        weight_decay=5e-5,
        schedule="steps", warmup_steps=0, clip_norm=0.0, ema_decay=0.0,
        score_weight=1 / 32, colour_jitter=0.0, epoch_steps=4000, validate_every=4000,
        seed=0,
    )  # fmt: skip


def paper_sharpmask() -> Recipe:
    """Stage two as published: about 2 days on a GPU of 2015."""
    return dataclasses.replace(
        paper_deepmask(), steps=240_000, batches="masks", weight_decay=0.0, score_weight=0.0
    )


RECIPES = {
    "deepmask": deepmask,
    "sharpmask": sharpmask,
    "patches-deepmask": patches_deepmask,
    "patches-sharpmask": patches_sharpmask,
    "paper-deepmask": paper_deepmask,
    "paper-sharpmask": paper_sharpmask,
}


def change(recipe: Recipe, settings: list[str]) -> Recipe:
    """A recipe with some ``key=value`` settings changed.

    Raises:
        ValueError: Unknown key ("did you mean"), a value of the wrong type or out of range.
    """
    types = get_type_hints(Recipe)
    changes: dict[str, object] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: expected key=value")
        if key not in types:
            close = difflib.get_close_matches(key, types, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(types)}"
            raise ValueError(f"--set {setting}: unknown key {key!r}; {hint}")
        choices = getattr(types[key], "__args__", None)
        if choices and text not in choices:
            raise ValueError(f"--set {setting}: expected one of {', '.join(choices)}")
        try:
            changes[key] = text if choices else types[key](text)
        except ValueError:
            raise ValueError(
                f"--set {setting}: {text!r} is not of type {types[key].__name__}"
            ) from None
    return dataclasses.replace(recipe, **changes)  # type: ignore[arg-type]
