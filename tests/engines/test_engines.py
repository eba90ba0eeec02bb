"""One suite over all engines; torch's eager mode is the truth."""

import copy
import json
import shutil
import signal
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sharpmask
from reference.thin_models import pyramid_file, thin, thin_file, thinnest
from sharpmask.cli.main import app
from sharpmask.engines import exported
from sharpmask.engines.export import LOGIT_TOLERANCE, compare, export
from sharpmask.engines.load import load_engine
from sharpmask.engines.protocol import Engine
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.images import read_image
from sharpmask.inference.batch import map_ordered
from sharpmask.masks import rle_iou
from sharpmask.models.pretrained import save
from sharpmask.models.pyramid import SharpMaskPyramid
from sharpmask.models.sources import DESCRIPTION, resolve

NAMES = ("deepmask-nano", "sharpmask-nano")
EXPORTED = ("openvino", "onnx")
COFFEE = resolve(NAMES[0]).parents[1] / "assets" / "coffee.jpg"


@pytest.fixture(
    scope="session",
    params=[
        ("thin", "openvino"),
        pytest.param(("thin", "onnx"), marks=pytest.mark.slow),
        *(
            pytest.param(slow, marks=pytest.mark.slow)
            for slow in (
                *((name, "openvino") for name in NAMES),
                ("pyramid", "openvino"),  # test_shipped_export.py: its ONNX
                (NAMES[-1], "onnx"),
            )
        ),
    ],
    ids="-".join,
)
def engine(request, cache):
    """The engine, and torch's for the same model."""
    name, kind = request.param
    made = {"thin": thin_file, "pyramid": pyramid_file}
    source = made[name](cache) if name in made else name
    return load_engine(source, kind), load_engine(source, "torch")


@pytest.mark.parametrize("steps", [(0, 0), (1, 15), (16, 2)], ids=str)
def test_logits_of_every_engine_are_those_of_torch(engine, steps):
    tested, eager = engine
    geometry = tested.geometry
    size = [geometry.smallest_size + step * geometry.size_step for step in steps]
    assert isinstance(tested, Engine)
    assert tested.geometry == eager.geometry
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    (maps, features), (expected, truth) = tested.encode(image), eager.encode(image)
    assert len(maps) == geometry.num_levels
    for level, (scores, those) in enumerate(zip(maps, expected, strict=True)):
        np.testing.assert_allclose(scores, those, atol=LOGIT_TOLERANCE)
        last = [level, *(np.array(scores.shape) - 1)]
        some = np.array([last, last, [level, 0, 0], [0, 0, 0]])
        for cells in (some[:1], some, np.zeros((0, 3), np.int64)):
            masks = tested.decode(features, cells)
            assert masks.dtype == np.float32
            np.testing.assert_allclose(masks, eager.decode(truth, cells), atol=LOGIT_TOLERANCE)
    regions, those = tested.region_maps(features), eager.region_maps(truth)
    assert len(regions) == (3 if geometry.num_levels > 1 else 0)
    assert tested.has_region_maps == (len(regions) > 0)
    for found, expected in zip(regions, those, strict=True):
        np.testing.assert_allclose(found, expected, atol=LOGIT_TOLERANCE)


def test_features_outlive_the_next_image(engine):
    tested, _ = engine
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 192, 192, 3), np.uint8)
    cells = np.array([[0, 1, 1], [0, 2, 0]])
    (scores, *_), features = tested.encode(first)
    kept, masks = scores.copy(), tested.decode(features, cells)
    regions = [level.copy() for level in tested.region_maps(features)]
    np.testing.assert_array_equal(tested.decode(features, cells), masks)
    tested.encode(second)
    np.testing.assert_array_equal(scores, kept)
    for level, before in zip(tested.region_maps(features), regions, strict=True):
        np.testing.assert_array_equal(level, before)
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


