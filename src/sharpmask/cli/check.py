"""``sharpmask check``: what is wrong with an annotation file."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sharpmask.cli.console import clear_errors, out
from sharpmask.evaluation.annotation_check import check_annotations

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
            table.add_row(finding.record, finding.problem, finding.training, finding.evaluation)
        if findings:
            out.print(table)
        counts = Counter(f.training for f in findings), Counter(f.evaluation for f in findings)
        for purpose, count in zip(("training", "evaluation"), counts, strict=True):
            refused = "the file is refused" if count["refused"] else "the file can be used"
            out.print(f"{purpose}: {refused}, {count['skipped']} records are skipped")
        if any(count["refused"] for count in counts):
            raise typer.Exit(1)
