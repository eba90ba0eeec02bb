"""How commands speak: results on stdout, problems in one line each on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
if not out.is_terminal:
    out.width = 120  # tables in files and pipes keep all their columns
err = Console(stderr=True, highlight=False, soft_wrap=True)


def complain(problem: object) -> None:
    """One line on stderr."""
    # A problem in a worker process brings its traceback along; the last line is what it says.
    text = str(problem).strip().splitlines()[-1:]
    err.print(f"sharpmask: {''.join(text)}", markup=False)


@contextmanager
def clear_errors() -> Iterator[None]:
    """What a user can cause ends the command with one line and exit status 2; Ctrl-C with 130."""
    try:
        yield
    except (ValueError, OSError) as error:
        complain(error)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as interrupt:
        complain(str(interrupt) or "interrupted")
        raise typer.Exit(130) from None
