"""The exported form of a shipped model: the same weights as its safetensors, the same answers."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from reference.thin_models import thinnest
from sharpmask.defaults import MODEL
from sharpmask.engines.export import compare, export
from sharpmask.engines.load import load_engine
from sharpmask.engines.onnx_files import SMALLEST_BYTES, slim
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.models.pretrained import load
from sharpmask.models.sources import DESCRIPTION, names, resolve, shipped_export
from sharpmask.models.window_net import weights_fingerprint

SHIPPED = [name for name in names() if shipped_export(name)]
MAX_BYTES = 20_000_000
"""Of each file in the package."""


def description(name):
    return json.loads((shipped_export(name) / DESCRIPTION).read_text())


def test_default_model_is_shipped_exported():
    assert MODEL in SHIPPED
    assert shipped_export("no such model") is None
    assert shipped_export("../weights") is None


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_export_has_the_weights_beside_it(name):
    model = load(name)
    told = description(name)
    assert told["weights"] == weights_fingerprint(model)
    assert told["architecture"] == model.architecture
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert told["weights"] != weights_fingerprint(model)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_export_answers_as_the_weights_beside_it(name, runtime):
    engine = load_engine(name, runtime)
    assert engine.name == runtime
    compare(engine, TorchEngine(load(name), torch.device("cpu")))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_export_holds_no_notes_and_half_the_bytes(name):
    for half in ("encoder", "decoder"):
        path = shipped_export(name) / f"{half}.onnx"
        model = onnx.load(path)
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        tensors = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
        large = [x for x in tensors if x.nbytes >= SMALLEST_BYTES and x.dtype.kind == "f"]
        # Kernels that are sums of several weights are not numbers of float16.
        exact = sum(x.nbytes for x in large if x.dtype != np.float16)
        assert exact < 0.05 * sum(x.nbytes for x in large)


def test_every_file_of_the_package_is_small():
    package = Path(resolve(MODEL)).parents[1]
    sizes = {path: path.stat().st_size for path in package.rglob("*") if path.is_file()}
    assert max(sizes.values()) < MAX_BYTES


def test_onnx_folder_is_run_by_its_own_runtime_unless_told():
    folder = shipped_export(MODEL)
    assert load_engine(folder).name == "onnx"
    with pytest.raises(ValueError, match="is an exported model, which torch cannot run"):
        load_engine(folder, "torch")


# --- files made small ---


def network(*tensors):
    """A network that adds tensors to its input, one after the other."""
    values, nodes = ["x"], []
    for index in range(len(tensors)):
        nodes.append(
            helper.make_node("Add", [values[-1], f"t{index}"], [f"y{index}"], doc_string="at home")
        )
        values.append(f"y{index}")
    form = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [512]) for n in ("x", values[-1])]
    weights = [numpy_helper.from_array(x, f"t{index}") for index, x in enumerate(tensors)]
    graph = helper.make_graph(nodes, "sums", form[:1], form[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_slim_halves_what_float16_holds_and_changes_no_answer(tmp_path):
    import onnxruntime

    rng = np.random.default_rng(0)
    exact = rng.normal(size=512).astype(np.float16).astype(np.float32)
    not_exact = rng.normal(size=512).astype(np.float32)
    too_large = np.full(512, 1e6, np.float32)
    path = tmp_path / "sums.onnx"
    onnx.save(network(exact, not_exact, too_large), path)
    x = rng.normal(size=512).astype(np.float32)
    before = onnxruntime.InferenceSession(path).run(None, {"x": x})[0]
    slim(path)
    onnx.checker.check_model(path, full_check=True)
    np.testing.assert_array_equal(onnxruntime.InferenceSession(path).run(None, {"x": x})[0], before)
    model = onnx.load(path)
    kinds = sorted(numpy_helper.to_array(t).dtype.name for t in model.graph.initializer)
    assert kinds == ["float16", "float32", "float32"]
    assert not any(node.doc_string for node in model.graph.node)


def test_slim_reorders_what_is_added_by_a_convolution_and_changes_no_answer(tmp_path):
    import onnxruntime

    form = {"x": [2, 3, 5, 4], "turned": [2, 4, 3, 5], "y": [2, 4, 3, 5], "other": [2, 4, 3, 5]}
    x, turned, y, other = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in form.items()
    )
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Add", ["turned", "turned"], ["y"]),
        helper.make_node("Transpose", ["x"], ["other"], perm=[0, 3, 1, 2]),  # is not added
    ]
    graph = helper.make_graph(nodes, "turn", [x], [y, other], value_info=[turned])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "turn.onnx"
    onnx.save(model, path)
    given = np.random.default_rng(0).normal(size=form["x"]).astype(np.float32)
    expected = given.transpose(0, 3, 1, 2)
    slim(path)
    onnx.checker.check_model(path, full_check=True)
    found = onnxruntime.InferenceSession(path).run(None, {"x": given})
    np.testing.assert_array_equal(found[0], 2 * expected)
    np.testing.assert_array_equal(found[1], expected)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds == ["Transpose", "Conv", "Add", "Transpose"]


@pytest.mark.slow  # exports to ONNX
def test_export_of_other_weights_has_another_fingerprint(tmp_path):
    export(thinnest(), tmp_path, "onnx")
    told = json.loads((tmp_path / DESCRIPTION).read_text())["weights"]
    assert told == weights_fingerprint(thinnest()) != weights_fingerprint(thinnest("b"))
