"""The command ``sharpmask``."""

import errno
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sharpmask.cli.console import EXIT_STATUS, complain, prepare_streams

COMMANDS = (
    *("propose", "detect", "evaluate", "check", "finetune", "train"),
    *("compress", "export", "convert"),
)


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

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Names alone: for the help texts that some shells show every file would be imported."""
        self.get_command = lambda ctx, cmd_name: TyperCommand(cmd_name)  # type: ignore[method-assign]  # noqa: ARG005
        return super().shell_complete(ctx, incomplete)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line."""
        prepare_streams()
        try:
            return super().main(*args, **options)
        except OSError as error:  # from a help text: commands handle their own
            if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
                raise
            complain(f"standard output cannot be written ({error.strerror})")
            sys.exit(1)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    epilog=EXIT_STATUS,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sharpmask {version('sharpmask')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Find the objects in photos, of any kind, each as an exact mask (DeepMask, SharpMask)."""
