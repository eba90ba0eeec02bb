"""``sharpmask convert``: FAIR's Torch7 files as safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from sharpmask.cli.console import clear_errors, out
from sharpmask.models.pretrained import save, save_atomically
from sharpmask.torch7.convert import convert_torch7

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="FAIR's file: a trained model (model.t7) or the ImageNet trunk (resnet-50.t7)."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Convert the models that the papers' authors (FAIR) published, files of Torch7, for use here.

    The file is read as plain data; nothing in it is executed.
    """
    with clear_errors():
        if target.suffix != ".safetensors":
            raise ValueError(f"{target}: the target's name must end in .safetensors")
        converted = convert_torch7(source)
        if isinstance(converted, dict):
            save_atomically(converted, target, {"converted_from": f'"{source.name}"'})
            out.print(f"ImageNet trunk in {target}; train with --init {target}", markup=False)
        else:
            save(converted, target, metadata={"converted_from": source.name})
            kind = converted.architecture["model"]
            out.print(f"{kind} in {target}; use it with --weights {target}", markup=False)
