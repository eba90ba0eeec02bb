"""``sharpmask export``: models for ONNX Runtime and OpenVINO."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from sharpmask import defaults
from sharpmask.cli.console import clear_errors, complain, out
from sharpmask.cli.model_options import Weights
from sharpmask.coco.reader import load_ground_truth
from sharpmask.engines.export import export as export_model
from sharpmask.engines.exported import Runtime
from sharpmask.engines.load import load_engine
from sharpmask.evaluation.run import evaluate_model
from sharpmask.images import list_images
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import load

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    output: Annotated[Path, typer.Option(help="Folder for the exported model.")],
    weights: Weights = defaults.MODEL,
    runtime: Annotated[
        Runtime, typer.Option("--format", help="What will run the exported model.")
    ] = "onnx",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Compute in 8 bits: faster, less exact; needs --format openvino and --calibrate.",
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="For --int8: folder of sample photos, by which numbers are scaled to 8 bits."
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="For --int8: COCO annotation file on which the exact and the 8-bit model are "
            "measured."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photos of --annotations.")
    ] = None,
) -> None:
    """Write a model in a form that ONNX Runtime or OpenVINO runs without PyTorch.

    It has two parts, an encoder and a decoder, for photos of any size. It is run once and compared
    with the original. Other commands read it by --weights FOLDER.
    Needs sharpmask[onnx] or sharpmask[openvino,train].
    """
    with clear_errors():
        if int8 != (calibrate is not None) or (int8 and runtime != "openvino"):
            raise ValueError("--int8 goes with --format openvino and --calibrate DIR")
        if (annotations is None) != (images is None) or (annotations and not int8):
            raise ValueError("--annotations goes with --int8 and --images DIR")
        if calibrate and not calibrate.is_dir():
            raise ValueError(f"--calibrate: {calibrate}: no such folder")
        if calibrate is None:
            export_model(load(weights), output, runtime)
        else:
            from sharpmask.compress.int8 import quantise

            photos = list_images([calibrate])
            with TemporaryDirectory() as temporary:
                whole = export_model(load(weights), Path(temporary), runtime)
                likeness = quantise(Path(temporary), photos, output, complain)
            out.print(f"int8: mean IoU of the best masks with those of float32: {likeness:.3f}")
            if annotations and images:
                truth = load_ground_truth(annotations, photos=True)
                for name, engine in (("float32", whole), ("int8", load_engine(output))):
                    masks = evaluate_model(truth, images, Proposer(engine)).masks
                    if masks:
                        out.print(f"{name}: mask AR@100 {100 * masks.figures()['AR@100']:.1f}")
        out.print(f"{runtime} in {output}; use it with --weights {output}", markup=False)
