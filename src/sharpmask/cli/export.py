"""``sharpmask export``: models for ONNX Runtime and OpenVINO."""

from pathlib import Path
from typing import Annotated

import typer

from sharpmask.cli.console import clear_errors, out
from sharpmask.export.exporters import export as export_model
from sharpmask.export.runtimes import Runtime
from sharpmask.images import list_images
from sharpmask.models.weights import load

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    output: Annotated[Path, typer.Option(help="Folder for the exported model.")],
    weights: Annotated[
        str, typer.Option(help="Name, file, or Hugging Face repository.")
    ] = "sharpmask-mobilenetv2",
    runtime: Annotated[Runtime, typer.Option("--format", help="What is to run it.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Round to 8 bits (openvino).")] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="For --int8: folder of photos like those it is for.")
    ] = None,
) -> None:
    """Export a model: an encoder and a decoder for images of any size, normalisation inside.

    The exported model is run once and compared with the original. Use it with --weights FOLDER.
    """
    with clear_errors():
        if int8 and (runtime != "openvino" or calibrate is None):
            raise ValueError("--int8: give --format openvino and --calibrate DIR too")
        engine = export_model(load(weights), output, runtime)
        if int8 and calibrate:
            from sharpmask.export.quantise import quantise

            likeness = quantise(output, list_images([calibrate]), output)
            out.print(f"int8: mean IoU of the best masks with those of float32: {likeness:.3f}")
        out.print(f"{engine.name} in {output}; use it with --weights {output}", markup=False)
