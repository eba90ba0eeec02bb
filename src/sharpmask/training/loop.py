"""One loop for every network: ``fit``."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.distributed import DistError
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter

from sharpmask.training.checkpoint import load_checkpoint, save_checkpoint
from sharpmask.training.recipes import Recipe

Index = tuple[int, int]
"""Epoch and number of a sample in it."""


class StepBatches(Sampler[list[Index]]):
    """The samples of each step from ``start`` on, for one of several devices."""

    def __init__(self, recipe: Recipe, start: int, rank: int, world_size: int) -> None:
        self.recipe, self.start, self.rank, self.world_size = recipe, start, rank, world_size

    def __len__(self) -> int:
        return self.recipe.steps - self.start

    def __iter__(self) -> Iterator[list[Index]]:
        for step in range(self.start, self.recipe.steps):
            epoch, position = divmod(step, self.recipe.validate_every)
            first = position * self.recipe.batch_size
            batch = range(first, first + self.recipe.batch_size)
            yield [(epoch, k) for k in batch[self.rank :: self.world_size]]


def fit(
    model: nn.Module,
    *,
    dataset: Dataset[Any],
    collate: Callable[[list[Any]], Any],
    loss: Callable[[nn.Module, Any], dict[str, Tensor]],
    validate: Callable[[nn.Module], dict[str, float]] | None,
    recipe: Recipe,
    output: Path,
    fabric: Fabric,
    workers: int = 1,
    console_progress: bool = True,
) -> dict[str, float]:
    """Train what requires a gradient; resume if ``output`` holds a checkpoint of the same recipe.

    Every step depends only on (recipe, step), so a run that was stopped and resumed ends in the
    same weights, bit for bit on a CPU. Writes ``checkpoint.safetensors``, ``metrics.jsonl`` and
    TensorBoard events to ``output``. Afterwards the model holds the moving average of its weights.

    Ctrl-C lets the step be finished and saved; a second one stops at once.

    Args:
        model: Changed in place.
        dataset: Samples by (epoch, number).
        collate: Makes a batch of samples: a tensor, or a tuple of them.
        loss: Named loss terms of a batch; their sum is minimised.
        validate: Figures of the current model, in eval mode.
        recipe: All numbers.
        output: Folder of the run.
        fabric: Launched; device, precision and number of processes.
        workers: Processes that prepare data.
        console_progress: Whether to draw a progress bar.

    Returns:
        The last validation's figures.

    Raises:
        ValueError: ``output`` holds another run, or the loss stopped being finite.
        ConnectionError: Another process of the run is gone.
        KeyboardInterrupt: After Ctrl-C, when the checkpoint is written.
    """
    if recipe.batch_size % fabric.world_size:
        raise ValueError(
            f"batch_size {recipe.batch_size} cannot be shared evenly by {fabric.world_size} devices"
        )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(trained, recipe)
    peaks = [group["lr"] for group in optimizer.param_groups]
    # First to the device, then restored: the optimizer's state follows its parameters.
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    average = {name: p.detach().clone() for name, p in trained.items()} if recipe.ema_decay else {}
    checkpoint = output / "checkpoint.safetensors"
    restore = {"model": model, "average": average, "optimizer": optimizer, "recipe": recipe}
    start = load_checkpoint(checkpoint, **restore)  # type: ignore[arg-type]
    average = {name: value.to(fabric.device) for name, value in average.items()}
    loader = DataLoader(
        dataset,
        batch_sampler=StepBatches(recipe, start, fabric.global_rank, fabric.world_size),
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=ignore_interrupt,
        prefetch_factor=4 if workers else None,
    )
    figures: dict[str, float] = {}
    log = MetricsLog(output, start) if fabric.is_global_zero else None
    seconds = {"data": 0.0, "all": 0.0}
    logged = start
    mark = time.perf_counter()
    bar = progress_bar(recipe, start, shown=console_progress and log is not None)
    with deferred_interrupt() as interrupt, bar as advance, lost_process_named(fabric, output):
        for step, batch in enumerate(loader, start):
            seconds["data"] += time.perf_counter() - mark
            torch.manual_seed(recipe.seed * 1_000_003 + step)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * recipe.factor(step)
            wrapped.train()
            terms = loss(wrapped, fabric.to_device(batch))
            total = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(total):
                raise diverged(f"the loss is {total.item()}", step, recipe, output)
            fabric.backward(total)
            if recipe.clip_norm:
                # In half precision overflows are usual: the scaler skips such a step.
                fabric.clip_gradients(
                    wrapped,
                    wrapped_optimizer,
                    max_norm=recipe.clip_norm,
                    error_if_nonfinite=False,
                )
            wrapped_optimizer.step()
            wrapped_optimizer.zero_grad()
            # An average of few steps must forget its random start.
            decay = min(recipe.ema_decay, (1 + step) / (10 + step))
            for name, value in average.items():
                value.lerp_(trained[name].detach(), 1 - decay)
            seconds["all"] += time.perf_counter() - mark
            mark = time.perf_counter()
            done = step + 1
            advance(total.item())
            if done % 20 == 0 or done == recipe.steps:
                means = fabric.all_reduce({name: term.detach() for name, term in terms.items()})
                assert isinstance(means, dict)
                values = {name: mean.item() for name, mean in means.items()}
                samples = (done - logged) * recipe.batch_size
                values["samples_per_s"] = samples / max(seconds["all"], 1e-9)
                values["waiting_for_data"] = seconds["data"] / max(seconds["all"], 1e-9)
                if log:
                    log.write(done, values)
                seconds = dict.fromkeys(seconds, 0.0)
                logged = done
            # All processes stop at the same step.
            stop = fabric.broadcast(interrupt.requested)
            measured = done % recipe.validate_every == 0 or done == recipe.steps
            if measured or stop:
                if not all(torch.isfinite(parameter).all() for parameter in trained.values()):
                    raise diverged("there are weights that are no numbers", step, recipe, output)
                if log:
                    save_checkpoint(
                        checkpoint, model=model, average=average, optimizer=optimizer,
                        recipe=recipe, step=done,
                    )  # fmt: skip
                if log and measured and validate:
                    with averaged(model, average):
                        model.eval()
                        figures = validate(model)
                    log.write(done, {f"val_{name}": value for name, value in figures.items()})
                fabric.barrier()
                if stop and done < recipe.steps:
                    raise KeyboardInterrupt(
                        f"interrupted; {done} of {recipe.steps} steps are saved in {output}, the "
                        "same command goes on from there"
                    )
                mark = time.perf_counter()
    with torch.no_grad():
        for name, value in average.items():
            trained[name].copy_(value)
    model.eval()
    if start == recipe.steps and log and validate:
        figures = validate(model)
    return figures


def diverged(what: str, step: int, recipe: Recipe, output: Path) -> ValueError:
    """An error that names the batch and says how to go on."""
    epoch, position = divmod(step, recipe.validate_every)
    first = position * recipe.batch_size
    return ValueError(
        f"step {step}: {what}, after samples {first} to {first + recipe.batch_size - 1} of epoch "
        f"{epoch}; lower learning_rate or set clip_norm. The last checkpoint in {output} is sound"
    )


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


def ignore_interrupt(worker: int) -> None:  # noqa: ARG001 - a DataLoader gives the number
    """Ctrl-C reaches every process; the main one decides when the workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class deferred_interrupt(AbstractContextManager["deferred_interrupt"]):  # noqa: N801
    """Notes a first Ctrl-C in ``requested`` instead of stopping half-way through a step."""

    def __init__(self) -> None:
        self.requested = False
        self.previous = signal.getsignal(signal.SIGINT) or signal.default_int_handler
        # Python lets only the main thread handle signals; who starts a run in the background may
        # have Ctrl-C ignored.
        in_main_thread = threading.current_thread() is threading.main_thread()
        self.active = in_main_thread and self.previous is not signal.SIG_IGN

    def _note(self, *_: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self.previous)

    def __enter__(self) -> "deferred_interrupt":
        if self.active:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.active:
            signal.signal(signal.SIGINT, self.previous)


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


