"""One suite over all engines; torch's eager mode is the truth."""

import copy
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sharpmask
from sharpmask.cli.main import app
from sharpmask.compress.int8 import quantise
from sharpmask.engines import exported, load
from sharpmask.engines.export import LOGIT_TOLERANCE, compare, export
from sharpmask.engines.exported import DESCRIPTION
from sharpmask.engines.load import load_engine
from sharpmask.engines.protocol import Engine
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.images import read_image, write_image
from sharpmask.inference.batch import map_ordered
from sharpmask.masks import rle_iou
from sharpmask.models.pretrained import build, save
from sharpmask.models.sources import WeightsError, resolve

NAMES = ("deepmask-mobilenetv2", "sharpmask-mobilenetv2")
EXPORTED = ("openvino", "onnx")
COFFEE = resolve(NAMES[0]).parents[1] / "assets" / "coffee.jpg"


def thin(backbone, head="c", **sharpmask_options):
    """A model with random weights and narrow layers."""
    torch.manual_seed(0)
    deepmask = {"model": "deepmask", "backbone": backbone, "head": head, "vector": 16}
    deepmask |= {"bottleneck_channels": 8, "score_channels": 16}
    if backbone.startswith("resnet"):
        deepmask["width"] = 8
    if not sharpmask_options:
        return build(deepmask)
    return build({"model": "sharpmask", "deepmask": deepmask, **sharpmask_options})


def thin_file(folder):
    """A SharpMask of few layers, which torch exports to ONNX in seconds, with random weights."""
    path = folder / "thin.safetensors"
    if not path.exists():
        save(thin("vgg11", mask_channels=16, skip_channels=8), path)
    return path


@pytest.fixture(
    scope="session",
    params=[
        *((name, "openvino") for name in NAMES),
        ("thin", "onnx"),
        *(pytest.param((name, "onnx"), marks=pytest.mark.slow) for name in NAMES),
    ],
    ids="-".join,
)
def engine(request, cache):
    """The engine, and torch's for the same model."""
    name, kind = request.param
    source = thin_file(cache) if name == "thin" else name
    return load_engine(source, kind), load_engine(source, "torch")


@pytest.mark.parametrize("size", [(160, 160), (176, 400), (416, 192)], ids=str)
def test_logits_are_those_of_torch(engine, size):
    tested, eager = engine
    assert isinstance(tested, Engine)
    assert tested.geometry == eager.geometry
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    features, expected = tested.encode(image), eager.encode(image)
    scores = tested.score(features)
    assert scores.shape == tuple(tested.geometry.num_cells(side) for side in size)
    np.testing.assert_allclose(scores, eager.score(expected), atol=LOGIT_TOLERANCE)
    last = np.array(scores.shape) - 1
    for cells in (last[None], np.array([last, last, [0, 0]]), np.zeros((0, 2), np.int64)):
        masks = tested.decode(features, cells)
        assert masks.dtype == np.float32
        np.testing.assert_allclose(masks, eager.decode(expected, cells), atol=LOGIT_TOLERANCE)


def test_earlier_features_outlive_the_next_image(engine):
    tested, _ = engine
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 192, 192, 3), np.uint8)
    cells = np.array([[1, 1], [2, 0]])
    features = tested.encode(first)
    masks, scores = tested.decode(features, cells), tested.score(features).copy()
    np.testing.assert_array_equal(tested.decode(features, cells), masks)
    tested.encode(second)
    np.testing.assert_array_equal(tested.score(features), scores)
    np.testing.assert_array_equal(tested.decode(features, cells), masks)


def test_proposals_are_those_of_torch(engine):
    photo = read_image(COFFEE)[:391, :569]
    found, expected = (
        sharpmask.Proposer(e, num_proposals=100, num_candidates=150, scales=[-2, -1])(photo)
        for e in engine
    )
    assert len(found) == len(expected) == 100
    np.testing.assert_allclose(found.scores, expected.scores, atol=LOGIT_TOLERANCE)
    # Near ties may change places.
    best = rle_iou(found.rles(), expected.rles()).max(axis=1)
    assert best.min() > 0.99


