"""``sharpmask train``: both stages, a feature pyramid, a detector, on COCO-format data."""

from pathlib import Path
from typing import Annotated

import typer

from sharpmask.cli.console import clear_errors, complain, progress
from sharpmask.cli.train_options import (
    Device,
    Devices,
    Images,
    KeepBack,
    KeepBackSource,
    Output,
    Precision,
    Set,
    Share,
    Train,
    Val,
    Workers,
    choose_devices,
    choose_mixture,
    choose_recipe,
    run_training,
    show_trained,
)
from sharpmask.cli.train_pyramid import pyramid
from sharpmask.detection.heads import Kind
from sharpmask.detection.proposing import Proposing
from sharpmask.detection.training import train_detector
from sharpmask.models.backbones import BACKBONES
from sharpmask.training.stages import train_deepmask, train_sharpmask

app = typer.Typer(
    help="Train a model of your own on labelled photos (COCO format); needs sharpmask[train].",
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
    backbone: Annotated[
        str, typer.Option(help=f"The network's trunk: {', '.join(BACKBONES)}.")
    ] = "mobilenet_v2",
    head: Annotated[
        str,
        typer.Option(
            help="Last layers: c, the leanest; a, b or original, larger and slower, to repeat the "
            "papers' comparison."
        ),
    ] = "c",
    bottleneck_channels: Annotated[
        int,
        typer.Option(
            min=1, help="Channels between the trunk and the last layers; fewer are faster."
        ),
    ] = 128,
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights that the trunk starts from: a file or Hugging Face repository. Default: "
            "random ones, which take far longer."
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="How it learns: deepmask (from whole crops), patches-deepmask or paper-deepmask "
            "(from single windows); docs/train.md."
        ),
    ] = "deepmask",
    share: Share = None,
    keep_back_source: KeepBackSource = None,
    keep_back: KeepBack = 0,
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """Stage one of the papers' method: a DeepMask, which makes coarse masks."""
    with clear_errors():
        chosen = choose_recipe(recipe, settings)
        fabric = choose_devices(device, devices, precision)
        run_training(
            train_deepmask, recipe=chosen, fabric=fabric, output=output, train=train,
            images=images, val=val, init=init,
            mixture=choose_mixture(share, keep_back_source, keep_back), workers=workers,
            backbone=backbone, head=head, bottleneck_channels=bottleneck_channels,
        )  # fmt: skip


@app.command()
def sharpmask(
    train: Train,
    images: Images,
    output: Output,
    deepmask: Annotated[
        str,
        typer.Option(
            help="Stage one: folder of its training, a file, a name, or a Hugging Face repository."
        ),
    ],
    val: Val = None,
    mask_channels: Annotated[
        int,
        typer.Option(
            min=1,
            help="Channels of the mask while it is refined (k in the paper); fewer are faster.",
        ),
    ] = 32,
    skip_channels: Annotated[
        int,
        typer.Option(
            min=1, help="Channels of the photo's features that refine it; fewer are faster."
        ),
    ] = 32,
    schedule: Annotated[
        str,
        typer.Option(
            help="Channels of the later refinement modules: halving from one to the next, or "
            "constant."
        ),
    ] = "halving",
    upsampling: Annotated[
        str, typer.Option(help="How the mask is enlarged: bilinear or nearest.")
    ] = "bilinear",
    recipe: Annotated[
        str,
        typer.Option(
            help="How it learns: sharpmask (from whole crops), patches-sharpmask or "
            "paper-sharpmask (from single windows); docs/train.md."
        ),
    ] = "sharpmask",
    share: Share = None,
    keep_back_source: KeepBackSource = None,
    keep_back: KeepBack = 0,
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """Stage two: refines the masks of a trained DeepMask, which is not changed."""
    with clear_errors():
        chosen = choose_recipe(recipe, settings)
        fabric = choose_devices(device, devices, precision)
        run_training(
            train_sharpmask, recipe=chosen, fabric=fabric, output=output, train=train,
            images=images, val=val, deepmask=deepmask,
            mixture=choose_mixture(share, keep_back_source, keep_back), workers=workers,
            mask_channels=mask_channels, skip_channels=skip_channels, schedule=schedule,
            upsampling=upsampling,
        )  # fmt: skip


@app.command()
def detector(
    train: Train,
    images: Images,
    output: Output,
    val: Val = None,
    kind: Annotated[
        Kind,
        typer.Option(
            help="rcnn is better up to a hundred objects of each category, fast-rcnn with more."
        ),
    ] = "rcnn",
    category: Annotated[
        list[str] | None,
        typer.Option(help="Name of a category to learn; may be given several times. Default: all."),
    ] = None,
    min_objects: Annotated[
        int, typer.Option(min=1, help="Categories with fewer objects are left out.")
    ] = 10,
    weights: Annotated[
        str, typer.Option(help="Model that proposes regions and reads them; it is not changed.")
    ] = Proposing.weights,
    num_proposals: Annotated[
        int, typer.Option(min=1, help="Maximum number of regions per photo; detect uses it too.")
    ] = Proposing.num_proposals,
    scales: Annotated[
        str, typer.Option(help="Sizes at which that model reads a photo, as in propose.")
    ] = Proposing.scales,
    proposals: Annotated[
        Path | None,
        typer.Option(
            help="Regions to use instead of proposals: a COCO results file, a Parquet file, or a "
            "folder of them."
        ),
    ] = None,
    val_proposals: Annotated[
        Path | None, typer.Option(help="The same for the photos of --val.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    device: Annotated[
        str, typer.Option(help="Where the model reads photos: auto, cpu or cuda.")
    ] = "auto",
) -> None:
    """A detector, which names objects: R-CNN or Fast R-CNN on the proposals of a model.

    What is not labelled counts as background, but on photos marked "complete": false.
    """
    with clear_errors():
        proposing = Proposing(weights, num_proposals, scales, proposals, val_proposals)
        figures = train_detector(
            train=train, images=images, output=output, val=val, kind=kind,
            categories=category or (), min_objects=min_objects, proposing=proposing, seed=seed,
            device=device, report=complain, progress=progress,
        )  # fmt: skip
        show_trained(figures, output, "validation photos")
