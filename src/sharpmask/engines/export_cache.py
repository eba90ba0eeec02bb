"""Exported forms of models, made when they are first needed and kept in the user's cache."""

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from os import utime
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from sharpmask.engines.exported import ExportedEngine, Runtime
from sharpmask.extras import MissingExtraError, how_to_get
from sharpmask.files import LOCK, cache_folder, fingerprint, prune, replacing_folder
from sharpmask.models.sources import WeightsError

PACKAGES: dict[Runtime, tuple[str, ...]] = {
    "openvino": ("torch", "openvino"),
    "onnx": ("torch", "onnx", "onnxscript", "onnxruntime"),
}
"""What it takes to export models and to run them; what runs them comes last."""
MAX_BYTES = 2_000_000_000
"""What the cache of exported models may hold; the least recently used go first."""
SEAL = "seal"
"""File of a kept export with the fingerprint of the others."""


def missing(runtime: Runtime) -> list[str]:
    """Packages that are not installed, of those that export a model for a runtime and run it."""
    return [package for package in PACKAGES[runtime] if not find_spec(package)]


def runs(runtime: Runtime) -> bool:
    """Whether a runtime is installed."""
    return PACKAGES[runtime][-1] not in missing(runtime)


def exported(
    weights: Path, runtime: Runtime, *, streams: int = 1, bfloat16: bool = False
) -> ExportedEngine:
    """The engine of a model file's exported form.

    The form is kept by what it depends on: the weights, the package's code and the versions of
    what exports and runs it. Of several processes that need it one makes it and the others wait.
    Where nothing can be kept it is made for this call only.

    Raises:
        MissingExtraError: The runtime, or what exports for it, is not installed.
        ValueError: The model cannot be exported.
    """
    if lacking := missing(runtime):
        raise MissingExtraError(
            f"{weights}: must be exported before {runtime} can run it, but {how_to_get(lacking[0])}"
        )

    def start(folder: Path) -> ExportedEngine:
        return ExportedEngine(folder, streams=streams, bfloat16=bfloat16)

    folder = cache_folder() / "exported" / f"{runtime}-{_key(weights, runtime)}"
    if ready := _kept(folder, start):
        return ready
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / LOCK):
            if ready := _kept(folder, start):  # made while this process waited
                return ready
            with replacing_folder(folder) as new:
                _export(weights, new, runtime)
                (new / SEAL).write_text(_seal(new))
            prune(folder.parent, MAX_BYTES)
            return start(folder)
    except (OSError, NotImplementedError):  # no room, no right, or no locks there
        with TemporaryDirectory() as temporary:
            _export(weights, Path(temporary), runtime)
            return start(Path(temporary))


def _export(weights: Path, folder: Path, runtime: Runtime) -> None:
    from sharpmask.engines.export import export  # only who exports needs torch
    from sharpmask.models.pretrained import load

    export(load(weights), folder, runtime)


def _kept(folder: Path, start: Callable[[Path], ExportedEngine]) -> ExportedEngine | None:
    """The engine of a kept export; None if there is none or it is damaged."""
    with suppress(OSError, WeightsError):
        utime(folder)  # before it is read, so that nobody prunes it meanwhile
        if (folder / SEAL).read_text() == _seal(folder):
            return start(folder)
    return None


def _seal(folder: Path) -> str:
    """The fingerprint of all files of an export."""
    return fingerprint(*sorted(path for path in folder.iterdir() if path.name != SEAL))


def _key(weights: Path, runtime: Runtime) -> str:
    """A fingerprint of all that an exported form depends on."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    package = Path(__file__).parents[1]
    code = [*package.glob("engines/*.py"), *package.glob("models/*.py"), package / "geometry.py"]
    versions = []
    for name in PACKAGES[runtime]:
        with suppress(PackageNotFoundError):  # a build under another name
            versions.append(f"{name} {version(name)}")
    sources = [path for path in sorted(code) if path.is_file()]
    return fingerprint(weights, *sources, " ".join(versions).encode())