@pytest.mark.parametrize("kind", ["torch", *EXPORTED])
def test_threads_may_share_an_engine(kind, cache, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    engine = load_engine(thin_file(cache), kind, streams=3)
    proposer = sharpmask.Proposer(engine, num_proposals=20, num_candidates=20, scales=[-2])
    photo = read_image(COFFEE)
    photos = [np.roll(photo, shift, 1) for shift in range(0, 400, 100)]
    expected = [proposer(photo).to_coco(1) for photo in photos]
    found = [call.result().to_coco(1) for call in map_ordered(proposer, photos, 3)]
    assert found == expected
    assert expected[0] != expected[1]


def test_ctrl_c_still_interrupts_after_engines_have_gone(cache):
    for _ in range(2):
        engine = load_engine(NAMES[1], "openvino")
        ending = threading.Thread(target=lambda parts: parts.clear(), args=([engine],))
        del engine
        ending.start()
        ending.join()
    with pytest.raises(KeyboardInterrupt):  # the process used to end here
        signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="needs a compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch about itself
@pytest.mark.parametrize("name", NAMES)
def test_compiled_torch_computes_the_same(name):
    compare(load_engine(name, "compile"), load_engine(name, "torch"))


@pytest.mark.slow
def test_a_model_without_laterals_goes_to_onnx(tmp_path):
    assert export(thin("vgg11"), tmp_path, "onnx").name == "onnx"


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTED)
@pytest.mark.parametrize(
    "model",
    [
        *(thin(backbone) for backbone in ("resnet18", "resnet50", "vgg11", "vgg16")),
        *(thin("resnet18", head) for head in "ab"),
        thin("vgg11", "original"),
        thin("resnet50", mask_channels=16, skip_channels=16, form="concatenated"),
        thin("vgg11", lateral=False),
        thin("resnet18", vertical=False, upsampling="nearest"),
    ],
    ids=lambda model: json.dumps(model.architecture),
)
def test_every_architecture_can_be_exported(model, kind, tmp_path):
    assert export(model, tmp_path, kind).name == kind  # which compares it with torch


# --- exporting ---


def test_a_wrong_runtime_is_noticed(engine):
    tested, eager = engine
    compare(tested, eager)
    model = copy.deepcopy(eager.encoder.model)
    with torch.no_grad():
        getattr(model, "deepmask", model).head.score_head[-1].bias += 0.01
    other = TorchEngine(model, torch.device("cpu"))
    with pytest.raises(ValueError, match=rf"{tested.name}: logits differ from torch's by 0\.01"):
        compare(tested, other)


def test_the_command_exports_what_weights_takes(tmp_path):
    save(thin("resnet18"), tmp_path / "thin.safetensors", metadata={"licence": "free"})
    folder = tmp_path / "exported"
    arguments = ["--weights", str(tmp_path / "thin.safetensors"), "--output", str(folder)]
    for _ in range(2):  # a second time replaces the first
        result = CliRunner().invoke(app, ["export", *arguments, "--format", "openvino"])
        assert result.exit_code == 0, result.output
        names = {"encoder.xml", "encoder.bin", "decoder.xml", "decoder.bin", DESCRIPTION}
        assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / DESCRIPTION).read_text())["metadata"] == {"licence": "free"}
    engine = load_engine(folder)
    assert engine.runtime == "openvino"
    assert len(sharpmask.Proposer(engine, num_proposals=5, scales=[0])(COFFEE)) == 5
    with pytest.raises(ValueError, match="was exported for openvino, not onnx"):
        load_engine(folder, "onnx")


# --- fewer bits ---


def test_bfloat16_is_used_where_the_processor_has_amx(monkeypatch):
    exact, fast = (load_engine(NAMES[1], name) for name in ("openvino", "openvino-bf16"))
    has_amx = torch.cpu._is_amx_tile_supported()
    assert fast.name == ("openvino-bf16" if has_amx else "openvino")
    photo = read_image(COFFEE)
    found, expected = (sharpmask.Proposer(e, scales=[-2, -1])(photo) for e in (fast, exact))
    assert rle_iou(found.rles(), expected.rles()).max(axis=1).mean() > 0.9
    image = np.random.default_rng(0).integers(0, 256, (192, 192, 3), np.uint8)
    difference = np.abs(fast.encode(image)[0] - exact.encode(image)[0]).max()
    assert bool(0.001 < difference < 0.5) == has_amx
    monkeypatch.setattr(exported, "has_amx", lambda: False)
    without = load_engine(NAMES[1], "openvino-bf16")
    assert without.name == "openvino"
    np.testing.assert_array_equal(without.encode(image)[0], exact.encode(image)[0])


