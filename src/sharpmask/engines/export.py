"""Models for other runtimes: ONNX and OpenVINO, for images of any size, normalisation inside.

An exported model is a folder: ``encoder`` reads an image once and scores all its cells, ``decoder``
makes the masks of chosen cells from the encoder's features, ``sharpmask.json`` describes both.
"""

import copy
import dataclasses
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpmask.engines.exported import ExportedEngine, Runtime
from sharpmask.engines.threads import starting
from sharpmask.engines.torch_engine import Decoder, Encoder, TorchEngine
from sharpmask.extras import extras_for
from sharpmask.files import PART, some_home
from sharpmask.models.pretrained import Model
from sharpmask.models.sources import DESCRIPTION
from sharpmask.models.window_net import weights_fingerprint

LOGIT_TOLERANCE = 1e-3
"""How far an exported model's logits may be from torch's, where none exceeds 10."""


def export(model: Model, folder: Path, runtime: Runtime) -> ExportedEngine:
    """Write a model for another runtime and compare what that computes with torch.

    Args:
        model: Any of the package's; not changed.
        folder: Made if it does not exist. An earlier export in it is replaced, other files stay.
        runtime: "onnx" or "openvino".

    Returns:
        The exported model, loaded.

    Raises:
        MissingExtraError: A package that exports or runs it is not installed.
        ValueError: The logits differ from torch's.
    """
    write = {"onnx": write_onnx, "openvino": write_openvino}[runtime]
    model = copy.deepcopy(model).cpu().eval()
    geometry = model.geometry
    rng = np.random.default_rng(0)
    size = [geometry.smallest_size + more * geometry.size_step for more in (3, 4)]  # 4 x 5 cells
    image = torch.from_numpy(rng.integers(0, 256, (*size, 3), np.uint8))
    cells = torch.tensor([[0, 0, 1], [0, 2, 3], [geometry.num_levels - 1, 3, 4]])
    encoder, decoder = Encoder(model).eval(), Decoder(model).eval()
    with starting, some_home(), replacing(folder) as temporary, torch.no_grad():
        features = encoder(image)
        with warnings.catch_warnings(action="ignore"):  # of torch about its own tracers
            write(encoder, (image,), temporary / "encoder")
            last = len(features) - encoder.num_region_maps
            write(decoder, (cells, *features[geometry.num_levels : last]), temporary / "decoder")
        description = {
            "runtime": runtime,
            "geometry": dataclasses.asdict(geometry),
            "region_maps": encoder.num_region_maps,
            "architecture": model.architecture,
            "weights": weights_fingerprint(model),
            "metadata": model.metadata,
        }
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        engine = ExportedEngine(temporary)
        compare(engine, TorchEngine(model, torch.device("cpu")))
    return engine


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder whose files go to ``folder`` when all are written, the description last.

    So a folder with a description is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=PART) as temporary:
        yield Path(temporary)
        (folder / DESCRIPTION).unlink(missing_ok=True)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == DESCRIPTION):
            path.replace(folder / path.name)


def compare(engine: ExportedEngine, reference: TorchEngine) -> None:
    """Run both on an image of another size.

    Raises:
        ValueError: Their logits differ.
    """
    geometry = engine.geometry
    size = [geometry.smallest_size + more * geometry.size_step for more in (6, 2)]  # 7 x 3 cells
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    places = [[0, 0], [5, 2], [1, 1], [6, 0], [1, 1]]
    cells = np.array([[level, *place] for level in range(geometry.num_levels) for place in places])
    expected, expected_features = reference.encode(image)
    scores, features = engine.encode(image)
    pairs = [
        *zip(expected, scores, strict=True),
        (reference.decode(expected_features, cells), engine.decode(features, cells)),
        *zip(reference.region_maps(expected_features), engine.region_maps(features), strict=True),
    ]
    for first, second in pairs:
        difference = np.abs(first - second).max()
        allowed = LOGIT_TOLERANCE * max(1.0, np.abs(first).max() / 10)  # rounding grows with them
        if not difference < allowed:
            raise ValueError(
                f"{engine.name}: logits differ from torch's by {difference:.3g}, allowed are "
                f"{allowed:.3g}; try another version of {engine.name}, or the engine torch"
            )


def write_onnx(network: Encoder | Decoder, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Write a half of a model as an ONNX file and check it.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    with extras_for("export"):
        import onnx
        import onnxscript  # noqa: F401

        from sharpmask.engines.onnx_files import slim
    if isinstance(network, Encoder):
        geometry = network.model.geometry
        step = geometry.size_step
        sides = (step * torch.export.Dim(name, min=2) for name in ("rows", "columns"))
        shapes: tuple[Any, ...] = (dict(enumerate(sides)),)
        scores = [f"scores{level}" for level in range(geometry.num_levels)]
        regions = [f"region_map{index}" for index in range(network.num_region_maps)]
        features = feature_names(len(network(*inputs)) - len(scores) - len(regions))
        input_names, output_names = ["image"], [*scores, *features, *regions]
    else:
        free = torch.export.Dim.DYNAMIC
        shapes = ({0: free}, tuple(dict.fromkeys(free_sides(x), free) for x in inputs[1:]))
        input_names, output_names = ["cells", *feature_names(len(inputs) - 1)], ["masks"]
    file = path.with_suffix(".onnx")
    for name in ("torch.onnx", "onnxscript"):  # one misses torchvision, one tells what it leaves
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.onnx.export(
        network,
        inputs,
        file,
        input_names=input_names,
        output_names=output_names,
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    slim(file)
    onnx.checker.check_model(file, full_check=True)


def feature_names(count: int) -> list[str]:
    """What the encoder hands to the decoder."""
    return [f"feature{index}" for index in range(count)]


def free_sides(features: Tensor) -> tuple[int, ...]:
    """Dimensions of features that depend on the image: of a map (1, C, rows, columns), or a list.

    A list is (1, places, C).
    """
    return (2, 3) if features.ndim == 4 else (1,)


def write_openvino(network: Encoder | Decoder, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Write a half of a model as OpenVINO's .xml and .bin.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    with extras_for("export"):
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    # What openvino.convert_model does, but for its sending of usage data.
    frontend = FrontEndManager().load_by_framework("pytorch")
    traced = TorchScriptPythonDecoder(  # must outlive the next line
        network,
        example_input=inputs,
        trace_kwargs={"check_trace": False},  # ``compare`` checks what comes of it
    )
    model = frontend.convert(frontend.load(traced))
    if isinstance(network, Encoder):
        shapes = [[-1, -1, 3]]
    else:
        shapes = [[-1, 3]]
        for x in inputs[1:]:
            shapes.append([-1 if k in free_sides(x) else side for k, side in enumerate(x.shape)])
    model.reshape(
        {place: openvino.PartialShape(s) for place, s in zip(model.inputs, shapes, strict=True)}
    )
    openvino.save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
