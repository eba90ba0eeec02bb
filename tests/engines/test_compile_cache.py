"""Compiled networks that are kept: by content and settings, whole, bounded, for many processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sharpmask.engines import compile_cache
from sharpmask.engines.compile_cache import compiled_by
from sharpmask.engines.exported import openvino_core

IMAGE = np.random.default_rng(0).normal(size=(1, 2, 12, 16)).astype(np.float32)
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}


class Core:
    """OpenVINO's core; counts what it compiles and what it takes from the cache."""

    def __init__(self):
        self.compiled = self.imported = 0

    def compile_model(self, *given):
        self.compiled += 1
        return openvino_core().compile_model(*given)

    def import_model(self, *given):
        network = openvino_core().import_model(*given)
        self.imported += 1
        return network

    def get_property(self, *given):
        return openvino_core().get_property(*given)

    @property
    def done(self):
        return self.compiled, self.imported


def network(path, seed=0):
    """A convolution of an image of any size, as an ONNX file."""
    weight = np.random.default_rng(seed).normal(size=(3, 2, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    forms = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, "h", "w"])
        for name, channels in (("x", 2), ("y", 3))
    ]
    graph = helper.make_graph(
        [node], "conv", forms[:1], forms[1:], [numpy_helper.from_array(weight, "w")]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of compiled networks of this test's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sharpmask" / "compiled"


def answer(core, path, settings=SETTINGS):
    return compiled_by(core, path, settings)(IMAGE)[0]


def test_network_compiled_before_is_taken_from_the_cache_and_answers_alike(kept, tmp_path):
    core, path = Core(), network(tmp_path / "a.onnx")
    first = answer(core, path)
    assert core.done == (1, 0)
    np.testing.assert_array_equal(answer(core, path), first)
    assert core.done == (1, 1)
    moved = path.rename(tmp_path / "b.onnx")
    np.testing.assert_array_equal(answer(core, moved), first)
    assert core.done == (1, 2)


def test_other_weights_settings_or_processor_are_compiled_anew(kept, tmp_path, monkeypatch):
    core, path = Core(), network(tmp_path / "a.onnx")
    first = answer(core, path)
    answer(core, path, SETTINGS | {"NUM_STREAMS": 2})
    other = answer(core, network(path, seed=1))
    assert np.abs(other - first).max() > 0.1
    monkeypatch.setattr(core, "get_property", lambda *_: ["another"])
    answer(core, path)
    assert core.done == (4, 0)
    assert len([*kept.iterdir()]) == 4


@pytest.mark.parametrize("harm", [lambda x: x[:-100], lambda x: x[:500] + b"?" + x[501:]])
def test_damaged_file_is_made_anew(kept, tmp_path, harm):
    core, path = Core(), network(tmp_path / "a.onnx")
    first = answer(core, path)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    np.testing.assert_array_equal(answer(core, path), first)
    assert core.done == (2, 0)
    answer(core, path)
    assert core.done == (2, 1)


def test_network_runs_where_nothing_can_be_kept(kept, tmp_path):
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")  # a file where the folder should be
    core, path = Core(), network(tmp_path / "a.onnx")
    np.testing.assert_array_equal(answer(core, path), answer(core, path))
    assert core.done == (2, 0)


def test_cache_over_its_size_loses_what_was_not_used_for_longest(kept, tmp_path, monkeypatch):
    core, path = Core(), network(tmp_path / "a.onnx")
    answer(core, path)
    (file,) = kept.iterdir()
    long_ago = time.time() - 7200
    os.utime(file, (long_ago, long_ago))
    answer(core, path)
    assert file.stat().st_mtime > long_ago + 3600  # using it counts
    os.utime(file, (long_ago, long_ago))
    monkeypatch.setattr(compile_cache, "MAX_BYTES", 1)
    answer(core, network(tmp_path / "b.onnx", seed=1))
    (left,) = kept.iterdir()
    assert left != file


@pytest.mark.slow
def test_processes_at_once_all_answer_alike(kept, tmp_path):
    path = network(tmp_path / "a.onnx")
    program = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, *{sys.path!r}]
from pathlib import Path
from test_compile_cache import answer
from sharpmask.engines.exported import openvino_core
print([float(answer(openvino_core(), Path({str(path)!r})).sum()) for _ in range(20)])
"""
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = {process.communicate(timeout=120)[0] for process in processes}
    assert len(told) == 1
    assert len(set(told.pop().strip("[]\n").split(", "))) == 1
    assert len([*kept.iterdir()]) == 1