def annotated(tmp_path, photos):
    """A COCO file with an object in the middle of each photo."""
    images, annotations = [], []
    for number, path in enumerate(sorted(photos.iterdir()), 1):
        height, width = read_image(path).shape[:2]
        x, y, w, h = width // 4, height // 4, width // 2, height // 2
        images.append({"id": number, "file_name": path.name, "height": height, "width": width})
        annotations.append({
            "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": w * h,
            "bbox": [x, y, w, h], "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        })  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": []}
    (tmp_path / "set.json").write_text(json.dumps(content))
    return str(tmp_path / "set.json")


def test_int8_is_smaller_and_much_alike(tmp_path):
    weights, photos = tmp_path / "thin.safetensors", tmp_path / "photos"
    save(thin("resnet18"), weights)
    photos.mkdir()
    for number in range(3):
        write_image(photos / f"{number}.png", np.roll(read_image(COFFEE)[::3, ::3], 50 * number, 1))
    arguments = ["export", "--weights", str(weights), "--format", "openvino"]
    folders = tmp_path / "whole", tmp_path / "int8"
    assert CliRunner().invoke(app, [*arguments, "--output", str(folders[0])]).exit_code == 0
    calibrated = ["--output", str(folders[1]), "--int8", "--calibrate", str(photos)]
    calibrated += ["--annotations", annotated(tmp_path, photos), "--images", str(photos)]
    result = CliRunner().invoke(app, [*arguments, *calibrated])
    assert result.exit_code == 0, result.output
    assert "float32: mask AR@100 " in result.stdout
    assert "int8: mask AR@100 " in result.stdout
    told = float(re.search(r"with those of float32: (0\.\d+|1\.000)", result.stdout)[1])
    whole, rounded = load_engine(folders[0], "openvino"), load_engine(folders[1])
    alike = []
    for number in range(3):
        old, new = (
            sharpmask.Proposer(engine)(photos / f"{number}.png").rles()
            for engine in (whole, rounded)
        )
        alike.append(np.mean([max(rle_iou([rle], new)[0]) for rle in old]))
    assert told == pytest.approx(np.mean(alike), abs=0.0006)
    assert 0.5 < told < 1
    sizes = [(folder / "encoder.bin").stat().st_size for folder in folders]
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--int8", "--format", "onnx", "--calibrate", "."], "--int8 goes with --format openvino"),
        (["--int8", "--format", "openvino"], "--int8 goes with --format openvino"),
        (["--format", "openvino", "--calibrate", "."], "--int8 goes with --format openvino"),
        (["--annotations", "a.json", "--images", "."], "--annotations goes with --int8"),
        (
            ["--int8", "--format", "openvino", "--calibrate", "none"],
            "--calibrate: none: no such folder",
        ),
    ],
    ids=str,
)
def test_int8_needs_openvino_and_photos(tmp_path, given, message):
    result = CliRunner().invoke(app, ["export", "--output", str(tmp_path), *given])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_nobody_is_told_of_the_rounding(tmp_path):
    """nncf sends usage data unless it is kept from it; under pytest it would not."""
    program = f"""
from pathlib import Path
from sharpmask.compress.int8 import quantise
try:
    quantise(Path({str(tmp_path)!r}), [], Path({str(tmp_path)!r}))
except ValueError as error:
    print(error)
from nncf.telemetry import wrapper
print(type(wrapper.telemetry).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "holds no exported model" in done.stdout
    assert done.stdout.split()[-1] == "MagicMock", done.stderr


def test_only_openvino_models_become_int8(cache, tmp_path):
    for runtime in EXPORTED:
        load_engine(thin_file(cache), runtime)
    openvino, onnx = (next(cache.glob(f"sharpmask/thin-*-{runtime}-*")) for runtime in EXPORTED)
    with pytest.raises(ValueError, match="is exported for onnx, expected openvino"):
        quantise(onnx, [COFFEE], tmp_path)
    with pytest.raises(ValueError, match="photos are needed to calibrate on, got none"):
        quantise(openvino, [], tmp_path)


# --- choosing ---


def test_the_fastest_installed_engine_is_taken(monkeypatch, cache):
    missing = set()
    monkeypatch.setattr(load, "find_spec", lambda name: None if name in missing else name)
    monkeypatch.setattr(load, "exported", lambda path, runtime, *options: (runtime, *options))
    assert load_engine(NAMES[0]) == ("openvino", 1, True)
    assert load_engine(NAMES[0], "openvino") == ("openvino", 1, False)
    missing.add("openvino")
    assert load_engine(NAMES[0])[0] == "onnx"
    missing.add("onnxscript")
    assert load_engine(NAMES[0]).name == "torch"


def test_a_gpu_is_for_torch(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not load.on_gpu("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load.on_gpu("auto")
    assert load.on_gpu("cuda:0")
    assert not load.on_gpu("cpu")
    with pytest.raises(ValueError, match="onnx runs on the cpu here, not on cuda; use torch"):
        load_engine(NAMES[0], "onnx", "cuda")


def test_engines_that_are_unknown_or_missing(monkeypatch):
    with pytest.raises(ValueError, match=r"engine: expected one of auto, openvino.*got 'tpu'"):
        load_engine(NAMES[0], "tpu")
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"onnx needs onnxruntime.*pip install 'sharpmask\[onnx\]'"
    ):
        load_engine(NAMES[0], "onnx")


def test_the_exported_form_is_kept(engine, cache):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob(DESCRIPTION)}
    assert before
    for source in (*NAMES, thin_file(cache)):
        if any(Path(source).stem in str(path) and engine[0].name in str(path) for path in before):
            load_engine(source, engine[0].name)
    after = {path: path.stat().st_mtime_ns for path in cache.rglob(DESCRIPTION)}
    assert after == before


def test_where_nothing_can_be_kept_the_engine_still_comes(tmp_path, monkeypatch):
    (tmp_path / "sharpmask").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    save(thin("resnet18"), tmp_path / "thin.safetensors")
    engine = load_engine(tmp_path / "thin.safetensors", "openvino")
    assert len(sharpmask.Proposer(engine, num_proposals=5, scales=[0])(COFFEE)) == 5


# --- folders that are no exported models ---


def folder_of(tmp_path, description, **files):
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    for name, content in files.items():
        (tmp_path / name.replace("_", ".")).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    "description",
    [
        [],
        {},
        {"runtime": "onnx"},
        {"runtime": "flax", "geometry": {}},
        {"runtime": "onnx", "geometry": {"side": 3}},
        {"runtime": "onnx", "geometry": {"stride": 7}},
    ],
    ids=str,
)
def test_a_strange_description_is_refused(tmp_path, description):
    with pytest.raises(WeightsError, match=f"{tmp_path}: holds no exported model"):
        load_engine(folder_of(tmp_path, description))


@pytest.mark.parametrize("kind", EXPORTED)
def test_damaged_networks_are_refused(tmp_path, kind):
    description = {"runtime": kind, "geometry": {}}
    folder = folder_of(tmp_path, description, encoder_xml=b"<net", encoder_onnx=b"\x08\x07")
    with pytest.raises(WeightsError, match=f"{tmp_path}: .*export the model again"):
        load_engine(folder)
    (tmp_path / "encoder.xml").unlink()
    (tmp_path / "encoder.onnx").unlink()
    with pytest.raises(WeightsError, match=f"{tmp_path}: .*export the model again"):
        load_engine(folder)


# --- without torch ---


def test_exported_models_need_no_torch(cache):
    load_engine("sharpmask-mobilenetv2", "openvino")
    (folder,) = cache.glob("sharpmask/sharpmask-mobilenetv2-*-openvino-*")
    program = f"""
import sys
sys.modules["torch"] = None  # importing it fails
import sharpmask
proposer = sharpmask.Proposer(sharpmask.load_engine({str(folder)!r}), num_proposals=7)
print(len(proposer({str(COFFEE)!r}).to_coco(1)))
from sharpmask.cli.main import app
app(["propose", {str(COFFEE)!r}, "--weights", {str(folder)!r}, "--output", {str(cache)!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7\n100 proposals for 1 of 1 photos")
