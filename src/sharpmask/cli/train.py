"""``sharpmask train``: both stages, and a detector, on COCO-format data of one's own."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sharpmask.cli.console import clear_errors, progress
from sharpmask.cli.train_options import (
    Backbone,
    Device,
    Devices,
    Images,
    Output,
    Precision,
    Set,
    Train,
    Val,
    Workers,
    choose_devices,
    choose_recipe,
    run_training,
)
from sharpmask.cli.train_pyramid import pyramid
from sharpmask.detection.proposing import Proposing
from sharpmask.detection.training import Kind, train_detector
from sharpmask.training.recipes import change, fast_rcnn
from sharpmask.training.stages import train_deepmask, train_sharpmask

app = typer.Typer(
    help="Train on COCO-format data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(pyramid)


@app.command()
def deepmask(
    train: Train,
    images: Images,
    output: Output,
    val: Val = None,
    backbone: Backbone = "mobilenet_v2",
    head: Annotated[str, typer.Option(help="original, a, b or c (DeepMask's heads).")] = "c",
    bottleneck_channels: Annotated[
        int, typer.Option(min=1, help="Channels between trunk and heads.")
    ] = 128,
    init: Annotated[
        str | None,
        typer.Option(
            help="Pretrained weights of the backbone: file or repository; random without."
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="deepmask (from scenes), patches-deepmask or paper-deepmask (from windows)."
        ),
    ] = "deepmask",
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """A DeepMask: stage one of the papers' method."""
    with clear_errors():
        numbers = choose_recipe(recipe, settings)
        fabric = choose_devices(device, devices, precision)
        run_training(
            train_deepmask, recipe=numbers, fabric=fabric, output=output, train=train,
            images=images, val=val, init=init, workers=workers, backbone=backbone, head=head,
            bottleneck_channels=bottleneck_channels,
        )  # fmt: skip


@app.command()
def sharpmask(
    train: Train,
    images: Images,
    output: Output,
    deepmask: Annotated[
        str, typer.Option(help="Stage one: run folder, model file, name or repository.")
    ],
    val: Val = None,
    mask_channels: Annotated[
        int, typer.Option(min=1, help="Channels of the mask encoding (k in the paper).")
    ] = 32,
    skip_channels: Annotated[
        int, typer.Option(min=1, help="Channels of the features that refine it.")
    ] = 32,
    schedule: Annotated[
        str,
        typer.Option(
            help="Whether each later refinement module has half the channels (halving) or constant."
        ),
    ] = "halving",
    upsampling: Annotated[str, typer.Option(help="bilinear or nearest.")] = "bilinear",
    recipe: Annotated[
        str,
        typer.Option(
            help="sharpmask learns from scenes; patches-sharpmask and paper-sharpmask from windows."
        ),
    ] = "sharpmask",
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """Stage two: the refinement on top of a trained DeepMask, which is not changed."""
    with clear_errors():
        numbers = choose_recipe(recipe, settings)
        fabric = choose_devices(device, devices, precision)
        run_training(
            train_sharpmask, recipe=numbers, fabric=fabric, output=output, train=train,
            images=images, val=val, deepmask=deepmask, workers=workers,
            mask_channels=mask_channels, skip_channels=skip_channels, schedule=schedule,
            upsampling=upsampling,
        )  # fmt: skip


@app.command()
def detector(
    train: Train,
    images: Images,
    output: Output,
    init: Annotated[
        str, typer.Option(help="Pretrained weights of the backbone: a file or repository.")
    ],
    val: Val = None,
    kind: Annotated[
        Kind, typer.Option(help="rcnn learns in minutes; fast-rcnn trains a network.")
    ] = "rcnn",
    backbone: Backbone = "mobilenet_v2",
    category: Annotated[
        list[str] | None,
        typer.Option(help="Name of a category to learn; may be given repeatedly. Default: all."),
    ] = None,
    min_objects: Annotated[
        int, typer.Option(min=1, help="Categories with fewer objects are left out.")
    ] = 10,
    weights: Annotated[str, typer.Option(help="Model that proposes.")] = Proposing.weights,
    num_proposals: Annotated[
        int, typer.Option(min=1, help="Maximum number of regions per photo; detect uses it too.")
    ] = Proposing.num_proposals,
    scales: Annotated[
        str, typer.Option(help="As in propose, for the proposals.")
    ] = Proposing.scales,
    proposals: Annotated[
        Path | None, typer.Option(help="COCO results file to use instead of the model.")
    ] = None,
    val_proposals: Annotated[
        Path | None, typer.Option(help="COCO results file for the photos of --val.")
    ] = None,
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """R-CNN or Fast R-CNN: names for proposals.

    Label every object of these photos: what is not labelled counts as background.
    """
    with clear_errors():
        numbers = change(fast_rcnn(), settings or [])
        if kind == "rcnn" and (devices > 1 or numbers != replace(fast_rcnn(), seed=numbers.seed)):
            raise ValueError(
                "--kind rcnn: one process trains it, and its recipe is a seed alone; leave out "
                "--devices and all --set but seed, or choose --kind fast-rcnn"
            )
        fabric = choose_devices(device, devices, precision)
        proposing = Proposing(weights, num_proposals, scales, proposals, val_proposals)
        run_training(
            train_detector, recipe=numbers, fabric=fabric, output=output, train=train,
            images=images, val=val, init=init, kind=kind, backbone=backbone,
            categories=category or (), min_objects=min_objects, proposing=proposing,
            workers=workers, progress=progress, measured_on="validation photos",
        )  # fmt: skip
