"""What all commands of ``sharpmask train`` take, do and show."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from lightning_fabric import Fabric
from rich.table import Table

from sharpmask.cli.console import complain, out
from sharpmask.cli.train_progress import StepProgress, stop_reported
from sharpmask.data.mixture import Mixture
from sharpmask.training.origin import KEPT_BACK, MODEL
from sharpmask.training.recipes import RECIPES, Recipe, change

Train = Annotated[
    list[Path], typer.Option(help="COCO annotation file to learn from; may be given several times.")
]
Images = Annotated[Path, typer.Option(help="Folder of the photos of all annotation files.")]
Output = Annotated[
    Path,
    typer.Option(
        help="Folder for the model; the same command goes on with a training that was stopped."
    ),
]
Val = Annotated[
    Path | None, typer.Option(help="COCO annotation file to measure on while it learns.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting of how it learns, e.g. steps=1000; docs/train.md says which.",
    ),
]
Share = Annotated[
    list[str] | None,
    typer.Option(
        help="SOURCE=SHARE: share of the learning (0 to 1) that photos of this source get; the "
        "others share the rest. A photo's source is the 'source' of its image entry. May be given "
        "several times."
    ),
]
KeepBackSource = Annotated[
    list[str] | None,
    typer.Option(help="Learn nothing from the photos of this source; may be given several times."),
]
KeepBack = Annotated[
    int,
    typer.Option(
        min=0,
        help="Learn nothing from so many photos of the other sources, drawn at random, to measure "
        f"on them later. {KEPT_BACK} in --output names all that are kept back.",
    ),
]
Device = Annotated[str, typer.Option(help="Where to train: auto, cpu or cuda (an NVIDIA GPU).")]
Devices = Annotated[int, typer.Option(min=1, help="Number of GPUs (or processes on a CPU).")]
Precision = Annotated[
    str,
    typer.Option(
        help="Numbers to compute with: 32-true (32 bits); bf16-mixed (in part 16 bits), faster "
        "where the processor has bfloat16; 16-mixed, for GPUs."
    ),
]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that prepare data; 0: the training process itself.")
]


def choose_recipe(name: str, settings: list[str] | None) -> Recipe:
    """A named recipe with settings changed."""
    if name not in RECIPES:
        raise ValueError(f"--recipe: expected one of {', '.join(RECIPES)}, got {name!r}")
    return change(RECIPES[name](), settings or [])


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


def choose_mixture(
    share: list[str] | None, keep_back_source: list[str] | None, keep_back: int
) -> Mixture:
    """Which photos to learn from, as the options say."""
    return Mixture(parse_shares(share or []), keep_back_source or (), keep_back)


def choose_devices(device: str, devices: int, precision: str) -> Fabric:
    """The devices to train on; not launched."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device: expected auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: cuda was asked for, but torch sees no GPU here; use cpu")
    if devices > torch.cuda.device_count() > 0 and device != "cpu":
        raise ValueError(
            f"--devices: {devices} were asked for, torch sees {torch.cuda.device_count()} here"
        )
    return Fabric(
        accelerator="cuda" if device != "cpu" and torch.cuda.is_available() else "cpu",
        devices=devices,
        strategy="auto" if devices == 1 else "ddp_find_unused_parameters_true",
        precision=precision,  # type: ignore[arg-type]
    )


def run_training(
    function: Callable[..., dict[str, float]],
    /,
    *,
    recipe: Recipe,
    fabric: Fabric,
    output: Path,
    measured_on: str = "validation patches",
    **options: Any,
) -> None:
    """Train with progress shown; then one process shows the figures and says where the model is.

    Args:
        function: ``train_deepmask`` or another one that trains; it is given the rest.
        recipe: All numbers.
        fabric: The devices.
        output: Folder of the run.
        measured_on: What the figures are of.
        options: Further arguments of the function.
    """
    with stop_reported(fabric), StepProgress(recipe) as steps:
        figures = function(
            recipe=recipe, fabric=fabric, output=output, report=complain, on_step=steps, **options
        )  # fmt: skip
    if fabric.is_global_zero:
        show_trained(figures, output, measured_on)


def show_trained(figures: dict[str, float], output: Path, measured_on: str) -> None:
    """Show the figures of a training, and say where the model is."""
    if figures:
        table = Table("figure", "value", title=measured_on)
        for name, value in figures.items():
            table.add_row(name, f"{value:.4g}")
        out.print(table)
    out.print(f"model in {output / MODEL}", markup=False)
