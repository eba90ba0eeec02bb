"""Where results may be written: names that do not repeat, and that no given photo has."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path


def overlay_paths(paths: Sequence[Path], output: Path) -> dict[Path, Path]:
    """A PNG for each photo: overlay.png for one, else in overlays/, named after the photo.

    Names that repeat are numbered, names longer than the disk allows are cut, and none is that of a
    photo which was given.
    """
    folder = output if len(paths) == 1 else output / "overlays"
    taken = _identities(paths)
    used: set[str] = set()
    pictures: dict[Path, Path] = {}
    for path in paths:
        stem = "overlay" if len(paths) == 1 else _fitting(path.stem, folder)
        name, copies = f"{stem}.png", 1
        # Some disks take "A" for "a", and two ways to write "é" for the same.
        while (
            _folded(name) in used
            or _identity(folder / name) in taken
            or os.path.realpath(folder / name) in taken
        ):
            copies += 1
            name = f"{stem}-{copies}.png"
        used.add(_folded(name))
        pictures[path] = folder / name
    return pictures


def refuse_photos(files: Sequence[Path], photos: Sequence[Path]) -> None:
    """Refuse to write files where photos lie.

    Raises:
        ValueError: A file is one of the photos, be it through a link.
    """
    taken = _identities(photos)
    for path in files:
        if _identity(path) in taken or os.path.realpath(path) in taken:
            raise ValueError(f"{path}: is one of the photos; give another --output")


def _identities(paths: Iterable[Path]) -> set[object]:
    """Everything by which files can be told, under whatever name."""
    forms: set[object] = set()
    for path in paths:
        forms |= {os.path.realpath(path), _identity(path)}
    return forms - {None}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _fitting(stem: str, folder: Path) -> str:
    """As much of a name as leaves room for a number and ".png"."""
    while not folder.exists():
        folder = folder.parent
    try:
        longest = os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        longest = 255
    while len(os.fsencode(stem)) > longest - len("-99999.png"):
        stem = stem[:-1]
    return stem
