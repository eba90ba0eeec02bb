"""One loop for every network: ``fit``."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributed import DistError
from torch.utils.data import DataLoader, Dataset, Sampler

from sharpmask.training.learner import Learner, Loss
from sharpmask.training.metrics_log import MetricsLog, Pace
from sharpmask.training.recipes import Recipe
from sharpmask.training.signals import DeferredSignals, Stopped, ignore_signals

CHECKPOINT = "checkpoint.safetensors"
LOG_STEPS = 20
"""Steps between two lines of the log."""
SAVE_S = 180
"""Seconds of learning after which the state is saved, whatever the step."""

Index = tuple[int, int]
"""Epoch, and index of a sample in it."""


class StepBatches(Sampler[list[Index]]):
    """The samples of each step from ``start`` on, for one of several devices."""

    def __init__(self, recipe: Recipe, start: int, rank: int, world_size: int) -> None:
        self.recipe, self.start, self.rank, self.world_size = recipe, start, rank, world_size

    def __len__(self) -> int:
        return self.recipe.steps - self.start

    def __iter__(self) -> Iterator[list[Index]]:
        for step in range(self.start, self.recipe.steps):
            epoch, samples = samples_of(step, self.recipe)
            yield [(epoch, index) for index in samples[self.rank :: self.world_size]]


def samples_of(step: int, recipe: Recipe) -> tuple[int, range]:
    """Epoch of a step, and the indices of its samples in that epoch."""
    epoch, position = divmod(step, recipe.epoch_steps)
    first = position * recipe.batch_size
    return epoch, range(first, first + recipe.batch_size)


def fit(
    model: nn.Module,
    *,
    dataset: Dataset[Any],
    collate: Callable[[list[Any]], Any],
    loss: Loss,
    validate: Callable[[nn.Module], dict[str, float]] | None,
    recipe: Recipe,
    output: Path,
    fabric: Fabric,
    workers: int = 1,
    save: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Train what requires a gradient; resume if ``output`` holds a checkpoint of the same recipe.

    Every step depends only on (recipe, step), so a run that was stopped and resumed ends in the
    same weights, bit for bit on a CPU. Neither validation nor saving changes a weight. Writes
    ``checkpoint.safetensors``, ``metrics.jsonl`` and TensorBoard events to ``output``: the
    checkpoint with every validation, every ``SAVE_S`` seconds, and when the run is asked to stop.

    Ctrl-C, SIGTERM and SIGHUP let the step be finished and saved; a second Ctrl-C stops at once.

    Args:
        model: Changed in place: moved to the fabric's device, and at the end in eval mode with the
            moving average of its weights.
        dataset: Samples by (epoch, index).
        collate: Makes a batch of samples: a tensor, or a tuple of them.
        loss: Named loss terms of a batch; their sum is minimised.
        validate: Figures of the current model, in eval mode.
        recipe: All numbers.
        output: Folder of the run. Only one run may write there: see ``files.owned``.
        fabric: Launched; device, precision and number of processes.
        workers: Processes that prepare data.
        save: Writes the model; called with every checkpoint and at the end, while the model holds
            the averaged weights. It is given what the file should tell: the recipe, the steps, and
            the figures of this step, empty if it was not validated.
        on_step: Is told after each step the number of steps done and the loss, for a display.

    Returns:
        The last validation's figures; of several processes only the first has them.

    Raises:
        ValueError: ``output`` holds another run, or the loss stopped being finite.
        ConnectionError: Another process of the run is gone.
        Stopped: After a signal, when the state is saved; a KeyboardInterrupt.
    """
    if recipe.batch_size % fabric.world_size:
        raise ValueError(
            f"batch_size {recipe.batch_size} cannot be shared evenly by {fabric.world_size} devices"
        )
    learner = Learner(model, recipe, fabric)
    start = learner.restore(output / CHECKPOINT)
    # Its workers are forked before any thread is started.
    batches = iter(loader(dataset, collate, recipe, start, fabric, workers))
    is_first = fabric.is_global_zero
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        signals = stack.enter_context(DeferredSignals())
        stack.enter_context(lost_process_named(fabric, output))
        log = stack.enter_context(MetricsLog(output, start)) if is_first else None
        pace = Pace(recipe.batch_size)
        saved_s = pace.now
        for step, batch in enumerate(pace.waiting(batches), start):
            with divergence_named(step, recipe, output):
                terms = learner.learn(step, batch, loss)
            pace.learned()
            done = step + 1
            if on_step and is_first:
                on_step(done, sum(term.item() for term in terms.values()))
            if done % LOG_STEPS == 0 or done == recipe.steps:
                values = means(terms, fabric) | pace.figures()
                if log:
                    log.write(done, values)
            # The first process decides, so that all stop and save at the same step.
            stop, due = fabric.broadcast((signals.received, pace.now - saved_s >= SAVE_S))
            validated = done % recipe.validate_every == 0 or done == recipe.steps
            if not (validated or stop or due):
                continue
            with divergence_named(step, recipe, output):
                learner.check()
            if log:
                learner.save(output / CHECKPOINT, done)
                with learner.averaged():
                    if validate and validated:
                        figures = validate(model)
                        log.write(done, {f"val_{name}": value for name, value in figures.items()})
                    if save:
                        save(learned(recipe, done, figures if validated else {}))
            fabric.barrier()
            if stop and done < recipe.steps:
                raise Stopped(stop, stopped_text(stop.name, done, recipe, output))
            pace.rested()
            saved_s = pace.now
    learner.finish()
    if start == recipe.steps and is_first:
        figures = validate(model) if validate else {}
        if save:
            save(learned(recipe, start, figures))
    return figures


