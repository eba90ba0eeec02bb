"""What a run learns from: read once, checked, and remembered."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from sharpmask.coco.annotations import CocoDataset, leave_out_unreadable, load_coco
from sharpmask.data.mixture import Mixture, keep_back
from sharpmask.files import fingerprint, owned, write_json
from sharpmask.inference.batch import Report, silent
from sharpmask.models.window_net import SavedNet
from sharpmask.training.checkpoint import previous
from sharpmask.training.loop import CHECKPOINT

ORIGIN = "origin.json"
"""File of a run's folder that says what it learns from."""
MODEL = "model.safetensors"
KEPT_BACK = "kept_back.json"
"""File of a run's folder that names the photos that it does not learn from."""

StrPath = str | PathLike[str]


def train_on_files(
    model: SavedNet,
    train: StrPath | Sequence[StrPath],
    images: StrPath,
    val: StrPath | None,
    *,
    output: Path,
    fabric: Fabric,
    report: Report,
    origin: Mapping[str, Any],
    mixture: Mixture,
    seed: int,
    learn: Callable[..., dict[str, float]],
) -> dict[str, float]:
    """Read the data, note what the run learns from, keep back what it asks for, train.

    Args:
        model: Changed in place.
        train: COCO annotation file or files.
        images: Folder of the photos.
        val: COCO annotation file to measure on.
        output: Folder of the run.
        fabric: Is launched.
        report: Is told, in a line each, what the data hold and what is left out of them.
        origin: What else the run learns from, by the option that gives it.
        mixture: Which of the photos are learned from. The names of the others are written to
            ``output/kept_back.json``.
        seed: Of the draw of photos kept back.
        learn: Trains; is given the model and, by keyword, ``data``, ``validation``, ``shares`` and
            ``known``, what the model's file tells beside other things.

    Returns:
        What ``learn`` returns.

    Raises:
        ValueError: Bad data, the folder holds another run, or another run writes there.
    """
    fabric.launch()
    say = report if fabric.is_global_zero else silent
    with data_of_run(train, images, val, output=output, fabric=fabric, report=say) as read:
        data, validation = read
        origin = {
            "command": f"train {model.architecture['model']}",
            "model": model.architecture,
            **origin,
            **mixture.origin(),
            **data_origin(data, validation, Path(images)),
        }
        remember(output, origin, report=say, write=fabric.is_global_zero)
        rest, kept = keep_back(
            data, sources=mixture.sources_kept_back, count=mixture.photos_kept_back, seed=seed
        )
        known: dict[str, Any] = {"shares": dict(mixture.shares)} if mixture.shares else {}
        if kept.images:
            folder = Path(images)
            names = sorted(image.path.relative_to(folder).as_posix() for image in kept.images)
            known["kept_back"] = names
            if fabric.is_global_zero:
                write_json(output / KEPT_BACK, names, indent=0)
        return learn(model, data=rest, validation=validation, shares=mixture.shares, known=known)


@contextmanager
def data_of_run(
    train: StrPath | Sequence[StrPath],
    images: StrPath,
    val: StrPath | None,
    *,
    output: Path,
    fabric: Fabric,
    report: Report,
    boxes: bool = False,
) -> Iterator[tuple[CocoDataset, CocoDataset | None]]:
    """What a run learns from and is measured on; no other run writes to its folder meanwhile.

    Args:
        train: COCO annotation file or files.
        images: Folder of the photos.
        val: COCO annotation file to measure on.
        output: Folder of the run.
        fabric: Launched.
        report: Is told, in a line each, what the data hold and what is left out of them.
        boxes: As for ``load_coco``, of what is learned from.

    Raises:
        ValueError: Bad data, or another run writes there now.
    """
    # What is wrong with the files is found before the folder is made and all photos are read.
    files, images = files_of(train), Path(images)
    stated = load_coco(files, images, boxes=boxes)
    stated_val = load_coco(Path(val), images) if val else None
    with only_run(output, fabric):
        data = readable(stated, names_of(files), report)
        validation = None
        if val and stated_val:
            validation = readable(stated_val, Path(val).name, report)
        yield data, validation


@contextmanager
def only_run(output: Path, fabric: Fabric) -> Iterator[None]:
    """A run's folder, to which no other run writes meanwhile; the run's processes share it.

    Raises:
        ValueError: Another run writes there now.
    """
    with ExitStack() as stack:
        problem = ""
        if fabric.is_global_zero:
            try:
                stack.enter_context(owned(output))
            except ValueError as error:
                problem = str(error)
        if problem := fabric.broadcast(problem):
            raise ValueError(problem)
        yield


def readable(stated: CocoDataset, name: str, report: Report) -> CocoDataset:
    """The photos that can be read; what cannot be used is reported.

    Args:
        stated: What annotation files say.
        name: What reports call it.
        report: Is told of all that is left out, and what is left.

    Raises:
        ValueError: No photo can be read.
    """
    data, problems = leave_out_unreadable(stated)
    tell_left_out(problems, len(stated.images), name, report)
    tell(data, name, report)
    return data


