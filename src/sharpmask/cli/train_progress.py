"""How far a training is: a bar where somebody looks, else a line now and then; both on stderr."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import typer
from lightning_fabric import Fabric
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sharpmask.cli.console import complain, duration, err
from sharpmask.training.recipes import Recipe
from sharpmask.training.signals import Stopped

FIRST_LINE_S = 10
"""The first line comes after this time of work, the later ones after twice as long each."""
LONGEST_S = 300
"""But no more than this lies between two lines."""


class StepProgress(AbstractContextManager["StepProgress"]):
    """To be told of each step of ``fit``."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]:.0f} samples/s  loss {task.fields[loss]:.3f}"),
            console=err,
        )
        self.start = self.due = time.monotonic()
        self.wait_s = float(FIRST_LINE_S)
        self.before: int | None = None

    def __call__(self, done: int, loss: float) -> None:
        """Steps done, and the loss of the last one."""
        if not err.is_terminal:
            self._line(done, loss)
            return
        if not self.progress.tasks:
            self.progress.start()
            self.progress.add_task("", total=self.recipe.steps, completed=done, rate=0, loss=loss)
        task = self.progress.tasks[0]
        rate = (task.speed or 0.0) * self.recipe.batch_size
        self.progress.update(task.id, completed=done, loss=loss, rate=rate)

    def _line(self, done: int, loss: float) -> None:
        """A line if it is time, the sooner the younger the work is."""
        now = time.monotonic()
        if self.before is None:  # the first step also starts workers
            self.start, self.before, self.due = now, done, now + self.wait_s
        elif now >= self.due:
            self.wait_s = min(2 * self.wait_s, LONGEST_S)
            self.due = now + self.wait_s
            steps = self.recipe.steps
            left = duration((now - self.start) / (done - self.before) * (steps - done))
            complain(f"{done} of {steps} steps done, about {left} left, loss {loss:.3f}")

    def __exit__(self, *exception: object) -> None:
        if self.progress.tasks:
            self.progress.stop()


@contextmanager
def stop_reported(fabric: Fabric) -> Iterator[None]:
    """A run that was asked to stop says so once, and ends as a process that the signal ended."""
    try:
        yield
    except Stopped as stop:
        if fabric.is_global_zero:
            complain(stop)
        raise typer.Exit(128 + stop.signal) from None