def learned(recipe: Recipe, done: int, figures: dict[str, float]) -> dict[str, Any]:
    """What a model's file tells of its training after ``done`` steps."""
    steps = {"done": done, "of": recipe.steps}
    return {"recipe": asdict(recipe), "steps": steps, "validation": figures}


def loader(
    dataset: Dataset[Any],
    collate: Callable[[list[Any]], Any],
    recipe: Recipe,
    start: int,
    fabric: Fabric,
    workers: int,
) -> DataLoader[Any]:
    """The batches from step ``start`` on, or a process's part of them."""
    return DataLoader(
        dataset,
        batch_sampler=StepBatches(recipe, start, fabric.global_rank, fabric.world_size),
        collate_fn=collate,
        num_workers=workers,
        # Python 3.14 would start them by a server, which a signal to the group ends.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        worker_init_fn=ignore_signals,
        prefetch_factor=4 if workers else None,
    )


def means(terms: dict[str, Tensor], fabric: Fabric) -> dict[str, float]:
    """Loss terms, means over all processes."""
    reduced = fabric.all_reduce({name: term.detach() for name, term in terms.items()})
    assert isinstance(reduced, dict)
    return {name: mean.item() for name, mean in reduced.items()}


def stopped_text(signal_name: str, done: int, recipe: Recipe, output: Path) -> str:
    """What a stopped run says."""
    what = "interrupted" if signal_name == "SIGINT" else f"stopped by {signal_name}"
    return (
        f"{what}; {done} of {recipe.steps} steps are saved in {output}, the same command goes on "
        "from there"
    )


@contextmanager
def divergence_named(step: int, recipe: Recipe, output: Path) -> Iterator[None]:
    """Say which batch made weights or loss infinite, and how to go on."""
    try:
        yield
    except FloatingPointError as error:
        epoch, samples = samples_of(step, recipe)
        raise ValueError(
            f"step {step}: {error}, after samples {samples[0]} to {samples[-1]} of epoch {epoch}; "
            f"lower learning_rate or set clip_norm. The last checkpoint in {output} is sound"
        ) from None


@contextmanager
def lost_process_named(fabric: Fabric, output: Path) -> Iterator[None]:
    """Say in plain words that another process of the run was killed or failed."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, DistError) or "gloo" in str(error)):
            raise
        raise ConnectionError(
            f"process {fabric.global_rank} of {fabric.world_size} stops: another one was killed or "
            f"failed. The last checkpoint in {output} is sound; the same command goes on from "
            "there, with any number of devices"
        ) from error