def tell_left_out(problems: Sequence[str], count: int, name: str, report: Report) -> None:
    """Report the photos, of ``count``, that cannot be used.

    Raises:
        ValueError: None can.
    """
    first = f", e.g. {problems[0]}" if problems else ""
    if len(problems) == count:
        raise ValueError(f"{name}: none of {count} photos can be used{first}")
    if problems:
        report(f"{name}: {len(problems)} of {count} photos left out{first}")


def tell(data: CocoDataset, name: str, report: Report) -> None:
    """Report what data hold, and what is left out of them."""
    for reason, count in sorted(data.skipped.items()):
        report(f"{name}: {count} annotations not used: {reason}")
    for reason, count in sorted(data.repaired.items()):
        report(f"{name}: {count} annotations repaired: {reason}")
    report(
        f"{name}: {len(data.images)} photos, {objects_in(data)} objects, "
        f"{len(data.categories)} categories"
    )


def files_of(files: StrPath | Sequence[StrPath]) -> list[Path]:
    """One file or several.

    Raises:
        ValueError: There is none.
    """
    given = [files] if isinstance(files, str | PathLike) else files
    if not given:
        raise ValueError("train: expected one annotation file or several, got none")
    return [Path(file) for file in given]


def names_of(files: Sequence[Path]) -> str:
    """What reports call data that comes from these files."""
    return " + ".join(file.name for file in files)


def objects_in(data: CocoDataset) -> int:
    """Number of objects that can be learned from."""
    return sum(len(image.instances) for image in data.images)


def data_origin(
    data: CocoDataset, validation: CocoDataset | None, images: Path
) -> dict[str, str | None]:
    """What tells a run's data from other data, by the option that names it.

    Photos are told apart by name and size in bytes, so that a folder may be moved.
    """

    def of_labels(data: CocoDataset) -> str:
        parts = [json.dumps(data.categories).encode()]
        for image in data.images:
            objects = [
                (data.categories[i.category], *map(float, i.box), str(i.rle["counts"]))
                for i in image.instances
            ]
            crowds = [tuple(map(float, crowd)) for crowd in image.crowds]
            name = image.path.relative_to(images).as_posix()
            known = (image.id, name, *image.size, image.complete, objects, crowds)
            parts.append(json.dumps(known).encode())
        counts = f"{len(data.images)} photos, {objects_in(data)} objects"
        return f"{counts} [{fingerprint(*parts)[:8]}]"

    photos = sorted({image.path for d in (data, validation) if d for image in d.images})
    sizes = [
        (path.relative_to(images).as_posix(), path.stat().st_size if path.exists() else None)
        for path in photos
    ]
    return {
        "train": of_labels(data),
        "val": of_labels(validation) if validation else None,
        "images": f"{len(photos)} photos [{fingerprint(json.dumps(sizes).encode())[:8]}]",
    }


def remember(output: Path, origin: Mapping[str, Any], *, report: Report, write: bool) -> None:
    """Note what a run learns from, or refuse to go on with one that learned from anything else.

    Args:
        output: Folder of the run.
        origin: What it learns from: anything JSON holds.
        report: Is told of a run that noted nothing.
        write: Whether to note it; one of several processes does.

    Raises:
        ValueError: The folder holds another run, or the model of something else.
    """
    origin = json.loads(json.dumps(origin))
    has_checkpoint = (output / CHECKPOINT).exists() or previous(output / CHECKPOINT).exists()
    try:
        noted = json.loads((output / ORIGIN).read_text())
    except FileNotFoundError:
        noted = None
    except ValueError:
        raise ValueError(f"{output / ORIGIN}: not a JSON file; give another --output") from None
    if has_checkpoint and noted is None:
        report(
            f"{output}: this run was begun by version 0.1 and did not note what it learns from; "
            "make sure that it is the same"
        )
    elif noted is None and (output / MODEL).exists():
        raise ValueError(
            f"{output}: holds a {MODEL} and no note of what it learned from; give another --output"
        )
    elif has_checkpoint or (output / MODEL).exists():
        if found := list(differences(noted, origin)):
            raise ValueError(
                f"{output}: the run there learned from something else ({'; '.join(found)}); "
                "give another --output, or what that run was given to go on with it"
            )
    elif write:
        write_json(output / ORIGIN, origin, indent=1)


def differences(noted: Any, origin: Any, name: str = "") -> Iterator[str]:
    """In words, what differs in two nested dicts."""
    if isinstance(noted, dict) and isinstance(origin, dict):
        for key in noted | origin:
            yield from differences(noted.get(key), origin.get(key), f"{name} {key}".strip())
    elif noted != origin:
        there, now = (
            "not given" if value is None else ", ".join(map(str, value))
            if isinstance(value, list) else str(value)
            for value in (noted, origin)
        )  # fmt: skip
        yield f"{name}: {there} there, {now} now"
