"""How commands speak: results on standard output, problems in one line each on standard error.

Exit status: 0 all was done; 1 done in part, or standard output could not be written; 2 refused;
130 ended by Ctrl-C; 143 ended by SIGTERM. What a command writes to files it has written before it
prints. A reader who leaves early (``| head``) is not an error.
"""

import errno
import io
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console

Item = TypeVar("Item")

EXIT_STATUS = (
    "Exit status: 0 all was done; 1 done in part, or standard output could not be written; 2 an "
    "option or a file is wrong, or the only photo could not be read; 130 stopped by Ctrl-C, 143 "
    "by SIGTERM."
)
"""Ends help texts."""
LINE_EVERY_S = 30.0
"""Seconds between two lines of progress where there is no terminal."""


class _SafeConsole(Console):
    """A console that never ends the work of the one who prints."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; what a full disk refuses is told at the end, what nobody reads is dropped."""
        try:
            super().print(*objects, **options)
        except (OSError, ValueError) as error:
            _drop(self, error)

    def on_broken_pipe(self) -> None:
        """Who read has left; rich itself would end the program."""
        _to_nowhere(self)


def _drop(console: Console, error: OSError | ValueError) -> None:
    """Throw away what cannot be printed, now and later."""
    _to_nowhere(console)
    if isinstance(error, ValueError) or error.errno in (errno.EPIPE, errno.EBADF):
        return
    if console is out:
        complain(f"standard output cannot be written ({error.strerror})")
        _failed.append(error)


def _to_nowhere(console: Console) -> None:
    """Turn a stream to the null device, for Python writes once more when it ends."""
    console._buffer.clear()
    stream = sys.stderr if console.stderr else sys.stdout
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return
    console.file = _Nowhere()  # type: ignore[assignment]  # text can be written to it


class _Nowhere(io.TextIOBase):
    """A stream that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


out = _SafeConsole(highlight=False, emoji=False, soft_wrap=True)
if not out.is_terminal:
    out.width = 120  # tables in files and pipes keep all their columns
err = _SafeConsole(stderr=True, highlight=False, emoji=False, soft_wrap=True)
_failed: list[OSError] = []


def print_file(path: Path) -> None:
    """Copy a file to standard output, piece by piece."""
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _drop(out, error)


def complain(problem: object) -> None:
    """One line on stderr."""
    # A problem in a worker process brings its traceback along; the last line is what it says.
    text = str(problem).strip().splitlines()[-1:]
    err.print(f"sharpmask: {''.join(text)}", markup=False)


def progress(items: Iterable[Item], total: int, what: str = "photos") -> Iterable[Item]:
    """Pass items on and show on standard error how many are done.

    A bar on a terminal; elsewhere a line now and then, with the time that is left.

    Args:
        items: What is worked on.
        total: How many there are; a single one shows nothing.
        what: What they are, in the plural.
    """
    if total < 2:
        return items
    if err.is_terminal:
        from rich.progress import track  # slow to import, and rarely needed

        return track(items, f"{total} {what}", total=total, console=err, transient=True)
    return progress_lines(items, total, what)


def progress_lines(
    items: Iterable[Item],
    total: int,
    what: str,
    *,
    every_s: float = LINE_EVERY_S,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[str], object] = complain,
) -> Iterator[Item]:
    """Pass items on; report how many are done whenever ``every_s`` seconds have passed."""
    start = last = clock()
    for count, item in enumerate(items):
        now = clock()
        if count and now - last >= every_s:
            last = now
            left = (now - start) / count * (total - count)
            report(f"{count} of {total} {what} done, about {duration(left)} left")
        yield item


def duration(seconds: float) -> str:
    """Time in the unit that says it best."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def refuse_options(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """Refuse options that were given and would have no effect.

    Args:
        context: The command's.
        names: Parameters by their Python names.
        reason: Why they have no effect: "with --torch7".

    Raises:
        ValueError: One of them was given.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ValueError(f"--{name.replace('_', '-')}: has no effect {reason}; leave it out")


class Terminated(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does.

    Attributes:
        signal: Which.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"ended by {self.signal.name}")


@contextmanager
def clear_errors() -> Iterator[None]:
    """What a user can cause ends the command with one line and an exit status."""
    _failed.clear()
    try:
        with _terminable():
            yield
    except (ValueError, OSError) as error:
        complain(_with_file(error))
        raise typer.Exit(2) from None
    except KeyboardInterrupt as interrupt:
        complain(str(interrupt) or "interrupted")
        raise typer.Exit(128 + getattr(interrupt, "signal", signal.SIGINT)) from None
    if _failed:
        raise typer.Exit(1)


def _with_file(error: ValueError | OSError) -> str:
    """What an error says; the system's own begin with the file, as ours do."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    missing = isinstance(error, FileNotFoundError)
    reason = "no such file; check the name" if missing else error.strerror
    return f"{error.filename}: {reason}"


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise ``Terminated``, unless they are ignored (``nohup``)."""

    def end(number: int, frame: object) -> None:  # noqa: ARG001
        raise Terminated(number)

    before: dict[signal.Signals, Any] = {}
    # Python lets only the main thread handle signals.
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prepare_streams() -> None:
    """Let names of any script be printed anywhere, and no file pass for standard output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
