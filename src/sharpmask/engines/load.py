"""From a model's name to the engine that runs it."""

import hashlib
import os
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

from platformdirs import user_cache_path

from sharpmask.engines.exported import DESCRIPTION, ExportedEngine, Runtime
from sharpmask.engines.protocol import Engine
from sharpmask.models.sources import resolve

EngineName = Literal["auto", "openvino-bf16", "openvino", "onnx", "torch", "compile"]

PACKAGES: dict[Runtime, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
}
"""What runs exported models, and what else it takes to export them, the fastest first."""


def load_engine(
    source: str | os.PathLike[str],
    engine: EngineName = "auto",
    device: str = "auto",
    *,
    streams: int = 1,
) -> Engine:
    """A model, ready to be run by a ``Proposer``.

    OpenVINO and ONNX Runtime read an exported form of the model. It is made when it is first
    needed, which takes some seconds, and kept in the user's cache folder.

    Args:
        source: What ``load`` takes, or a folder that ``sharpmask export`` wrote.
        engine: "openvino", "openvino-bf16" (bfloat16 where the processor has AMX), "onnx", "torch"
            or "compile" (``torch.compile``); "auto" is torch on a GPU, on a CPU the fastest that is
            installed.
        device: "auto", "cpu" or "cuda"; only torch runs on a GPU.
        streams: Images that threads may read at the same time (see ``map_ordered``); the cores are
            divided among them, for torch in the whole process.

    Raises:
        WeightsError: There is no such model.
        ValueError: The engine is unknown or not installed, or cannot run on the device.
    """
    if engine not in get_args(EngineName):
        raise ValueError(
            f"engine: expected one of {', '.join(get_args(EngineName))}, got {engine!r}"
        )
    folder = Path(source)
    bfloat16 = engine in ("auto", "openvino-bf16")
    if (folder / DESCRIPTION).is_file():
        if device not in ("auto", "cpu"):
            raise ValueError(f"device: exported models run on the cpu here, not on {device}")
        ready = ExportedEngine(folder, streams=streams, bfloat16=bfloat16)
        if engine != "auto" and engine.removesuffix("-bf16") != ready.runtime:
            raise ValueError(f"engine: {source} was exported for {ready.runtime}, not {engine}")
        return ready
    if engine == "auto":
        installed = [name for name, packages in PACKAGES.items() if all(map(find_spec, packages))]
        engine = "torch" if on_gpu(device) or not installed else installed[0]
    if engine in ("openvino-bf16", "openvino", "onnx"):
        if device not in ("auto", "cpu"):
            raise ValueError(f"device: {engine} runs on the cpu here, not on {device}; use torch")
        runtime: Runtime = "onnx" if engine == "onnx" else "openvino"
        return exported(resolve(source), runtime, streams, bfloat16)
    from sharpmask.engines.torch_engine import TorchEngine, choose_device
    from sharpmask.models.pretrained import load

    model = load(source)
    if streams > 1:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // streams))
    return TorchEngine(model, choose_device(device), compiled=engine == "compile")


def on_gpu(device: str) -> bool:
    """Whether torch would run on a GPU; torch is asked only where there may be one."""
    if device == "auto" and shutil.which("nvidia-smi"):
        from sharpmask.engines.torch_engine import choose_device

        return choose_device(device).type == "cuda"
    return device.startswith("cuda")


def exported(path: Path, runtime: Runtime, streams: int, bfloat16: bool) -> ExportedEngine:
    """The engine of a model file's exported form, which is kept in the user's cache."""
    if not all(map(find_spec, PACKAGES[runtime])):
        raise ValueError(
            f"engine: {runtime} needs {', '.join(PACKAGES[runtime])}; "
            f"pip install 'sharpmask[{runtime}]'"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    parts = (path.stem, digest, runtime, version(PACKAGES[runtime][0]), version("sharpmask"))
    folder = user_cache_path("sharpmask") / "-".join(parts)
    if not (folder / DESCRIPTION).is_file():
        from sharpmask.engines.export import export
        from sharpmask.models.pretrained import load

        model = load(path)
        try:
            export(model, folder, runtime)
        except OSError:  # no room or no right to keep it
            with TemporaryDirectory() as temporary:
                export(model, Path(temporary), runtime)
                return ExportedEngine(Path(temporary), streams=streams, bfloat16=bfloat16)
    return ExportedEngine(folder, streams=streams, bfloat16=bfloat16)
