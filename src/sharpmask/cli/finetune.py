"""``sharpmask finetune``: the shipped model, tuned to photos of one kind."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sharpmask import defaults
from sharpmask.cli.console import clear_errors, complain, out, progress
from sharpmask.cli.train_options import Device, Set, Workers, choose_devices
from sharpmask.cli.train_progress import StepProgress, stop_reported
from sharpmask.engines.exported import has_amx
from sharpmask.training.finetune import Tuned
from sharpmask.training.finetune import finetune as tune
from sharpmask.training.recipes import change
from sharpmask.training.tuning import tuning

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def finetune(
    labels: Annotated[
        Path,
        typer.Argument(
            help="COCO annotation file; or a folder with a file for each photo: JSON of LabelMe, "
            "polygons of YOLO, or masks as PNG."
        ),
    ],
    images: Annotated[Path, typer.Option(help="Folder of the photos.")],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for the model, which --weights of other commands takes; the same command "
            "goes on with a tuning that was stopped."
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from", help="Model to start from: a name, a file, a folder, or a repository."
        ),
    ] = defaults.MODEL,
    val: Annotated[
        Path | None,
        typer.Option(
            help="Labels of photos in --images to measure on. Default: a fifth of the photos of "
            "LABELS, from which nothing is learned then."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time that it may take on this machine.")] = 20,
    scales: Annotated[
        str,
        typer.Option(
            help="Sizes at which the model will read photos: auto (chosen by the sizes of the "
            "objects), default (those of the model it starts from), or exponents of two: "
            "--scales=1,0 for twice and once 640 pixels."
        ),
    ] = "auto",
    min_size: Annotated[
        float,
        typer.Option(
            min=0,
            help="Learn no object whose longer side is shorter than this, in pixels of the photo "
            "as it is read at the largest of --scales.",
        ),
    ] = 12,
    settings: Set = None,
    device: Device = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="Numbers to compute with: 32-true (32 bits); bf16-mixed or 16-mixed (in part 16 "
            "bits, the latter on GPUs); auto: bf16-mixed on processors that are fast at it, else "
            "32-true."
        ),
    ] = "auto",
    workers: Workers = 1,
) -> None:
    """Tune the default model to photos of one kind: 20 to 500, with all objects of yours labelled.

    It holds some photos back and shows what the model finds in them before and after. Any time it
    is stopped the folder holds a model that can be used; if tuning finds no better one, that is
    the model it started from. Needs sharpmask[train,plots].
    """
    with clear_errors(), ExitStack() as stack:
        if precision == "auto":
            precision = "bf16-mixed" if has_amx() else "32-true"
        fabric = choose_devices(device, 1, precision)
        stack.enter_context(stop_reported(fabric))
        tuned = tune(
            labels, images=images, output=output, source=source, val=val, minutes=minutes,
            scales=scales, min_size=min_size, fabric=fabric, workers=workers,
            recipe=lambda steps: change(tuning(steps), settings or []),
            report=complain, progress=progress,
            on_recipe=lambda recipe: stack.enter_context(StepProgress(recipe)),
        )  # fmt: skip
        out.print(table_of(tuned))
        if not tuned.improved:
            out.print("not improved: the model before is kept")
        out.print(*tuned.files, markup=False)


def table_of(tuned: Tuned) -> Table:
    """What was found before and after, in percent."""
    counts = list(tuned.measures[0].recall)
    ceiling = ", ".join(f"@{n} {100 * tuned.ceiling[n]:.0f}" for n in counts)
    table = Table(
        "model", "reads at octaves", "box AR@100", *(f"mask AR@{n}" for n in counts), "s a photo",
        title=f"{tuned.photos} photos held back",
        caption=f"at most possible, as a proposal finds one object: {ceiling}",
    )  # fmt: skip
    for found in tuned.measures:
        octaves = ", ".join(f"{octave:g}" for octave in found.readings)
        recalls = [found.boxes, *found.recall.values()]
        cells = [f"{100 * value:.1f}" for value in recalls]
        table.add_row(found.name, octaves, *cells, f"{found.photo_s:.1f}")
    return table
