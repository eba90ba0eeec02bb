"""Engines that run exported models without torch."""

import json
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sharpmask.engines.compile_cache import compiled_by
from sharpmask.engines.protocol import ScoreMaps, answer_once
from sharpmask.engines.threads import cores, starting, visible_cores
from sharpmask.extras import MissingExtraError, extras_for
from sharpmask.models.sources import DESCRIPTION, WeightsError
from sharpmask.pyramid_geometry import geometry_of
from sharpmask.shapes import Float, Int, UInt8

Runtime = Literal["openvino", "onnx"]

SUFFIXES: dict[Runtime, str] = {"openvino": ".xml", "onnx": ".onnx"}
"""Of the networks that are exported for a runtime."""
Run = Callable[..., list[np.ndarray]]


class Features(NamedTuple):
    """What an image was read as.

    Attributes:
        masks: What masks are decoded from.
        regions: What a detector reads.
    """

    masks: Sequence[np.ndarray]
    regions: Sequence[np.ndarray]


class ExportedEngine:
    """A model exported by ``sharpmask export``; threads may share it from the first call on.

    Args:
        folder: What ``export`` wrote.
        runtime: What runs it: the one that it was exported for if None. OpenVINO runs both kinds.
        streams: Images that threads may read at the same time; the processor's cores are divided
            among them.
        bfloat16: Let OpenVINO compute in bfloat16 where that is faster: with Intel AMX.

    Raises:
        WeightsError: It holds no exported model.
        MissingExtraError: OpenVINO is not installed.
        ValueError: The runtime cannot run it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        runtime: Runtime | None = None,
        streams: int = 1,
        bfloat16: bool = False,
    ) -> None:
        self.again = partial(
            ExportedEngine, folder.absolute(), runtime=runtime, streams=streams, bfloat16=bfloat16
        )
        try:
            description = json.loads((folder / DESCRIPTION).read_text())
            self.geometry = geometry_of(description["geometry"])
            self.num_region_maps = int(description.get("region_maps", 0))
            self.has_region_maps = self.num_region_maps > 0
            suffix = SUFFIXES[description["runtime"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{folder}: holds no exported model of this version: {DESCRIPTION}: {error}; copy "
                "it again, or export the model again"
            ) from None
        self.runtime: Runtime = runtime or description["runtime"]
        if self.runtime == "onnx" and suffix != SUFFIXES["onnx"]:
            raise ValueError(f"engine: {folder} was exported for openvino, not onnx")
        bfloat16 = bfloat16 and self.runtime == "openvino" and has_amx()
        self.name = f"{self.runtime}-bf16" if bfloat16 else self.runtime
        starts: dict[Runtime, Callable[[Path, int], Run]] = {
            "openvino": partial(start_openvino, bfloat16=bfloat16),
            "onnx": start_onnx,
        }
        start = starts[self.runtime]
        try:
            with starting, extras_for(f"engine {self.name}"):
                self.encoder = start(folder / f"encoder{suffix}", streams)
                self.decoder = start(folder / f"decoder{suffix}", streams)
                answer_once(self)
        except MissingExtraError:
            raise
        except Exception as error:  # each runtime raises kinds of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise WeightsError(f"{folder}: {reason}; export the model again") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """What runs a model stays in its process: another one loads it again."""
        return self.again, ()

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[ScoreMaps, Features]:
        """Score logits of all cells of each level, and features."""
        outputs = self.encoder(image)
        levels = self.geometry.num_levels
        last = len(outputs) - self.num_region_maps
        return tuple(outputs[:levels]), Features(outputs[levels:last], outputs[last:])

    def decode(
        self, features: Features, cells: Int[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, "n s s"]:
        """Mask logits of the chosen cells (level, row, column)."""
        return self.decoder(cells, *features.masks)[0]

    def region_maps(self, features: Features) -> tuple[Float[np.ndarray, "c rows columns"], ...]:
        """The trunk's levels, for a detector."""
        return tuple(level[0] for level in features.regions)


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
    """A function of arrays from OpenVINO's .xml, beside which lies its .bin, or an ONNX file."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "NUM_STREAMS": streams,
    }
    if cores() < visible_cores():
        settings["INFERENCE_NUM_THREADS"] = cores()
        # Each of several processes would bind its threads to the same first cores.
        settings["ENABLE_CPU_PINNING"] = False
    compiled = compiled_by(openvino_core(), path, settings)
    idle: deque[Any] = deque()  # threads come and go; requests are used again

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        outputs = request.infer(list(inputs), share_inputs=True)
        results = [outputs[index] for index in range(len(compiled.outputs))]
        idle.append(request)
        return results

    return run


def start_onnx(path: Path, streams: int) -> Run:
    """A function of arrays from an ONNX file."""
    # Its makers would be told of the device and of each session, from the import on.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Photos differ in size: a plan for the memory of one would be new memory for each.
    options.enable_mem_pattern = False
    # Threads that wait for work by spinning take the cores from those that have some.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.dynamic_block_base", "4")
    if streams > 1 or cores() < visible_cores():
        options.intra_op_num_threads = max(1, cores() // streams)
    provider = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})
    session = onnxruntime.InferenceSession(path, options, providers=[provider])
    names = [item.name for item in session.get_inputs()]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        outputs: list[np.ndarray] = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    return run
