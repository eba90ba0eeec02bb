"""``sharpmask check``: what is wrong with an annotation file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sharpmask import defaults
from sharpmask.cli.console import clear_errors, out
from sharpmask.coco.check import (
    Finding,
    by_octave,
    check_annotations,
    learned,
)
from sharpmask.coco.labels import read_labels
from sharpmask.coco.problems import MIN_AREA, MIN_SIDE, NO_AREA, NO_BOX
from sharpmask.coco.reader import CocoFile, read_coco
from sharpmask.coco.sizes import (
    fitting_readings,
    most_objects,
    object_sides,
    recall_ceiling,
    share_in_reach,
)
from sharpmask.pyramid_geometry import PyramidGeometry

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EXAMPLES = 3
NEAR_OCTAVES = 0.5
"""An object is fitted by a level that is so near to its size."""


@app.command()
def check(
    annotations: Annotated[
        Path,
        typer.Argument(help="COCO annotation file; or a folder of labels, as finetune takes."),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photos, to check them too.")
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="List every faulty record, not only the first of each kind."),
    ] = False,
    image_size: Annotated[
        int, typer.Option(min=32, help="Pixels to which propose reduces a photo's longer side.")
    ] = 640,
) -> None:
    """Show what is wrong with an annotation file, and what training and evaluation make of it.

    It also shows how large the objects are, and which --scales of propose fit them.

    Exit status: 0 the file can be used, whatever is skipped; 1 training or evaluation would refuse
    it; 2 it cannot be read.
    """
    with clear_errors():
        if not annotations.is_dir():
            file = read_coco(annotations)
        elif images:
            file = read_labels(annotations, images)
        else:
            raise ValueError(f"{annotations}: is a folder of labels; give --images, their photos")
        findings = check_annotations(file, images)
        if annotations.is_dir():  # of no form whose labels state them
            unstated = {NO_BOX.title, NO_AREA.title}
            findings = [finding for finding in findings if finding.kind not in unstated]
        if findings and every:
            out.print(table_of(findings))
        else:
            show_kinds(findings)
        used: dict[str, list[tuple[str, str]]] = {
            "training": [(finding.training, finding.record) for finding in findings],
            "evaluation": [(finding.evaluation, finding.record) for finding in findings],
        }
        refuses = False
        for (purpose, uses), lost in zip(used.items(), ("skipped", "missed"), strict=True):
            is_refused = any(use == "refused" for use, _ in uses)
            records = len({record for use, record in uses if use == lost})
            verdict = "the file is refused" if is_refused else "the file can be used"
            out.print(f"{purpose}: {verdict}, {records} records are {lost}")
            refuses |= is_refused
        show_sizes(file, image_size)
        if refuses:
            raise typer.Exit(1)


def show_kinds(findings: Sequence[Finding]) -> None:
    """For each kind of problem: how many records, the first of them, what becomes of them."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    for kind, same in by_kind.items():
        records = ", ".join(finding.record or "the file" for finding in same[:EXAMPLES])
        more = ", ..." if len(same) > EXAMPLES else ""
        first = same[0]
        out.print(f"{len(same)} x {kind}: {records}{more}", markup=False)
        out.print(f"    e.g. {first.problem}", markup=False)
        out.print(f"    training: {first.training}; evaluation: {first.evaluation}")


def table_of(findings: Sequence[Finding]) -> Table:
    """One row for each problem of each record."""
    table = Table("record", "problem", "training", "evaluation")
    for finding in findings:
        cells = (finding.record, finding.problem, finding.training, finding.evaluation)
        table.add_row(*map(escape, cells))
    return table


def show_sizes(file: CocoFile, image_size: int) -> None:
    """How large the objects are, and what finds them."""
    sides = object_sides(file.images, image_size)
    if not len(sides):
        out.print("objects: none")
        return
    shares = ", ".join(
        f"{first} to {last} px {100 * share:.0f} %"
        for (first, last), share in by_octave(sides).items()
    )
    out.print(f"objects: {len(sides)}; longer side in photos reduced to {image_size} px: {shares}")
    geometry = PyramidGeometry()
    fitting = fitting_readings(file.images, geometry, image_size)
    sizes = {**geometry.pyramids, "auto": fitting}
    reached = ", ".join(
        f"{name} {100 * share_in_reach(sides, readings, geometry, NEAR_OCTAVES):.0f} %"
        for name, readings in sizes.items()
    )
    out.print(f"objects that a level of --scales fits: {reached}")
    octaves = ",".join(f"{octave:g}" for octave in fitting)
    out.print(f"auto, the sizes that finetune chooses: --scales={octaves}")
    most = most_objects(file.images)
    if most > defaults.NUM_PROPOSALS:
        ceiling = 100 * recall_ceiling(file.images, defaults.NUM_PROPOSALS)
        out.print(
            f"up to {most} objects in a photo: {defaults.NUM_PROPOSALS} proposals find at most "
            f"{ceiling:.0f} % of all; give --num-proposals (docs/small-objects.md)"
        )
    used, tiny, count = learned(file)
    out.print(
        f"training learns from {used} of {count} objects; {tiny} are too small for it (below "
        f"{MIN_AREA} px, or {MIN_SIDE} px wide)"
    )