class averaged(AbstractContextManager[None]):  # noqa: N801 - reads as a verb in a with statement
    """Puts averaged weights into the model for a while."""

    def __init__(self, model: nn.Module, average: dict[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        self.pairs = [(parameters[name], value) for name, value in average.items()]

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in self.pairs:
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *exception: object) -> None:
        self._swap()


class MetricsLog:
    """``metrics.jsonl`` and TensorBoard; lines beyond the resumed step are dropped."""

    def __init__(self, output: Path, start: int) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self.path = output / "metrics.jsonl"
        kept = []
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if self._belongs(line, start)]
        self.path.write_text("".join(f"{line}\n" for line in kept))
        self.board = SummaryWriter(str(output), purge_step=start + 1)

    @staticmethod
    def _belongs(line: str, start: int) -> bool:
        try:
            return bool(0 < json.loads(line)["step"] <= start)
        except ValueError:  # cut off when the power failed
            return False

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append the values of a step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()


class progress_bar(AbstractContextManager[Callable[[float], None]]):  # noqa: N801
    """A bar with time left, samples per second and loss; yields what to call after each step."""

    def __init__(self, recipe: Recipe, start: int, *, shown: bool) -> None:
        columns = [
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]:.0f} samples/s  loss {task.fields[loss]:.3f}"),
        ]
        self.progress = Progress(*columns, disable=not shown)
        self.task = self.progress.add_task(
            "", total=recipe.steps, completed=start, rate=0.0, loss=float("nan")
        )
        self.batch_size = recipe.batch_size

    def __enter__(self) -> Callable[[float], None]:
        self.progress.start()
        return self._advance

    def _advance(self, loss: float) -> None:
        rate = (self.progress.tasks[0].speed or 0.0) * self.batch_size
        self.progress.update(self.task, advance=1, loss=loss, rate=rate)

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()
