"""``sharpmask train pyramid``: SharpMask on a feature pyramid."""

from typing import Annotated

import typer

from sharpmask.cli.console import clear_errors
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
    Workers,
    choose_devices,
    choose_mixture,
    run_training,
)
from sharpmask.training.pyramid_stage import pyramid as pyramid_recipe
from sharpmask.training.pyramid_stage import train_pyramid
from sharpmask.training.recipes import change


def pyramid(
    train: Train,
    images: Images,
    output: Output,
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights that the YOLOX-Nano trunk starts from: a file or Hugging Face "
            "repository. Default: random ones, which take far longer."
        ),
    ] = None,
    share: Share = None,
    keep_back_source: KeepBackSource = None,
    keep_back: KeepBack = 0,
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """A model of the default model's kind, in one stage. It measures nothing on the way."""
    with clear_errors():
        chosen = change(pyramid_recipe(), settings or [])
        fabric = choose_devices(device, devices, precision)
        run_training(
            train_pyramid, recipe=chosen, fabric=fabric, output=output, train=train, images=images,
            init=init, mixture=choose_mixture(share, keep_back_source, keep_back), workers=workers,
        )  # fmt: skip
