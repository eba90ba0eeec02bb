"""What ``propose`` and ``detect`` share: many photos in, one COCO results file out."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.progress import track

from sharpmask.cli.console import complain, err, out
from sharpmask.images import ImageError
from sharpmask.inference.streams import map_ordered


def write_records(
    paths: Sequence[Path],
    found_in: Callable[[tuple[Path, int]], list[dict[str, Any]]],
    file: Path,
    *,
    streams: int,
) -> None:
    """Write the records found in all photos that can be read; those of the others are reported.

    Args:
        paths: The photos.
        found_in: COCO results of a photo, given as its path and id; may be called by threads.
        file: The file to write, named after what it holds.
        streams: Photos worked on at once.

    Raises:
        typer.Exit: Status 1 if some of several photos could not be read, 2 if the only one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    done = failed = 0
    try:
        for found in track(
            map_ordered(found_in, zip(paths, image_ids(paths), strict=True), streams),
            f"{len(paths)} photos",
            total=len(paths),
            console=err,
            disable=len(paths) == 1 or not err.is_terminal,
        ):
            try:
                records += found.result()
                done += 1
            except ImageError as error:
                complain(error)
                failed += 1
    finally:
        if done:
            write_json(file, records)
    if failed == len(paths) == 1:
        raise typer.Exit(2)
    if done:
        out.print(
            f"{len(records)} {file.stem} for {done} of {len(paths)} photos in {file}", markup=False
        )
    if failed:
        complain(f"{failed} of {len(paths)} photos could not be read")
        raise typer.Exit(1)


def image_ids(paths: Sequence[Path]) -> list[int]:
    """The file names where all are distinct numbers, as in COCO; else positions from 1."""
    if all(path.stem.isdecimal() for path in paths):
        numbers = [int(path.stem) for path in paths]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(paths) + 1))


def overlay_paths(paths: Sequence[Path], output: Path) -> dict[Path, Path]:
    """A picture for each photo: overlay.png for one, else by name, numbered where names repeat.

    Their folder is made.
    """
    if len(paths) == 1:
        output.mkdir(parents=True, exist_ok=True)
        return {paths[0]: output / "overlay.png"}
    (output / "overlays").mkdir(parents=True, exist_ok=True)
    seen: Counter[str] = Counter()
    pictures: dict[Path, Path] = {}
    for path in paths:
        seen[path.name] += 1
        number = f"-{seen[path.name]}" if seen[path.name] > 1 else ""
        pictures[path] = output / "overlays" / f"{path.name}{number}.png"
    return pictures


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that is either whole or not there."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)
