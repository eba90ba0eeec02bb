"""ONNX files made small and fit for ONNX Runtime; what they compute stays the same bit for bit."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

SMALLEST_BYTES = 1024
"""Smaller tensors stay as they are: what is gained is less than a cast takes."""


def slim(file: Path) -> None:
    """Make an ONNX file small and fit for ONNX Runtime.

    Released weights are float16 numbers in float32. They are stored in float16, and cast when the
    model is loaded: runtimes fold the casts away. Notes of the exporter, such as the lines of code
    that an operation came from, are left out.

    Args:
        file: Replaced.
    """
    model = onnx.load(file)
    reorder_by_convolution(model)
    remove_notes(model)
    casts = list(store_in_float16(model))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, file)


def store_in_float16(model: ModelProto) -> Iterator[onnx.NodeProto]:
    """Halve the tensors that float16 holds exactly; gives the casts to their old names."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.nbytes < SMALLEST_BYTES:
            continue
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if np.array_equal(half, array):
            name, stored = tensor.name, f"{tensor.name}.float16"
            tensor.CopyFrom(numpy_helper.from_array(half, stored))
            yield helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT)


def reorder_by_convolution(model: ModelProto) -> None:
    """Let a convolution that changes nothing write what is read channels last and then added.

    ONNX Runtime turns such an array with one thread into an order in which it can be added to
    others. What a convolution reads and writes it reorders with all threads.
    """
    graph = model.graph
    channels = {
        value.name: value.type.tensor_type.shape.dim[1].dim_value
        for value in graph.value_info
        if len(value.type.tensor_type.shape.dim) == 4
    }
    added = {name for node in graph.node if node.op_type == "Add" for name in node.input}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        name = node.output[0]
        if node.op_type == "Transpose" and name in added and channels.get(name):
            if list(node.attribute[0].ints) != [0, 3, 1, 2]:
                continue
            node.output[0], kernel = f"{name}.turned", f"{name}.identity"
            identity = np.eye(channels[name], dtype=np.float32)[:, :, None, None]
            graph.initializer.append(numpy_helper.from_array(identity, kernel))
            nodes.append(helper.make_node("Conv", [node.output[0], kernel], [name]))
    del graph.node[:]
    graph.node.extend(nodes)


def remove_notes(model: ModelProto) -> None:
    """Leave out what says where the parts of a model came from."""
    graph = model.graph
    for part in (
        model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output,
        *graph.value_info,
    ):  # fmt: skip
        del part.metadata_props[:]
        part.doc_string = ""
