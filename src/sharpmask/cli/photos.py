"""What ``propose`` and ``detect`` share: photos and settings from options, and the last lines."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer

from sharpmask.cli.console import complain, out
from sharpmask.engines.protocol import Engine
from sharpmask.inference.batch import Outcome, find_photos, number_photos
from sharpmask.inference.journal import Photo
from sharpmask.models.sources import resolve


def photos_of(paths: Sequence[Path], annotations: Path | None) -> list[Photo]:
    """Photos with ids from their names, or from an annotation file."""
    return find_photos(paths, annotations, complain) if annotations else number_photos(paths)


def settings_of(context: typer.Context, engine: Engine, *sources: str) -> dict[str, Any]:
    """Collect what the results depend on besides the photos: options, engine and model files.

    The engine is the one that was chosen: "auto" may be another one next time.
    """
    options = {key: value for key, value in context.params.items() if key != "images"}
    options["engine"] = engine.name
    for source in sources:
        path = Path(source) if Path(source).is_dir() else resolve(source)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        options[f"files of {source}"] = states
    return options | {"version": version("sharpmask")}


def conclude(outcome: Outcome, given: int, file: Path) -> None:
    """Say what was written and what was not.

    Args:
        outcome: Of the photos that were worked on.
        given: How many photos the user gave.
        file: What was written.

    Raises:
        typer.Exit: Status 1 if something is missing, 2 if the only photo could not be read.
    """
    if outcome.done:
        counts = f"{outcome.records} {file.stem} for {outcome.done} of {given} photos"
        out.print(f"{counts} in {file}", markup=False)
    elif given == 1:
        raise typer.Exit(2)
    if outcome.done < given:
        complain(f"{given - outcome.done} of {given} photos could not be read")
    if outcome.undrawn:
        complain(f"{outcome.undrawn} pictures could not be written")
    if outcome.done < given or outcome.undrawn:
        raise typer.Exit(1)
