"""The command ``sharpmask``."""

import errno
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sharpmask.cli.console import EXIT_STATUS, clear_errors, complain, prepare_streams
from sharpmask.extras import extras_for

COMMANDS = {
    "propose": "Find objects in photos: write proposals.json (COCO results) and pictures of the "
    "best masks.",
    "detect": "Find and name objects: write detections.json (COCO results, boxes and masks) and "
    "pictures.",
    "evaluate": "Average Recall of boxes and masks, class-agnostic: a table, evaluation.json and "
    "two plots.",
    "check": "Show what is wrong with an annotation file, and what training and evaluation make "
    "of it.",
    "train": "Train on COCO-format data.",
    "compress": "Shorten the vector of each cell of a trained model; check the result with "
    "``evaluate``.",
    "export": "Export a model: an encoder and a decoder for images of any size, normalisation "
    "inside.",
    "convert": "Convert FAIR's Torch7 files: a DeepMask, a SharpMask, or the ImageNet trunk for "
    "--init.",
}
"""What each does, as the first line of its own help says; so the list of all imports none."""


class LazyGroup(TyperGroup):
    """Imports a command's file when it is called: some need packages that are not always there.

    Each file ``cli/NAME.py`` holds its command or commands as ``app``.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """A command by name."""
        if cmd_name not in COMMANDS:
            return None
        with clear_errors(), extras_for(cmd_name):
            module = import_module(f"sharpmask.cli.{cmd_name}")
        command = get_command(module.app)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help text of all commands, without their files."""
        self._list_only()
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What completes a name, without the commands' files."""
        self._list_only()
        return super().shell_complete(ctx, incomplete)

    def _list_only(self) -> None:
        self.get_command = lambda ctx, name: TyperCommand(name, help=COMMANDS[name])  # type: ignore[method-assign]  # noqa: ARG005

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
    """Class-agnostic object segment proposals: DeepMask and SharpMask."""
