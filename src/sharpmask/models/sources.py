"""Where model files are: names in the package, paths, Hugging Face repositories."""

import difflib
import os
import re
import warnings
from pathlib import Path

from sharpmask.extras import extras_for
from sharpmask.files import fingerprint


class WeightsError(ValueError):
    """A weights file or name cannot be used; the message names it and says what to do."""


WEIGHTS = Path(__file__).parents[1] / "weights"
"""The models that come with the package."""
DETECTORS = "detector-"
"""What the names of detectors begin with."""
SUCCESSORS = {"deepmask-mobilenetv2": "deepmask-nano", "sharpmask-mobilenetv2": "sharpmask-nano"}
"""Names of models of 0.1, and what such a name means now."""
DESCRIPTION = "sharpmask.json"
"""File of an exported model that says what it is."""
PARTS = (".onnx", ".xml", ".bin")
"""What other files of an exported model end in."""
FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".t7", ".onnx", ".xml", ".json")
"""What a missing file of weights may end in, unlike a repository."""


def names() -> list[str]:
    """Names of the models that come with the package."""
    return [name for name in shipped() if not name.startswith(DETECTORS)]


def shipped() -> list[str]:
    """Names of all that comes with the package: models, and detectors, which need one of them."""
    return sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))


def shipped_export(source: str | os.PathLike[str]) -> Path | None:
    """The folder of a shipped model's ONNX form; None for a model that comes without one."""
    folder = WEIGHTS / str(source)
    return folder if str(source) in names() and folder.is_dir() else None


def resolve(source: str | os.PathLike[str]) -> Path:
    """The file behind a name, path or repository.

    Raises:
        WeightsError: There is none.
        MissingExtraError: It is a repository, and huggingface_hub is not installed.
    """
    if successor := SUCCESSORS.get(str(source)):
        warnings.warn(f"{source} is now {successor}, a better model", FutureWarning, stacklevel=2)
        source = successor
    if str(source) in shipped():
        return WEIGHTS / f"{source}.safetensors"
    folder = Path(source)
    path = folder / "model.safetensors" if folder.is_dir() else folder
    if path.suffix in PARTS and (path.parent / DESCRIPTION).exists():
        raise WeightsError(f"{source}: a part of an exported model; give its folder")
    if path.is_file():
        return path
    if folder.is_dir() and (folder / DESCRIPTION).exists():
        raise WeightsError(
            f"{source}: an exported model, which can only be run; give the one that it was made of"
        )
    if folder.is_dir():
        raise WeightsError(
            f"{source}: a folder without a model: neither model.safetensors nor {DESCRIPTION}, as "
            "exported models have; was all of it copied, and has its run kept a model yet?"
        )
    if is_repository(str(source)) and not path.parent.exists():
        return _download(str(source))
    close = difflib.get_close_matches(str(source), shipped(), n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else f"known names: {', '.join(shipped())}"
    raise WeightsError(f"{source}: no such weights file or name; {hint}")


def is_repository(source: str) -> bool:
    """Whether a text reads as a Hugging Face repository, "owner/name", rather than as a file."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source)) and not source.endswith(FILE_SUFFIXES)


def source_fingerprint(source: str | os.PathLike[str]) -> str:
    """16 hexadecimal digits that tell what a source holds: a model, or an exported model's folder.

    Raises:
        WeightsError: There is none.
    """
    folder = Path(source)
    if folder.is_dir() and not (folder / "model.safetensors").exists():
        return fingerprint(*sorted(file for file in folder.iterdir() if file.is_file()))[:16]
    return fingerprint(resolve(source))[:16]


def _download(repository: str) -> Path:
    with extras_for(repository):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise WeightsError(f"{repository}: cannot be fetched from Hugging Face: {reason}") from None
