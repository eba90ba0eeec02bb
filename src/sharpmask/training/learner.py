"""What learns: a network with its optimizer and the moving average of its weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from sharpmask.training.checkpoint import load_checkpoint, save_checkpoint
from sharpmask.training.recipes import Recipe

Loss = Callable[[nn.Module, Any], dict[str, Tensor]]
"""Named loss terms of a batch; their sum is minimised."""


class Learner:
    """A network that learns by a recipe, step by step; and can be saved and restored.

    Args:
        model: Changed in place, moved to the fabric's device and to the channels-last format, the
            faster one for convolutions. What requires no gradient keeps its values.
        recipe: All numbers.
        fabric: Launched.

    Attributes:
        trained: What is learned, by name.
        average: Moving average of it; empty without ``ema_decay``.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, fabric: Fabric) -> None:
        self.model, self.recipe, self.fabric = model, recipe, fabric
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(self.trained, recipe)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        # First to the device, then restored: the optimizer's state follows its parameters.
        self.wrapped, self.wrapped_optimizer = fabric.setup(model, self.optimizer)
        self.average: dict[str, Tensor] = {}
        if recipe.ema_decay:
            self.average = {name: p.detach().clone() for name, p in self.trained.items()}

    def learn(self, step: int, batch: Any, loss: Loss) -> dict[str, Tensor]:
        """One step. It depends on nothing but the weights, the batch and the step's index.

        Returns:
            The loss terms before the step.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        recipe = self.recipe
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * recipe.factor(step)
        self.wrapped.train()
        terms = loss(self.wrapped, self.fabric.to_device(batch))
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss is {total.item()}")
        self.fabric.backward(total)
        if recipe.clip_norm:
            # In half precision overflows are usual: the scaler skips such a step.
            self.fabric.clip_gradients(
                self.wrapped,
                self.wrapped_optimizer,
                max_norm=recipe.clip_norm,
                error_if_nonfinite=False,
            )
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad()
        # An average of few steps must forget its random start.
        decay = min(recipe.ema_decay, (1 + step) / (10 + step))
        for name, value in self.average.items():
            value.lerp_(self.trained[name].detach(), 1 - decay)
        return terms

    def restore(self, path: Path) -> int:
        """Go on where a checkpoint ends; returns the number of steps done, 0 without a file."""
        done = load_checkpoint(
            path, model=self.model, average=self.average, optimizer=self.optimizer,
            recipe=self.recipe,
        )  # fmt: skip
        self.average = {name: value.to(self.fabric.device) for name, value in self.average.items()}
        return done

    def save(self, path: Path, done: int) -> None:
        """Write a checkpoint after ``done`` steps."""
        save_checkpoint(
            path, model=self.model, average=self.average, optimizer=self.optimizer,
            recipe=self.recipe, step=done,
        )  # fmt: skip

    def check(self) -> None:
        """Raise FloatingPointError if a weight is not finite."""
        if not all(torch.isfinite(parameter).all() for parameter in self.trained.values()):
            raise FloatingPointError("some weights are not finite")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """For a while the model holds the averaged weights, in eval mode."""
        with swapped(self.trained, self.average):
            self.model.eval()
            yield

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the model with the averaged weights, in eval mode."""
        for name, value in self.average.items():
            self.trained[name].copy_(value)
        self.model.eval()


def make_optimizer(trained: dict[str, nn.Parameter], recipe: Recipe) -> Optimizer:
    """The recipe's optimizer, the backbone in a group of its own; vectors are not decayed."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        in_backbone = "backbone." in name
        rate = recipe.backbone_learning_rate if in_backbone else recipe.learning_rate
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    settings = [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    return SGD(settings, momentum=0.9) if recipe.optimizer == "sgd" else AdamW(settings)


@contextmanager
def swapped(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> Iterator[None]:
    """For a while some parameters have other values."""

    @torch.no_grad()
    def swap() -> None:
        for name, value in values.items():
            kept = parameters[name].detach().clone()
            parameters[name].copy_(value)
            value.copy_(kept)

    swap()
    try:
        yield
    finally:
        swap()
