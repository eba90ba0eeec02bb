"""Engines that run exported models without torch, and the choice of the fastest one installed."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, UInt8
from platformdirs import user_cache_path

from sharpmask.geometry import PatchGeometry
from sharpmask.inference.engine import Engine
from sharpmask.inference.streams import cores
from sharpmask.models.sources import WeightsError, resolve

Runtime = Literal["openvino", "onnx"]
EngineName = Literal["auto", "openvino-bf16", "openvino", "onnx", "torch", "compile"]

DESCRIPTION = "sharpmask.json"
"""File of an exported model that says what it is."""
PACKAGES: dict[Runtime, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
}
"""What runs exported models, and what else it takes to export them, the fastest first."""

Features = list[np.ndarray]
Run = Callable[..., list[np.ndarray]]


class ExportedEngine:
    """A model exported by ``sharpmask export``.

    Args:
        folder: What ``export`` wrote.
        streams: Images that threads may read at the same time; the processor's cores are divided
            among them.
        bfloat16: Let OpenVINO compute in bfloat16 where that is faster: with Intel AMX.

    Raises:
        WeightsError: It holds no exported model, or the package that runs it is not installed.
    """

    def __init__(self, folder: Path, *, streams: int = 1, bfloat16: bool = False) -> None:
        try:
            description = json.loads((folder / DESCRIPTION).read_text())
            self.geometry = PatchGeometry(**description["geometry"])
            self.runtime: str = description["runtime"]
            bfloat16 = bfloat16 and self.runtime == "openvino" and has_amx()
            self.name = f"{self.runtime}-bf16" if bfloat16 else self.runtime
            starts: dict[str, Callable[[Path, int], Run]] = {
                "openvino": partial(start_openvino, bfloat16=bfloat16),
                "onnx": start_onnx,
            }
            start = starts[self.runtime]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{folder}: holds no exported model: {error}") from None
        try:
            self.encoder = start(folder / "encoder", streams)
            self.decoder = start(folder / "decoder", streams)
        except ImportError as error:
            raise WeightsError(
                f"{folder}: {error}; pip install 'sharpmask[{self.runtime}]'"
            ) from None
        except Exception as error:  # each runtime raises kinds of its own
            reason = str(error).strip().splitlines()[-1]
            raise WeightsError(f"{folder}: {reason}; export the model again") from None

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Features:
        """Scores, embedding and lateral features; sides are whole strides."""
        return self.encoder(image)

    def score(self, features: Features) -> Float[np.ndarray, "rows columns"]:
        """Objectness logits of all cells."""
        return features[0]

    def decode(
        self, features: Features, cells: Int[np.ndarray, "n 2"]
    ) -> Float[np.ndarray, "n s s"]:
        """Mask logits of the chosen cells (row, column)."""
        return self.decoder(cells, *features[1:])[0]


@cache
def openvino_core() -> Any:
    """OpenVINO, for as long as the process lives.

    It gives the thread that starts it an alternate signal stack. When several have come and gone,
    one that was freed may be left in place, and the next Ctrl-C ends the process.
    """
    import openvino

    return openvino.Core()


def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 matrices (Intel AMX; told on Linux only).

    Where AVX-512 alone computes in bfloat16, float32 is faster.
    """
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def start_openvino(path: Path, streams: int, *, bfloat16: bool) -> Run:
    """A function of arrays from OpenVINO's .xml and .bin."""
    precision = "bf16" if bfloat16 else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": streams}
    compiled = openvino_core().compile_model(path.with_suffix(".xml"), "CPU", settings)
    thread = threading.local()

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        if not hasattr(thread, "request"):
            thread.request = compiled.create_infer_request()
        outputs = thread.request.infer(list(inputs), share_inputs=True)
        return [outputs[number] for number in range(len(compiled.outputs))]

    return run


def start_onnx(path: Path, streams: int) -> Run:
    """A function of arrays from an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if streams > 1:
        options.intra_op_num_threads = max(1, cores() // streams)
    session = onnxruntime.InferenceSession(
        path.with_suffix(".onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        outputs: list[np.ndarray] = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    return run


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
    from sharpmask.inference.torch_engine import TorchEngine, choose_device
    from sharpmask.models.weights import load

    model = load(source)
    if streams > 1:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // streams))
    return TorchEngine(model, choose_device(device), compiled=engine == "compile")


def on_gpu(device: str) -> bool:
    """Whether torch would run on a GPU; torch is asked only where there may be one."""
    if device == "auto" and shutil.which("nvidia-smi"):
        from sharpmask.inference.torch_engine import choose_device

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
        from sharpmask.export.exporters import export
        from sharpmask.models.weights import load

        model = load(path)
        try:
            export(model, folder, runtime)
        except OSError:  # no room or no right to keep it
            with TemporaryDirectory() as temporary:
                export(model, Path(temporary), runtime)
                return ExportedEngine(Path(temporary), streams=streams, bfloat16=bfloat16)
    return ExportedEngine(folder, streams=streams, bfloat16=bfloat16)