@pytest.mark.parametrize(
    "kind", ["torch", "openvino", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_engine_shared_by_threads_answers_each(kind, cache):
    engine = load_engine(thin_file(cache), kind, streams=3)
    proposer = sharpmask.Proposer(engine, num_proposals=20, num_candidates=20, scales=[-2])
    photo = read_image(COFFEE)
    photos = [np.roll(photo, shift, 1) for shift in range(0, 400, 100)]
    expected = [proposer(photo).to_coco(1) for photo in photos]
    found = [call.result().to_coco(1) for call in map_ordered(proposer, photos, 3)]
    assert found == expected
    assert expected[0] != expected[1]


def test_onnx_made_by_hand_is_answered_by_three_threads(tmp_path):
    """Scores are pixels, a mask is its cell's score; torch's exporter takes seconds."""
    from onnx import TensorProto, helper

    def write(name, inputs, outputs, nodes, **constants):
        kinds = {np.uint8: TensorProto.UINT8, np.int64: TensorProto.INT64}

        def values(some):
            return [
                helper.make_tensor_value_info(k, kinds.get(t, TensorProto.FLOAT), s)
                for k, (t, s) in some.items()
            ]

        numbers = [
            helper.make_tensor(k, TensorProto.INT64, [len(v)], v) for k, v in constants.items()
        ]
        graph = helper.make_graph(nodes, name, values(inputs), values(outputs), numbers)
        opset = [helper.make_opsetid("", 18)]
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=9)
                         .SerializeToString())  # fmt: skip

    node, some = helper.make_node, np.float32
    write(
        "encoder",
        {"image": (np.uint8, ["h", "w", 3])},
        {"scores0": (some, ["r", "c"]), "feature0": (some, ["r", "c"])},
        [
            node("Slice", ["image", "begin", "end", "axes", "steps"], ["red"]),
            node("Squeeze", ["red", "last"], ["flat"]),
            node("Cast", ["flat"], ["scores0"], to=TensorProto.FLOAT),
            node("Identity", ["scores0"], ["feature0"]),
        ],
        begin=[0, 0, 0], end=[10**6, 10**6, 1], axes=[0, 1, 2], steps=[16, 16, 1], last=[2],
    )  # fmt: skip
    write(
        "decoder",
        {"cells": (np.int64, ["n", 3]), "feature0": (some, ["r", "c"])},
        {"masks": (some, ["n", 1, 1])},
        [
            node("Slice", ["cells", "begin", "end", "axes"], ["places"]),
            node("GatherND", ["feature0", "places"], ["chosen"]),
            node("Unsqueeze", ["chosen", "sides"], ["masks"]),
        ],
        begin=[1], end=[3], axes=[1], sides=[1, 2],
    )  # fmt: skip
    description = {"runtime": "onnx", "geometry": {}}
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    engine = load_engine(tmp_path, streams=3)
    assert engine.name == "onnx"
    images = list(np.random.default_rng(0).integers(0, 256, (12, 320, 352, 3), np.uint8))
    cells = np.array([[0, 3, 5], [0, 0, 1]])

    def answer(image):
        (scores,), features = engine.encode(image)
        return scores, engine.decode(features, cells)

    for image, call in zip(images, map_ordered(answer, images, 3), strict=True):
        scores, masks = call.result()
        expected = image[::16, ::16, 0].astype(np.float32)
        np.testing.assert_array_equal(scores, expected)
        np.testing.assert_array_equal(masks[:, 0, 0], expected[cells[:, 1], cells[:, 2]])


def test_ctrl_c_after_engines_have_gone_interrupts(cache):
    for _ in range(2):
        engine = load_engine(thin_file(cache), "openvino")
        ending = threading.Thread(target=lambda parts: parts.clear(), args=([engine],))
        del engine
        ending.start()
        ending.join()
    with pytest.raises(KeyboardInterrupt):  # the process used to end here
        signal.raise_signal(signal.SIGINT)


