"""From whatever names or holds a model to the engine that runs it."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from sharpmask.engines.export_cache import PACKAGES, exported, missing, runs
from sharpmask.engines.exported import ExportedEngine, Runtime
from sharpmask.engines.protocol import Engine
from sharpmask.extras import extras_for
from sharpmask.models.sources import DESCRIPTION, resolve, shipped_export

if TYPE_CHECKING:  # exported models run without torch
    from sharpmask.models.pretrained import Model

EngineName = Literal["auto", "openvino-bf16", "openvino", "onnx", "torch", "compile"]


def engine_of(
    source: "str | os.PathLike[str] | Model | Engine",
    engine: EngineName = "auto",
    device: str = "auto",
    *,
    streams: int = 1,
) -> Engine:
    """The engine of a name, file, folder or repository, of a model, or an engine itself.

    Args:
        source: What ``load_engine`` takes; or a model, which torch runs; or an engine, which comes
            back as it is.
        engine: As for ``load_engine``.
        device: As for ``load_engine``.
        streams: As for ``load_engine``.

    Raises:
        WeightsError: There is no such model.
        ValueError: The engine or device cannot be had for this source.
    """
    if isinstance(source, str | os.PathLike):
        return load_engine(source, engine, device, streams=streams)
    if isinstance(source, Engine):
        if engine != "auto" or device != "auto":
            raise ValueError(
                f"engine, device: the engine {source.name} is made already; give both where it "
                "is made"
            )
        return source
    with extras_for("engine torch"):
        from sharpmask.engines.torch_engine import TorchEngine, choose_device

    if engine not in ("auto", "torch", "compile"):
        raise ValueError(
            f"engine: a model in memory is run by torch or compile, not by {engine}; save it and "
            "give the file"
        )
    return TorchEngine(source, choose_device(device), compiled=engine == "compile")


def load_engine(
    source: str | os.PathLike[str],
    engine: EngineName = "auto",
    device: str = "auto",
    *,
    streams: int = 1,
) -> Engine:
    """A model, ready to be run by a ``Proposer``; threads may share it from the first call on.

    OpenVINO and ONNX Runtime read an exported form of the model. The default model comes with one.
    Of others it is made when it is first needed, which takes torch and some seconds, and kept in
    the user's cache folder.

    Args:
        source: What ``load`` takes, or a folder that ``sharpmask export`` wrote.
        engine: "openvino", "openvino-bf16" (bfloat16 where the processor has AMX), "onnx", "torch"
            or "compile" (``torch.compile``); "auto" is torch on a GPU, on a CPU the fastest that is
            installed.
        device: "auto", "cpu" or "cuda"; only torch runs on a GPU.
        streams: Images that threads may read at the same time (see ``map_ordered``). OpenVINO and
            ONNX Runtime divide the cores among them; torch's cores are divided by whoever starts
            the threads (see ``shared_by``).

    Raises:
        WeightsError: There is no such model.
        MissingExtraError: What runs the model, or what exports it, is not installed.
        ValueError: The engine is unknown, or cannot run on the device.
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
        if engine in ("torch", "compile"):
            raise ValueError(f"engine: {source} is an exported model, which {engine} cannot run")
        runtime = None if engine == "auto" else runtime_of(engine)
        return ExportedEngine(folder, runtime=runtime, streams=streams, bfloat16=bfloat16)
    ready = shipped_export(source)
    if engine == "auto":
        engine = fastest(device, is_exported=ready is not None)
    if engine in ("openvino-bf16", "openvino", "onnx"):
        if device not in ("auto", "cpu"):
            raise ValueError(f"device: {engine} runs on the cpu here, not on {device}; use torch")
        runtime = runtime_of(engine)
        if ready:
            return ExportedEngine(ready, runtime=runtime, streams=streams, bfloat16=bfloat16)
        return exported(resolve(source), runtime, streams=streams, bfloat16=bfloat16)
    with extras_for(f"{source}: the engine {engine}"):
        from sharpmask.models.pretrained import load

    return engine_of(load(source), engine, device)


def runtime_of(engine: EngineName) -> Runtime:
    """What runs an exported model under the name of an engine."""
    return "onnx" if engine == "onnx" else "openvino"


def fastest(device: str, *, is_exported: bool) -> EngineName:
    """The fastest engine that is installed, for a model that is exported already or is not yet.

    ONNX Runtime runs the shipped exports fastest; OpenVINO runs what was not exported as fast and
    takes seconds to export it, not a minute (docs/performance.md).
    """
    if on_gpu(device):
        return "torch"
    if is_exported and runs("onnx"):
        return "onnx"
    for runtime in PACKAGES:
        if runs(runtime) and (is_exported or not missing(runtime)):
            return runtime
    return "torch"


def on_gpu(device: str) -> bool:
    """Whether torch would run on a GPU; torch is asked only where there may be one."""
    if device == "auto" and shutil.which("nvidia-smi") and find_spec("torch"):
        from sharpmask.engines.torch_engine import choose_device

        return choose_device(device).type == "cuda"
    return device.startswith("cuda")
