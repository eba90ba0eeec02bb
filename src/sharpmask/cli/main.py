"""The command ``sharpmask``."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

COMMANDS = ("propose", "detect", "evaluate", "check", "train", "compress", "export", "convert")


class LazyGroup(TyperGroup):
    """Imports a command's file when it is called: torch takes more than a second, if it is needed.

    Each file ``cli/NAME.py`` holds its command or commands as ``app``.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """A command by name."""
        if cmd_name not in COMMANDS:
            return None
        command = get_command(import_module(f"sharpmask.cli.{cmd_name}").app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Class-agnostic object segment proposals: DeepMask and SharpMask."""