@pytest.mark.real  # compiles for minutes
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="needs a compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch about itself
def test_compiled_torch_computes_the_same(cache):
    source = thin_file(cache)
    compare(load_engine(source, "compile"), load_engine(source, "torch"))


@pytest.mark.slow
def test_export_of_a_model_without_laterals_to_onnx(tmp_path):
    assert export(thin("vgg11"), tmp_path, "onnx").name == "onnx"


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTED)
@pytest.mark.parametrize(
    "model",
    [
        *({"backbone": name} for name in ("resnet18", "resnet50", "vgg11", "vgg16")),
        *({"backbone": "resnet18", "head": head} for head in "ab"),
        {"backbone": "vgg11", "head": "original"},
        {"backbone": "resnet50", "mask_channels": 16, "skip_channels": 16, "form": "concatenated"},
        {"backbone": "vgg11", "lateral": False},
        {"backbone": "resnet18", "vertical": False, "upsampling": "nearest"},
    ],
    ids=json.dumps,
)
def test_export_of_every_architecture_computes_the_same(model, kind, tmp_path):
    assert export(thin(**model), tmp_path, kind).name == kind  # which compares it with torch


# --- exporting ---


def test_compare_with_other_weights_raises(engine):
    tested, eager = engine
    compare(tested, eager)
    model = copy.deepcopy(eager.encoder.model)
    is_pyramid = isinstance(model, SharpMaskPyramid)
    with torch.no_grad():
        head = getattr(model, "deepmask", model).head
        (head.score if is_pyramid else head.score_head[-1]).bias += 0.01
    other = TorchEngine(model, torch.device("cpu"))
    with pytest.raises(ValueError, match=rf"{tested.name}: logits differ from torch's by 0\.01"):
        compare(tested, other)


@pytest.mark.parametrize(("logit", "refused"), [(0, True), (100, False)])
def test_compare_of_large_logits_allows_their_rounding(logit, refused):
    engines = []
    for shift in (0, 0.002):
        model = thinnest()
        with torch.no_grad():
            head = getattr(model, "deepmask", model).head.score_head[-1]
            head.bias.fill_(logit + shift)
            head.weight.zero_()
        engines.append(TorchEngine(model, torch.device("cpu")))
    with pytest.raises(ValueError, match="logits differ") if refused else nullcontext():
        compare(*engines)


@pytest.mark.slow
def test_export_command_writes_what_weights_takes(tmp_path):
    save(thinnest(), tmp_path / "thin.safetensors", metadata={"licence": "free"})
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),  # the logits of random weights are small
    [("thin", 1e-4), pytest.param(NAMES[1], 1e-3, marks=pytest.mark.slow)],
)
def test_bfloat16_with_amx_is_used_and_without_is_not(monkeypatch, cache, name, least):
    source = thin_file(cache) if name == "thin" else name
    exact, fast = (load_engine(source, kind) for kind in ("openvino", "openvino-bf16"))
    has_amx = torch.cpu._is_amx_tile_supported()
    assert fast.name == ("openvino-bf16" if has_amx else "openvino")
    photo = read_image(COFFEE)
    found, expected = (sharpmask.Proposer(e, scales=[-2])(photo) for e in (fast, exact))
    assert rle_iou(found.rles(), expected.rles()).max(axis=1).mean() > 0.9
    image = np.random.default_rng(0).integers(0, 256, (192, 192, 3), np.uint8)
    scores = [engine.encode(image)[0][0] for engine in (fast, exact)]
    difference = np.abs(np.subtract(*scores)).max()
    assert bool(least < difference < 0.5) == has_amx
    monkeypatch.setattr(exported, "has_amx", lambda: False)
    without = load_engine(source, "openvino-bf16")
    assert without.name == "openvino"
    np.testing.assert_array_equal(without.encode(image)[0][0], scores[1])


@pytest.mark.slow
def test_export_leaves_other_files_of_the_folder_and_the_model_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    model = thinnest().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export(model, tmp_path, "openvino")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
