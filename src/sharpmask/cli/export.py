"""``sharpmask export``: models for ONNX Runtime and OpenVINO."""

from pathlib import Path
from typing import Annotated

import typer

from sharpmask.cli.console import clear_errors, out
from sharpmask.export.exporters import export as export_model
from sharpmask.export.runtimes import Runtime
from sharpmask.models.weights import load

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    output: Annotated[Path, typer.Option(help="Folder for the exported model.")],
    weights: Annotated[
        str, typer.Option(help="Name, file, or Hugging Face repository.")
    ] = "sharpmask-mobilenetv2",
    runtime: Annotated[Runtime, typer.Option("--format", help="What is to run it.")] = "onnx",
) -> None:
    """Export a model: an encoder and a decoder for images of any size, normalisation inside.

    The exported model is run once and compared with the original. Use it with --weights FOLDER.
    """
    with clear_errors():
        engine = export_model(load(weights), output, runtime)
        out.print(f"{engine.name} in {output}; use it with --weights {output}", markup=False)
