"""The page as a folder for any web host: the model runs in the visitor's browser.

The package holds the page alone. ONNX Runtime's WebAssembly, 14 MB that nobody else needs, comes
from npm when a folder is made, and is checked against the hash that is written here.
"""

import base64
import hashlib
import shutil
import tarfile
import urllib.request
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sharpmask.extras import extras_for
from sharpmask.files import cache_folder, replacing_file, replacing_folder, write_json
from sharpmask.inference.proposer import POOL, Proposer
from sharpmask.models.sources import DESCRIPTION, shipped_export
from sharpmask.pyramid_geometry import PyramidGeometry

RUNTIME = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
RUNTIME_SHA512 = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""What npm says of it, in base64."""
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def build_page(weights: str, output: Path, *, runtime: Path | None = None) -> None:
    """Write the page, a model and what runs it.

    Args:
        weights: What ``load`` takes, or a folder that ``sharpmask export --format onnx`` wrote.
        output: The folder; replaced.
        runtime: ``onnxruntime-web``'s archive from npm; fetched and kept in the cache if None.

    Raises:
        ValueError: The model has no feature pyramid, the archive cannot be had or is another one.
    """
    if output.exists() and not (output / "page.js").exists() and any(output.iterdir()):
        raise ValueError(f"{output}: holds other files; give an empty folder")
    archive = runtime or fetch_runtime()
    _check(archive)
    with TemporaryDirectory() as temporary, replacing_folder(output) as folder:
        model = _onnx(weights, Path(temporary))
        proposer = Proposer(model, engine="onnx")
        static = resources.files("sharpmask.serve") / "static"
        with resources.as_file(static) as page:
            shutil.copytree(page, folder, dirs_exist_ok=True)
        (folder / "model").mkdir()
        for name in ("encoder.onnx", "decoder.onnx"):
            shutil.copyfile(model / name, folder / "model" / name)
        with tarfile.open(archive) as tar:
            for name in RUNTIME_FILES:
                member = tar.extractfile(f"package/dist/{name}")
                assert member is not None
                (folder / "ort" / name).write_bytes(member.read())
        write_json(folder / "config.json", {"mode": "browser", "model": settings_of(proposer)})


def settings_of(proposer: Proposer) -> dict[str, Any]:
    """What ``proposer.js`` must know of a proposer and its model.

    Raises:
        ValueError: The model has no feature pyramid.
    """
    geometry = proposer.engine.geometry
    if not isinstance(geometry, PyramidGeometry):
        raise ValueError("weights: the page runs models with a feature pyramid alone")
    switch = geometry.aim_switch
    return {
        "octaves": proposer.octaves,
        "image_size": proposer.image_size,
        "num_proposals": proposer.num_proposals,
        "num_candidates": proposer.num_candidates,
        "pool": POOL,
        "mask_threshold": proposer.mask_threshold,
        "quality_exponent": proposer.quality_exponent,
        "suppression": proposer.suppression,
        "clean": proposer.clean,
        "nearness": geometry.nearness,
        "strides": geometry.strides,
        "cell_offset": geometry.cell_offset,
        "mask_size": geometry.mask_size,
        "doublings": geometry.doublings,
        "object_share": geometry.object_share,
        "aims": [
            {"below": below, **geometry.aim(longer)._asdict()}
            for below, longer in ((switch, 0.0), (None, switch))
        ],
    }


def fetch_runtime() -> Path:
    """The archive of ``onnxruntime-web``, from the cache or from npm.

    Raises:
        ValueError: It cannot be fetched.
    """
    path = cache_folder() / "npm" / RUNTIME.rpartition("/")[2]
    if not path.exists():
        try:
            with urllib.request.urlopen(RUNTIME, timeout=60) as answer:
                content = answer.read()
        except OSError as error:
            raise ValueError(
                f"{RUNTIME}: cannot be fetched ({error}); fetch it elsewhere and give --runtime"
            ) from None
        with replacing_file(path) as file:
            file.write(content)
    return path


def _check(archive: Path) -> None:
    try:
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha512").digest()
    except OSError as error:
        raise ValueError(f"{archive}: cannot be read ({error.strerror})") from None
    if base64.b64encode(found).decode() != RUNTIME_SHA512:
        raise ValueError(f"{archive}: is not {RUNTIME.rpartition('/')[2]} as npm has it; remove it")


def _onnx(weights: str, temporary: Path) -> Path:
    """A folder with the model in ONNX."""
    if (Path(weights) / DESCRIPTION).is_file():
        return Path(weights)
    if ready := shipped_export(weights):
        return ready
    with extras_for(f"{weights}: a model that does not come as ONNX"):
        from sharpmask.engines.export import export
        from sharpmask.models.pretrained import load
    export(load(weights), temporary, "onnx")
    return temporary
