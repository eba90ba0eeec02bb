"""``sharpmask train pyramid``: SharpMask on a feature pyramid."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from lightning_fabric import Fabric

from sharpmask.cli.console import clear_errors, err
from sharpmask.coco.annotations import load_coco
from sharpmask.data.mixture import keep_back
from sharpmask.models.pretrained import load_trunk
from sharpmask.models.pyramid import build_pyramid
from sharpmask.training.pyramid_stage import pyramid as pyramid_recipe
from sharpmask.training.pyramid_stage import train_pyramid
from sharpmask.training.recipes import change


def pyramid(
    train: Annotated[list[Path], typer.Option(help="COCO annotation file; may be repeated.")],
    images: Annotated[Path, typer.Option(help="Folder of the photos.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; the same command resumes it.")],
    init: Annotated[
        str | None, typer.Option(help="Weights of the YOLOX-Nano trunk: file or repository.")
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(help="source=share of the scenes, 0 to 1; the others share the rest."),
    ] = None,
    keep_source: Annotated[
        list[str] | None, typer.Option(help="Source whose photos are never trained on.")
    ] = None,
    keep_photos: Annotated[
        int, typer.Option(min=0, help="Photos of other sources never trained on.")
    ] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="32-true, or bf16-mixed where the processor knows bf16.")
    ] = "32-true",
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare data.")] = 1,
) -> None:
    """All levels of a feature pyramid at once, from one reading of each scene."""
    with clear_errors():
        recipe = change(pyramid_recipe(), settings or [])
        torch.manual_seed(recipe.seed)
        model = build_pyramid()
        if init:
            load_trunk(model.backbone, init)
        data, kept = keep_back(
            load_coco(train, images),
            sources=keep_source or [],
            count=keep_photos,
            seed=recipe.seed,
        )
        names = sorted(str(image.path.relative_to(images)) for image in kept.images)
        output.mkdir(parents=True, exist_ok=True)
        (output / "kept_back.json").write_text(json.dumps(names, indent=0))
        fabric = Fabric(accelerator="auto", devices=1, precision=precision)  # type: ignore[arg-type]
        fabric.launch()
        train_pyramid(
            model,
            data=data,
            recipe=recipe,
            output=output,
            fabric=fabric,
            workers=workers,
            shares=parse_shares(share or []),
            metadata={"kept_back": names},
        )
        err.print(f"{output / 'model.safetensors'}")


def parse_shares(texts: list[str]) -> dict[str, float]:
    """Shares by source.

    Raises:
        ValueError: A text is not ``source=share`` with a share from 0 to 1.
    """
    shares = {}
    for text in texts:
        source, equals, share = text.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not equals or not 0 <= value <= 1:
            raise ValueError(f"--share {text}: expected source=share, a share from 0 to 1")
        shares[source] = value
    return shares
