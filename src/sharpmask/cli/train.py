"""``sharpmask train``: both stages on COCO-format data of one's own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import typer
from lightning_fabric import Fabric
from platformdirs import user_cache_path
from rich.progress import track
from rich.table import Table

from sharpmask.cli.console import clear_errors, complain, err, out
from sharpmask.cli.train_pyramid import pyramid
from sharpmask.coco.annotations import CocoDataset, CocoImage, leave_out_unreadable, load_coco
from sharpmask.detection.detector import Detector
from sharpmask.detection.fast_rcnn import FastRCNN
from sharpmask.detection.files import load_classifier
from sharpmask.detection.rcnn import RegionNet
from sharpmask.detection.regions import (
    CachedRegions,
    FileRegions,
    RegionSource,
    frequent_categories,
    regions_of_all,
)
from sharpmask.detection.training import (
    Photos,
    chosen_categories,
    complete_photos,
    detection_figures,
    fit_fast_rcnn,
    fit_rcnn,
)
from sharpmask.engines.exported import DESCRIPTION
from sharpmask.engines.load import load_engine
from sharpmask.evaluation.average_precision import average_precision
from sharpmask.inference.batch import streams_for
from sharpmask.inference.proposer import Proposer
from sharpmask.models.backbones import BACKBONES
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.pretrained import Model, build, load, load_backbone
from sharpmask.models.sharpmask import SharpMask
from sharpmask.models.sources import resolve
from sharpmask.training.recipes import RECIPES, Recipe, change, fast_rcnn
from sharpmask.training.stages import train

app = typer.Typer(
    help="Train on COCO-format data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(pyramid)

Item = TypeVar("Item")
Kind = Literal["rcnn", "fast-rcnn"]
Train = Annotated[list[Path], typer.Option(help="COCO annotation file; may be repeated.")]
Images = Annotated[Path, typer.Option(help="Folder of the photos.")]
Output = Annotated[Path, typer.Option(help="Folder of the run; the same command resumes it.")]
Val = Annotated[Path | None, typer.Option(help="COCO annotation file to measure on.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value of the recipe.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Devices = Annotated[int, typer.Option(min=1, help="How many of them.")]
Precision = Annotated[
    str, typer.Option(help="32-true, bf16-mixed (also faster on CPUs that know bf16), 16-mixed.")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that prepare data.")]


@app.command()
def deepmask(
    train: Train,
    images: Images,
    output: Output,
    val: Val = None,
    backbone: Annotated[str, typer.Option(help=f"{', '.join(BACKBONES)}.")] = "mobilenet_v2",
    head: Annotated[str, typer.Option(help="original, a, b or c.")] = "c",
    bottleneck_channels: Annotated[int, typer.Option(min=1, help="Width of the bottleneck.")] = 128,
    init: Annotated[
        str | None, typer.Option(help="ImageNet weights of the backbone: file or repository.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="deepmask, patches-deepmask or paper-deepmask.")
    ] = "deepmask",
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """Stage one: the feed-forward net."""
    with clear_errors():
        options = {
            "backbone": backbone,
            "head": head,
            "bottleneck_channels": bottleneck_channels,
        }
        numbers = choose_recipe(recipe, settings)
        torch.manual_seed(numbers.seed)
        model = build({"model": "deepmask", **options})
        assert isinstance(model, DeepMask)
        if init:
            load_backbone(model.backbone, init)
        fabric = launch(device, devices, precision)
        run(model, train, images, val, numbers, output, fabric, workers)


@app.command()
def sharpmask(
    train: Train,
    images: Images,
    output: Output,
    deepmask: Annotated[
        str, typer.Option(help="Stage one: run folder, model file, name or repository.")
    ],
    val: Val = None,
    mask_channels: Annotated[int, typer.Option(min=1, help="k of the mask encoding.")] = 32,
    skip_channels: Annotated[int, typer.Option(min=1, help="k of the skip features.")] = 32,
    schedule: Annotated[str, typer.Option(help="halving or constant.")] = "halving",
    upsampling: Annotated[str, typer.Option(help="bilinear or nearest.")] = "bilinear",
    recipe: Annotated[
        str, typer.Option(help="sharpmask, patches-sharpmask or paper-sharpmask.")
    ] = "sharpmask",
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """Stage two: the refinement on top of a trained DeepMask, which stays as it is."""
    with clear_errors():
        first = load(deepmask)
        if not isinstance(first, DeepMask):
            raise ValueError(f"--deepmask {deepmask}: this is a SharpMask; give a DeepMask")
        options = {
            "mask_channels": mask_channels,
            "skip_channels": skip_channels,
            "schedule": schedule,
            "upsampling": upsampling,
        }
        numbers = choose_recipe(recipe, settings)
        torch.manual_seed(numbers.seed)
        model = build({"model": "sharpmask", "deepmask": first.architecture, **options})
        assert isinstance(model, SharpMask)
        model.deepmask.load_state_dict(first.state_dict())
        fabric = launch(device, devices, precision)
        run(model, train, images, val, numbers, output, fabric, workers)


@app.command()
def detector(
    train: Train,
    images: Images,
    output: Output,
    init: Annotated[str, typer.Option(help="ImageNet weights of the backbone.")],
    val: Val = None,
    kind: Annotated[Kind, typer.Option(help="rcnn learns in minutes.")] = "rcnn",
    backbone: Annotated[str, typer.Option(help=f"{', '.join(BACKBONES)}.")] = "mobilenet_v2",
    category: Annotated[
        list[str] | None, typer.Option(help="Learn this one; may be repeated. Default: all.")
    ] = None,
    min_objects: Annotated[
        int, typer.Option(min=1, help="Categories with fewer objects are left out.")
    ] = 10,
    weights: Annotated[str, typer.Option(help="Model that proposes.")] = "sharpmask-mobilenetv2",
    num_proposals: Annotated[int, typer.Option(min=1, help="Regions of a photo.")] = 200,
    scales: Annotated[str, typer.Option(help="default, zoom or zoom2.")] = "default",
    proposals: Annotated[
        Path | None, typer.Option(help="COCO results file to use instead of the model.")
    ] = None,
    val_proposals: Annotated[Path | None, typer.Option(help="The same for --val.")] = None,
    settings: Set = None,
    device: Device = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    workers: Workers = 1,
) -> None:
    """R-CNN or Fast R-CNN: names for proposals. Every object of the photos must be labelled."""
    with clear_errors():
        recipe = change(fast_rcnn(), settings or [])
        if kind == "rcnn" and (devices > 1 or recipe != replace(fast_rcnn(), seed=recipe.seed)):
            raise ValueError(
                "--kind rcnn: it is trained by one process and has no recipe but a seed; leave out "
                "--devices and what is --set besides seed, or choose --kind fast-rcnn"
            )
        fabric = launch(device, devices, precision)
        data = complete_photos(load_data(train, images, report=fabric.is_global_zero))
        numbers = frequent_categories(data, min_objects, category or ())
        categories = chosen_categories(data, numbers)
        names = [known.name for known in categories]
        if fabric.is_global_zero:
            out.print(f"{len(names)} categories: {', '.join(names)}", markup=False)
        # What is wrong with these is better said before proposals are made.
        if val:
            average_precision(val, [], categories=names)
        torch.manual_seed(recipe.seed)
        net = RegionNet(backbone) if kind == "rcnn" else FastRCNN(categories, backbone=backbone)
        load_backbone(net.backbone, init, tail=net.tail)
        used: dict[str, Any] = {"num_proposals": num_proposals, "scales": scales}
        if proposals:
            used["file"] = proposals.name
        else:
            used["weights"] = weights
        streams, threads = streams_for(len(data.images)), torch.get_num_threads()

        def regions_in(images: Sequence[CocoImage], file: Path | None) -> Photos:
            source: RegionSource
            if file:
                source = FileRegions(file, num_proposals, images, complain)
            else:
                proposer = Proposer(
                    load_engine(weights, device=device, streams=streams),
                    num_proposals=num_proposals,
                    scales=scales,
                )
                cache = user_cache_path("sharpmask") / "proposals"
                is_exported = (Path(weights) / DESCRIPTION).is_file()
                model_file = Path(weights) if is_exported else resolve(weights)
                source = CachedRegions(cache, model_file, proposer)
            found = regions_of_all(images, source, streams=streams, report=complain)
            photos = list(bar(found, "proposing", len(images)))
            torch.set_num_threads(threads)  # those that streams shared
            return photos

        validate = None
        if val:
            if proposals and not val_proposals:
                raise ValueError("--val-proposals: give the proposals of the photos of --val too")
            validation = load_data([val], images, report=fabric.is_global_zero)
            measured_on = regions_in(validation.images, val_proposals)
            validate = detection_figures(val, measured_on)
        photos = regions_in(data.images, proposals)
        metadata = {"proposals": used, "data": {"photos": len(photos)}}
        if isinstance(net, RegionNet):
            file = fit_rcnn(
                net.to(fabric.device), photos, data, numbers, output=output, metadata=metadata,
                seed=recipe.seed, track=bar,
            )  # fmt: skip
            figures = validate(Detector(load_classifier(file))) if validate else {}
        else:
            figures = fit_fast_rcnn(
                net, photos, data, numbers, recipe=recipe, output=output, metadata=metadata,
                fabric=fabric, workers=workers, validate=validate,
            )  # fmt: skip
        if fabric.is_global_zero:
            show(figures, "validation photos")
            out.print(f"detector in {output / 'model.safetensors'}", markup=False)


def bar(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """A progress bar, where somebody looks."""
    return track(items, description, total, console=err, disable=not err.is_terminal)


def choose_recipe(name: str, settings: list[str] | None) -> Recipe:
    """A named recipe with settings changed."""
    if name not in RECIPES:
        raise ValueError(f"--recipe: expected one of {', '.join(RECIPES)}, got {name!r}")
    return change(RECIPES[name](), settings or [])


def launch(device: str, devices: int, precision: str) -> Fabric:
    """The devices to train on."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device: expected auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: cuda was asked for, but torch sees no GPU here; use cpu")
    if devices > torch.cuda.device_count() > 0 and device != "cpu":
        raise ValueError(
            f"--devices: {devices} were asked for, torch sees {torch.cuda.device_count()} here"
        )
    accelerator = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    strategy = "auto" if devices == 1 else "ddp_find_unused_parameters_true"
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def run(
    model: Model,
    train_files: list[Path],
    images: Path,
    val: Path | None,
    recipe: Recipe,
    output: Path,
    fabric: Fabric,
    workers: int,
) -> None:
    """Load the data, train, say what came of it."""
    data = load_data(train_files, images, report=fabric.is_global_zero)
    validation = load_data([val], images, report=fabric.is_global_zero) if val else None
    figures = train(
        model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        data=data,
        validation=validation,
        recipe=recipe,
        output=output,
        fabric=fabric,
        workers=workers,
    )
    if not fabric.is_global_zero:
        return
    show(figures, "validation patches")
    out.print(f"model in {output / 'model.safetensors'}", markup=False)


def show(figures: Mapping[str, float], title: str) -> None:
    """Figures as a table, if there are any."""
    if figures:
        table = Table("figure", "value", title=title)
        for name, value in figures.items():
            table.add_row(name, f"{value:.4g}")
        out.print(table)


def load_data(files: list[Path], images: Path, *, report: bool) -> CocoDataset:
    """The photos that can be used; says what there is and, once, what cannot be used."""
    stated = load_coco(files, images)
    data, problems = leave_out_unreadable(stated)
    if problems and not data.images:
        raise ValueError(f"none of {len(problems)} photos can be used, e.g. {problems[0]}")
    if not report:
        return data
    if problems:
        complain(f"{len(problems)} of {len(stated.images)} photos left out, e.g. {problems[0]}")
    for reason, count in sorted(data.skipped.items()):
        complain(f"{count} annotations not used: {reason}")
    for reason, count in sorted(data.repaired.items()):
        complain(f"{count} annotations repaired: {reason}")
    objects = sum(len(image.instances) for image in data.images)
    names = " + ".join(file.name for file in files)
    out.print(
        f"{names}: {len(data.images)} photos, {objects} objects, {len(data.categories)} categories",
        markup=False,
    )
    return data
