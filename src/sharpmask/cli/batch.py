"""``sharpmask batch``: proposals for more photos than one command can read, by many machines."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from sharpmask import defaults
from sharpmask.cli.console import (
    EXIT_STATUS,
    clear_errors,
    complain,
    duration,
    err,
    out,
    progress,
    refuse_options,
)
from sharpmask.cli.model_options import (
    Clean,
    Device,
    EngineChoice,
    MaskThreshold,
    NumProposals,
    Scales,
    Suppression,
    Weights,
)
from sharpmask.cli.photos import Annotations, Quiet
from sharpmask.files import owned
from sharpmask.integrations.arrow import Propose
from sharpmask.integrations.on_ray import connected, write_parts
from sharpmask.integrations.parts import PART_SIZE, Run, failures
from sharpmask.integrations.photo_lists import list_photos, with_ids_of
from sharpmask.stores import absolute, is_remote

WHERE = "Where it runs"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=EXIT_STATUS)
def batch(
    context: typer.Context,
    photos: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="Folder of photos, quoted pattern ('photos/**/*.jpg'), or a .txt or .parquet file "
            "that lists paths; here or in a store (s3://bucket/photos).",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="Folder for the Parquet parts, here or in a store (s3://bucket/found). Needed."
        ),
    ] = None,
    on: Annotated[  # noqa: ARG001  # one so far
        Literal["ray"], typer.Option(help="What runs it: ray.", rich_help_panel=WHERE)
    ] = "ray",
    address: Annotated[
        str | None,
        typer.Option(
            help="A Ray cluster: auto, or its address. Default: this machine alone.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of processes. Default: as many as there are cores for.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    cores: Annotated[
        int, typer.Option(min=1, help="Processor cores of each process.", rich_help_panel=WHERE)
    ] = 1,
    part_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Photos in each Parquet part; a process that is killed loses one part's work.",
            rich_help_panel=WHERE,
        ),
    ] = PART_SIZE,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try photos again that could not be read before.")
    ] = False,
    failed: Annotated[
        str | None,
        typer.Option(
            "--failures",
            metavar="DIR",
            help="Find nothing; list the photos that could not be read in the run whose --output "
            "was DIR.",
        ),
    ] = None,
    weights: Weights = defaults.MODEL,
    num_proposals: NumProposals = defaults.NUM_PROPOSALS,
    scales: Scales = "default",
    image_size: Annotated[int, typer.Option(help="As in propose.")] = defaults.IMAGE_SIZE,
    mask_threshold: MaskThreshold = None,
    suppression: Suppression = defaults.SUPPRESSION,
    clean: Clean = True,
    annotations: Annotations = None,
    engine: EngineChoice = "auto",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Find objects in very many photos: write Parquet parts, a row for each photo.

    The same command goes on with a run that was stopped or killed, on any machine: each photo is
    there once. A photo that cannot be read is a row with its error. docs/batch.md tells more.
    Needs sharpmask[ray].
    """
    with clear_errors():
        if failed:
            others = [name for name in context.params if name not in ("failed", "quiet")]
            refuse_options(context, others, "with --failures")
            list_failures(failed)
            return
        if not photos or not output:
            raise ValueError("batch: give INPUT and --output, or --failures DIR")
        start = time.monotonic()
        propose = Propose(
            weights=absolute(weights) if Path(weights).exists() else weights,
            cores=cores, num_proposals=num_proposals, scales=scales, image_size=image_size,
            mask_threshold=mask_threshold, suppression=suppression, clean=clean, engine=engine,
            device=device,
        )  # fmt: skip
        folder = absolute(output)
        with own(folder):
            run = Run(folder, propose, part_size)
            listed = list_photos(photos, complain)
            run.add(with_ids_of(listed, annotations, complain) if annotations else listed)
            left = run.left(retry=retry)
            if len(left) < run.part_count and not quiet:
                complain(f"{run.part_count - len(left)} of {run.part_count} parts were done before")
            if left:
                with connected(address):
                    written: Iterator[object] = write_parts(left, folder, propose, workers=workers)
                    for _ in written if quiet else progress(written, len(left), "parts"):
                        pass
            missing = sum(1 for _ in failures(folder))
        line = f"{run.photos} photos in {run.part_count} parts"
        if missing:
            line += (
                f", {missing} could not be read (sharpmask batch --failures {output} lists them)"
            )
        if not quiet:
            out.print(f"{line}, {duration(time.monotonic() - start)}: {output}", markup=False)
        if missing:
            raise typer.Exit(1)


def own(folder: str) -> AbstractContextManager[None]:
    """A folder of this machine is this run's alone meanwhile; a store keeps no locks."""
    return nullcontext() if is_remote(folder) else owned(Path(folder))


def list_failures(folder: str) -> None:
    """Print the error of each photo that could not be read, then say how many there are."""
    count = 0
    for _, error in failures(folder):
        count += 1
        out.print(error, markup=False)
    err.print(f"sharpmask: {folder}: {count} photos could not be read", markup=False)
