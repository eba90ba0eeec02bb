"""What a run writes down while it learns, and how fast it is."""

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from torch.utils.tensorboard import SummaryWriter

from sharpmask.files import replacing_file

Batch = TypeVar("Batch")


class MetricsLog(AbstractContextManager["MetricsLog"]):
    """``metrics.jsonl`` and TensorBoard; lines beyond the resumed step are dropped.

    Args:
        output: Folder of the run.
        start: Steps that were done before.
    """

    def __init__(self, output: Path, start: int) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self.path = output / "metrics.jsonl"
        if self.path.exists():
            text = self.path.read_text()
            kept = "".join(f"{line}\n" for line in text.splitlines() if _belongs(line, start))
            if kept != text:
                with replacing_file(self.path) as file:
                    file.write(kept.encode())
        self.board = SummaryWriter(str(output), purge_step=start + 1)

    def __exit__(self, *exception: object) -> None:
        self.board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append the values of a step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()


def _belongs(line: str, start: int) -> bool:
    try:
        return bool(0 < json.loads(line)["step"] <= start)
    except ValueError:  # cut off when the power failed
        return False


class Pace:
    """Samples per second, and the share of time that the loop waits for data.

    Args:
        batch_size: Samples of a step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps = 0
        self.waited_s = self.total_s = 0.0
        self.now = time.perf_counter()

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the time until each is there counts as waiting."""
        for batch in batches:
            before, self.now = self.now, time.perf_counter()
            self.waited_s += self.now - before
            self.total_s += self.now - before
            yield batch

    def learned(self) -> None:
        """A step is done."""
        before, self.now = self.now, time.perf_counter()
        self.total_s += self.now - before
        self.steps += 1

    def rested(self) -> None:
        """What was done since the step, a validation for example, does not count."""
        self.now = time.perf_counter()

    def figures(self) -> dict[str, float]:
        """Of the steps since this was asked last."""
        total_s = max(self.total_s, 1e-9)
        found = {
            "samples_per_s": self.steps * self.batch_size / total_s,
            "waiting_for_data": self.waited_s / total_s,
        }
        self.steps, self.waited_s, self.total_s = 0, 0.0, 0.0
        return found
