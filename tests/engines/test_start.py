"""The first answer of an engine: given once, before anybody can call it, never two at a time."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import sharpmask
from reference.thin_models import thin, thin_export, thin_file
from sharpmask.engines import exported
from sharpmask.engines.exported import ExportedEngine
from sharpmask.engines.load import load_engine

COLD = """
import sys, threading
sys.setswitchinterval(1e-6)  # threads give way at every chance
import numpy as np
from sharpmask.engines.load import load_engine
start = threading.Barrier(2)
image = np.zeros((320, 320, 3), np.uint8)
engines = [None, None]
def ask(index):
    if {each_its_own}:
        start.wait()
        engines[index] = load_engine({source!r}, {kind!r}, streams=2)
    start.wait()
    (scores,), features = engines[index].encode(image)
    engines[index].decode(features, np.array([[0, 0, index]]))
if not {each_its_own}:
    engines = [load_engine({source!r}, {kind!r}, streams=2)] * 2
threads = [threading.Thread(target=ask, args=(index,)) for index in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("both answered")
"""


def cold(source, kind, *, each_its_own=False, timeout=120):
    """Two threads' first calls in a new process; a process that hangs never ends."""
    program = COLD.format(source=str(source), kind=kind, each_its_own=each_its_own)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=timeout
    )
    assert done.stdout == "both answered\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("each_its_own", [False, True])
@pytest.mark.parametrize("kind", ["openvino", "onnx", "torch"])
def test_first_calls_of_two_threads_in_a_new_process_end(cache, kind, each_its_own):
    load_engine(thin_file(cache), kind)  # exported before, so that threads meet
    cold(thin_file(cache), kind, each_its_own=each_its_own)


def test_engines_started_by_threads_at_once_start_one_after_the_other(cache, monkeypatch):
    """What the runtime does first happens in one thread at a time, and before the engine comes."""
    folder = thin_export(cache)
    inside, most, calls = [], [], []
    lock = threading.Lock()

    def start(path, streams, *, bfloat16):
        def run(*inputs):
            with lock:
                inside.append(path)
                most.append(len(inside))
            time.sleep(0.01)
            with lock:
                inside.remove(path)
                calls.append(path.stem)
            cells = np.zeros((1, 1), np.float32)
            return [cells] if path.stem == "decoder" else [cells, cells]

        return run

    monkeypatch.setattr(exported, "start_openvino", start)
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(lambda _: ExportedEngine(folder), range(8)))
    assert len(engines) == 8
    assert max(most) == 1
    assert calls == ["encoder", "decoder"] * 8


FORKED = """
import os, sys
import numpy as np
from sharpmask.engines.load import load_engine
engine = load_engine({source!r}, {kind!r})
image = np.zeros((320, 320, 3), np.uint8)
engine.encode(image)
child = os.fork()
if not child:
    (scores,), features = engine.encode(image)
    engine.decode(features, np.array([[0, 0, 0]]))
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print("answered in the child")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["openvino", "onnx"])
def test_forked_process_answers_with_an_engine_used_before(cache, kind):
    """As docs/export.md says; torch does not."""
    load_engine(thin_file(cache), kind)
    program = FORKED.format(source=str(thin_file(cache)), kind=kind)
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "answered in the child\n", done.stderr


def test_engine_that_cannot_answer_is_refused_at_once(cache, monkeypatch):
    folder = thin_export(cache)

    def start(path, streams, *, bfloat16):
        def run(*inputs):
            raise RuntimeError("\n")

        return run

    monkeypatch.setattr(exported, "start_openvino", start)
    with pytest.raises(exported.WeightsError, match="RuntimeError; export the model again"):
        ExportedEngine(folder)


# --- the caller's model ---


def test_torch_engine_leaves_the_model_as_it_was():
    model = thin("resnet18", mask_channels=16).train()
    model.requires_grad_(True)
    before = {key: (value.clone(), value.stride()) for key, value in model.state_dict().items()}
    image = np.random.default_rng(0).integers(0, 256, (176, 192, 3), np.uint8)
    engine = sharpmask.Proposer(model, device="cpu").engine
    (first,), _ = engine.encode(image)
    assert all(module.training for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key][0])
        assert value.stride() == before[key][1]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with torch.no_grad():  # training goes on, the engine keeps its answers
        for parameter in model.parameters():
            parameter.add_(1)
    np.testing.assert_array_equal(engine.encode(image)[0][0], first)


# --- what nobody is told ---


def test_onnx_runtime_notes_and_sends_nothing_about_its_user(tmp_path):
    """Left alone it makes an id for the device, and a store of what it will send."""
    program = (
        "import sharpmask; sharpmask.load_engine('sharpmask-pyramid-nano', 'onnx'); "
        "import onnxruntime; print(onnxruntime.__version__)"
    )
    told = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if "sharpmask" not in path.parts] == []
