"""How far a training is: a bar where somebody looks, else a line now and then; both on stderr."""

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TypeVar

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
from rich.progress import track as bar

from sharpmask.cli.console import complain, err
from sharpmask.training.recipes import Recipe
from sharpmask.training.signals import Stopped

Item = TypeVar("Item")
FIRST_LINE_S = 10
"""The first line comes after this time of work, the later ones after twice as long each."""
LONGEST_S = 300
"""But no more than this lies between two lines."""


class Lines:
    """Lines with the time left, the sooner the younger the work is.

    Args:
        what: What is done.
        total: Of how many parts; None if nobody knows.
        before: Parts that were done before.
    """

    def __init__(self, what: str, total: int | None, before: int = 0) -> None:
        self.what, self.total, self.before = what, total, before
        self.start = time.monotonic()
        self.wait_s = float(FIRST_LINE_S)
        self.due = self.start + self.wait_s

    def done(self, count: int, more: str = "") -> None:
        """So many parts are done; says so if it is time."""
        now = time.monotonic()
        if now < self.due:
            return
        self.wait_s = min(2 * self.wait_s, LONGEST_S)
        self.due = now + self.wait_s
        text = f"{self.what}: {count}"
        if self.total is not None:
            per_part_s = (now - self.start) / max(1, count - self.before)
            left = timedelta(seconds=round(per_part_s * (self.total - count)))
            text += f" of {self.total}, {left} left"
        complain(text + more)


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
        self.lines: Lines | None = None

    def __call__(self, done: int, loss: float) -> None:
        """Steps done, and the loss of the last one."""
        if not err.is_terminal:
            self.lines = self.lines or Lines("training", self.recipe.steps, before=done)
            self.lines.done(done, f", loss {loss:.3f}")
            return
        if not self.progress.tasks:
            self.progress.start()
            self.progress.add_task("", total=self.recipe.steps, completed=done, rate=0, loss=loss)
        task = self.progress.tasks[0]
        rate = (task.speed or 0.0) * self.recipe.batch_size
        self.progress.update(task.id, completed=done, loss=loss, rate=rate)

    def __exit__(self, *exception: object) -> None:
        if self.progress.tasks:
            self.progress.stop()


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Pass items on and show how far one is."""
    if err.is_terminal:
        return bar(items, description, total, console=err)
    return in_lines(items, description, total)


def in_lines(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    """Pass items on; a line now and then."""
    lines = Lines(description, len(items) if isinstance(items, Sized) else total)
    for count, item in enumerate(items):
        lines.done(count)
        yield item


@contextmanager
def stop_reported(fabric: Fabric) -> Iterator[None]:
    """A run that was asked to stop says so once, and ends as a process that the signal ended."""
    try:
        yield
    except Stopped as stop:
        if fabric.is_global_zero:
            complain(stop)
        raise typer.Exit(128 + stop.signal) from None
