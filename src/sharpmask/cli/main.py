"""The command ``sharpmask``."""

import errno
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sharpmask.cli.console import EXIT_STATUS, clear_errors, complain, prepare_streams
from sharpmask.defaults import VERSION
from sharpmask.extras import MissingExtraError, extras_for

COMMANDS = (
    "propose",
    "batch",
    "serve",
    "page",
    "detect",
    "evaluate",
    "check",
    "finetune",
    "train",
    "compress",
    "export",
    "convert",
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
        with clear_errors():
            return self._load(cmd_name)

    def _load(self, name: str) -> Any:
        """A command by name.

        Raises:
            MissingExtraError: It needs a package that is not installed.
        """
        with extras_for(name):
            command = get_command(import_module(f"sharpmask.cli.{name}").app)
        command.name = name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help text; beside a command that lacks a package it says which."""

        def described(ctx: Any, cmd_name: str) -> Any:  # noqa: ARG001
            try:
                return self._load(cmd_name)
            except MissingExtraError as error:
                told = str(error).removeprefix(f"{cmd_name}: ")
                return TyperCommand(cmd_name, help=escape(told))

        self.get_command = described  # type: ignore[method-assign]
        super().format_help(ctx, formatter)

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
        typer.echo(f"sharpmask {VERSION}")
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
