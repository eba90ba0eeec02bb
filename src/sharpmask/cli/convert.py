"""``sharpmask convert``: FAIR's Torch7 files as safetensors, proposals in Parquet as COCO."""

from pathlib import Path
from typing import Annotated

import typer

from sharpmask.cli.console import clear_errors, out
from sharpmask.coco.parquet_results import ParquetResults
from sharpmask.files import replacing_file
from sharpmask.stores import is_folder
from sharpmask.writers.writer import write_array

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="FAIR's file: a trained model (model.t7) or the ImageNet trunk (resnet-50.t7); or "
            "proposals in Parquet: a file, or the folder of sharpmask batch."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The .safetensors or .json file to write.")],
) -> None:
    """Convert a model of the papers' authors (FAIR) to safetensors, or Parquet proposals to COCO.

    Models are files of Torch7: a DeepMask, a SharpMask, or the ImageNet trunk for --init. They are
    read as plain data; nothing in them is executed. Proposals become COCO results.
    """
    with clear_errors():
        if source.endswith(".parquet") or is_folder(source):
            to_coco(source, target)
        else:
            from_torch7(Path(source), target)


def to_coco(source: str, target: Path) -> None:
    """Write proposals in Parquet as COCO results."""
    if target.suffix != ".json":
        raise ValueError(f"{target}: the target's name must end in .json")
    results = ParquetResults(source)
    if results.has_names:
        raise ValueError(
            f"{source}: holds named objects, and COCO results have no names; take detections.json, "
            "which detect wrote beside it"
        )
    with replacing_file(target) as file:
        count = write_array(file, results)
    out.print(f"{count} proposals for {len(results)} photos: {target}", markup=False)


def from_torch7(source: Path, target: Path) -> None:
    """Write a Torch7 file as safetensors."""
    from sharpmask.models.pretrained import save, save_atomically
    from sharpmask.torch7.convert import convert_torch7

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
