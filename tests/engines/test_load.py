"""From a source to an engine: names, models, folders of exported models."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import sharpmask
from reference.template_engine import TemplateEngine
from reference.thin_models import thin, thin_export, thin_file
from sharpmask.defaults import MODEL
from sharpmask.engines import export_cache, load
from sharpmask.engines.exported import ExportedEngine
from sharpmask.engines.load import engine_of, load_engine
from sharpmask.engines.protocol import Engine
from sharpmask.extras import MissingExtraError
from sharpmask.models.sources import DESCRIPTION, WeightsError, resolve, shipped_export

NAMES = ("deepmask-nano", "sharpmask-nano")
EXPORTED = ("openvino", "onnx")
COFFEE = resolve(NAMES[0]).parents[1] / "assets" / "coffee.jpg"


# --- choosing ---


def test_auto_engine_is_the_fastest_installed(monkeypatch, cache):
    missing = set()
    monkeypatch.setattr(export_cache, "find_spec", lambda name: None if name in missing else name)
    monkeypatch.setattr(
        load, "exported", lambda path, runtime, streams, bfloat16: (runtime, streams, bfloat16)
    )
    assert load_engine(NAMES[0]) == ("openvino", 1, True)
    assert load_engine(NAMES[0], "openvino") == ("openvino", 1, False)
    assert load_engine(MODEL).name == "onnx"
    missing.add("openvino")
    assert load_engine(NAMES[0])[0] == "onnx"
    missing.add("onnxscript")
    assert load_engine(NAMES[0]).name == "torch"
    missing |= {"torch", "onnx"}  # what is exported already needs neither
    assert load_engine(MODEL).name == "onnx"


def test_engine_on_a_gpu_is_torch(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not load.on_gpu("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load.on_gpu("auto")
    assert load.on_gpu("cuda:0")
    assert not load.on_gpu("cpu")
    with pytest.raises(ValueError, match="onnx runs on the cpu here, not on cuda; use torch"):
        load_engine(NAMES[0], "onnx", "cuda")


def test_engine_unknown_or_missing_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"engine: expected one of auto, openvino.*got 'tpu'"):
        load_engine(NAMES[0], "tpu")
    missing = {"onnxscript"}
    monkeypatch.setattr(export_cache, "find_spec", lambda name: None if name in missing else name)
    with pytest.raises(
        MissingExtraError,
        match=r"must be exported before onnx can run it, but onnxscript is not installed; "
        r"pip install 'sharpmask\[onnx\]'",
    ):
        load_engine(NAMES[0], "onnx")
    missing.add("torch")
    with pytest.raises(ValueError, match=r"pip install 'sharpmask\[train\]'"):
        load_engine(NAMES[0], "openvino")


# --- what may be given ---


@pytest.mark.parametrize("form", ["name", "file", "folder", "exported folder", "model", "engine"])
def test_engine_of_any_source_answers_as_the_models_own(form, cache, tmp_path):
    model = sharpmask.load(NAMES[1] if form == "name" else thin_file(cache))
    source = {
        "name": NAMES[1],
        "file": thin_file(cache),
        "folder": str(tmp_path / "net"),
        "exported folder": thin_export(cache),
        "model": model,
        "engine": TemplateEngine(),
    }[form]
    if form == "folder":
        model.save_pretrained(source)
    engine = engine_of(source, "torch" if form == "name" else "auto")  # to save the export
    assert isinstance(engine, Engine)
    if form == "engine":
        assert engine is source
        return
    image = np.random.default_rng(0).integers(0, 256, (176, 192, 3), np.uint8)
    with torch.inference_mode():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        expected = model.score(model.encode(pixels))[0].numpy()
    # bfloat16 rounds; another model's scores differ by far more
    np.testing.assert_allclose(engine.encode(image)[0][0], expected, atol=0.2)


def test_engine_of_a_model_is_run_by_torch_or_refused():
    model = thin("resnet18")
    assert engine_of(model).name == engine_of(model, "torch", "cpu").name == "torch"
    for kind in ("openvino", "onnx", "tpu"):
        with pytest.raises(ValueError, match=f"run by torch or compile, not by {kind}; save it"):
            engine_of(model, kind)
    with pytest.raises(ValueError, match="device: expected auto, cpu or cuda, got 'gpu'"):
        engine_of(model, device="gpu")


def test_engine_of_an_engine_with_options_is_refused():
    for options in ({"engine": "onnx"}, {"device": "cpu"}):
        with pytest.raises(ValueError, match="engine, device: the engine template is made already"):
            engine_of(TemplateEngine(), **options)


def test_an_exported_engine_is_loaded_again_by_another_process(tmp_path, monkeypatch):
    folder = shipped_export(MODEL)
    monkeypatch.chdir(folder.parent)
    engine = ExportedEngine(Path(folder.name), runtime="onnx")
    sent = pickle.dumps(engine)
    monkeypatch.chdir(tmp_path)
    other = pickle.loads(sent)
    assert other.name == engine.name == "onnx"
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    for maps, expected in zip(other.encode(image)[0], engine.encode(image)[0], strict=True):
        np.testing.assert_array_equal(maps, expected)


# --- folders that are not exported models ---


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
def test_exported_folder_with_a_strange_description_is_refused(tmp_path, description):
    with pytest.raises(WeightsError, match=f"{tmp_path}: holds no exported model"):
        load_engine(folder_of(tmp_path, description))


def test_exported_folder_is_told_from_one_that_is_not(tmp_path):
    with pytest.raises(WeightsError, match="a folder without a model: neither"):
        load_engine(tmp_path)
    folder = folder_of(tmp_path, {"runtime": "onnx", "geometry": {}}, encoder_onnx=b"")
    with pytest.raises(WeightsError, match="an exported model, which can only be run"):
        sharpmask.load(folder)
    with pytest.raises(WeightsError, match=r"encoder\.onnx: a part of an exported model; give its"):
        load_engine(folder / "encoder.onnx")


@pytest.mark.parametrize("kind", EXPORTED)
def test_exported_folder_with_damaged_networks_is_refused(tmp_path, kind):
    description = {"runtime": kind, "geometry": {}}
    folder = folder_of(tmp_path, description, encoder_xml=b"<net", encoder_onnx=b"\x08\x07")
    with pytest.raises(WeightsError, match=f"{tmp_path}: .*export the model again"):
        load_engine(folder)
    (tmp_path / "encoder.xml").unlink()
    (tmp_path / "encoder.onnx").unlink()
    with pytest.raises(WeightsError, match=f"{tmp_path}: .*export the model again"):
        load_engine(folder)
