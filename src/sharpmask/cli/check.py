"""``sharpmask check``: what is wrong with an annotation file."""

from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sharpmask.cli.console import clear_errors, out
from sharpmask.coco.check import check_annotations

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def check(
    annotations: Annotated[Path, typer.Argument(help="COCO annotation file.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photos, which are then read too.")
    ] = None,
) -> None:
    """List what is wrong with an annotation file, and what training and evaluation make of it.

    The exit status is 1 if training or evaluation refuses the file.
    """
    with clear_errors():
        findings = check_annotations(annotations, images)
        table = Table("record", "problem", "training", "evaluation")
        for finding in findings:
            table.add_row(*map(escape, astuple(finding)))
        if findings:
            out.print(table)
        used: dict[str, list[str]] = {
            "training": [finding.training for finding in findings],
            "evaluation": [finding.evaluation for finding in findings],
        }
        for (purpose, uses), lost in zip(used.items(), ("skipped", "missed"), strict=True):
            refused = "the file is refused" if "refused" in uses else "the file can be used"
            out.print(f"{purpose}: {refused}, {uses.count(lost)} records are {lost}")
        if any("refused" in uses for uses in used.values()):
            raise typer.Exit(1)
