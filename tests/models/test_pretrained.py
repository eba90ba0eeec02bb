import json
import os
import pickle
import re
import struct
import zipfile
from contextlib import suppress

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from reference.small_nets import GEOMETRY, BlindTrunk
from reference.torchvision_nets import MobileNetV2BN, randomised
from sharpmask.defaults import DETECTOR
from sharpmask.geometry import PatchGeometry
from sharpmask.models import sources
from sharpmask.models.backbones import (
    BACKBONES,
    VGG,
    BasicBlock,
    Bottleneck,
    MobileNetV2,
    ResNet,
    fold_batch_norm,
)
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.pretrained import (
    build,
    load,
    load_backbone,
    read_metadata,
    read_safetensors,
    save,
)
from sharpmask.models.sharpmask import SharpMask
from sharpmask.models.sources import WeightsError

DEEPMASK = {
    "model": "deepmask",
    "backbone": "resnet18",
    "width": 4,
    "padding": "symmetric",
    "head": "c",
    "bottleneck_channels": 3,
    "vector": 5,
    "score_channels": 6,
}
SHARPMASK = {
    "model": "sharpmask",
    "deepmask": DEEPMASK,
    "mask_channels": 3,
    "skip_channels": 3,
    "lateral_channels": [2, 2, 2, 2],
    "schedule": "constant",
    "upsampling": "nearest",
    "form": "refactored",
    "lateral": True,
    "vertical": True,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_a_detector_is_sent_to_its_command():
    with pytest.raises(WeightsError, match="a detector, which names objects: sharpmask detect"):
        load(DETECTOR)


def refused(path, message=None, call=load):
    """The error names the file and says what is the matter, on one line."""
    with pytest.raises(WeightsError, match=message) as caught:
        call(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


# --- building ---


@pytest.mark.parametrize("architecture", [DEEPMASK, SHARPMASK], ids=["deepmask", "sharpmask"])
def test_build_makes_a_model_that_carries_its_architecture(architecture):
    model = build(architecture)
    assert isinstance(model, {"deepmask": DeepMask, "sharpmask": SharpMask}[architecture["model"]])
    assert model.architecture == architecture
    assert model.architecture is not architecture


CONSTRUCTED = {
    "resnet18": lambda: DeepMask(ResNet(BasicBlock, (2, 2, 2), width=4), vector=5),
    "a resnet of another depth": lambda: DeepMask(ResNet(Bottleneck, (1, 2, 1), width=4)),
    "resnet34, zero padding": lambda: DeepMask(BACKBONES["resnet34"](width=4, padding="zero")),
    "vgg of another depth": lambda: DeepMask(VGG((1, 1, 1, 1, 1)), head="c", bottleneck_channels=4),
    "vgg11": lambda: DeepMask(BACKBONES["vgg11"](), head="a", bottleneck_channels=4, vector=3),
    "mobilenet": lambda: DeepMask(MobileNetV2(padding="zero"), head="b", score_channels=7),
    "small patches": lambda: DeepMask(
        MobileNetV2(), geometry=PatchGeometry(patch_size=96, object_size=50), vector=9
    ),
    "sharpmask": lambda: SharpMask(DeepMask(MobileNetV2())),
    "sharpmask, all options": lambda: SharpMask(
        DeepMask(MobileNetV2(), vector=9), mask_channels=4, skip_channels=6,
        lateral_channels=(5, 4, 3, 2), schedule="constant", upsampling="nearest",
        form="concatenated",
    ),
    "sharpmask, ablated": lambda: SharpMask(DeepMask(MobileNetV2()), lateral=False, vertical=False),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_constructed_model_saved_and_loaded_is_the_same(tmp_path, name):
    model = CONSTRUCTED[name]()
    again = load(model.save_pretrained(tmp_path))
    assert type(again) is type(model)
    assert again.architecture == model.architecture == json.loads(json.dumps(model.architecture))
    assert again.geometry == model.geometry
    assert repr(again) == repr(model)  # every layer and its options
    state = again.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["deepmask", "sharpmask"])
def test_model_on_a_backbone_from_outside_is_not_saved(tmp_path, kind):
    model = DeepMask(BlindTrunk(), geometry=GEOMETRY)
    model = model if kind == "deepmask" else SharpMask(model)
    with pytest.raises(ValueError, match=r"backbone is not one of the package's.*state_dict"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backbone", ["vgg11", "vgg16", "mobilenet_v2"])
def test_width_of_another_backbone_than_a_resnet_is_refused(backbone):
    with pytest.raises(ValueError, match=f"width: a ResNet.*can be chosen, not that of {backbone}"):
        build({"model": "deepmask", "backbone": backbone, "width": 64})
    if backbone == "mobilenet_v2":
        with pytest.raises(ValueError, match="depths: mobilenet_v2"):
            build({"model": "deepmask", "backbone": backbone, "depths": [1]})


def test_the_arguments_reach_the_model():
    model = build(SHARPMASK)
    assert model.upsampling == "nearest"
    assert model.predict.weight.shape == (1, 3, 3, 3)
    assert model.deepmask.vector == 5
    assert model.deepmask.architecture == DEEPMASK


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({}, "expected one of deepmask, sharpmask, pyramid, got None"),
        ({"model": "maskrcnn"}, "expected one of deepmask, sharpmask, pyramid, got 'maskrcnn'"),
        (DEEPMASK | {"colour": 1}, "unexpected keyword argument 'colour'"),
        (DEEPMASK | {"head": "z"}, "head: expected one of"),
        (DEEPMASK | {"vector": "long"}, "architecture"),
        ({"model": "sharpmask"}, "deepmask"),
        ({"model": "sharpmask", "deepmask": SHARPMASK}, "expected deepmask, got 'sharpmask'"),
        ({"model": "sharpmask", "deepmask": 7}, "architecture"),
        ([1, 2], "architecture"),
        (None, "architecture"),
    ],
    ids=str,
)
def test_wrong_architectures_are_refused(architecture, message):
    with pytest.raises(ValueError, match=message):
        build(architecture)


# --- save and load ---


@pytest.mark.parametrize("architecture", [DEEPMASK, SHARPMASK], ids=["deepmask", "sharpmask"])
def test_a_saved_model_comes_back_bit_for_bit(path, architecture):
    model = build(architecture)
    save(model, path)
    torch.manual_seed(1)
    loaded = load(path)
    assert type(loaded) is type(model)
    assert loaded.architecture == architecture
    assert not loaded.training
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    windows = torch.randint(0, 256, (1, 3, 192, 192)).float()
    with torch.inference_mode():
        assert torch.equal(loaded(windows)[0], model.eval()(windows)[0])


def test_half_precision_halves_the_file_and_rounds_once(tmp_path):
    model = build(DEEPMASK)
    save(model, tmp_path / "full.safetensors")
    save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full
    assert {v.dtype for v in load_file(tmp_path / "half.safetensors").values()} == {torch.float16}
    loaded = load(tmp_path / "half.safetensors").state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded[key], value.half().float())
        assert loaded[key].dtype == torch.float32


def test_metadata_comes_back_and_anything_of_json_goes(path):
    extra = {
        "recipe": {"name": "quick", "lr": 1e-3},
        "images": [1, 2],
        "note": "h\u00e9",
        "ar": None,
    }
    save(build(DEEPMASK), path, metadata=extra)
    assert read_metadata(path) == {"architecture": DEEPMASK} | extra
    with safe_open(path, "pt") as file:  # for other readers it is plain JSON
        assert json.loads(file.metadata()["recipe"]) == extra["recipe"]


def test_same_content_gives_the_same_bytes(tmp_path):
    model = build(DEEPMASK)
    extra = {f"figure {number} \u00e9": number for number in range(20)}
    files = [tmp_path / f"{number}.safetensors" for number in range(5)]
    for file in files:
        save(model, file, metadata=extra)
    assert len({file.read_bytes() for file in files}) == 1
    assert read_metadata(files[0]) == {"architecture": DEEPMASK} | extra
    state = load_file(files[0])
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_saving_makes_folders_and_leaves_nothing_beside_the_file(tmp_path):
    path = tmp_path / "a" / "b" / "model.safetensors"
    save(build(DEEPMASK), path)
    save(build(DEEPMASK), path)  # over the first
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    save(build(DEEPMASK), path)
    before = path.read_bytes()

    def fail(file):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(build(DEEPMASK), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_saved_file_is_readable_as_any_new_file_is(path):
    mask = os.umask(0o022)
    try:
        save(build(DEEPMASK), path)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_stands_for_the_model_in_it(path):
    save(build(DEEPMASK), path)
    assert load(path.parent).architecture == DEEPMASK
    assert load(str(path)).architecture == DEEPMASK


# --- names ---


def test_an_unknown_name_is_told_a_near_one(monkeypatch):
    monkeypatch.setattr(sources, "shipped", lambda: ["deepmask-mini", "sharpmask-mini"])
    refused("sharpmask-mimi", "did you mean 'sharpmask-mini'?")
    refused("xyz", "known names: deepmask-mini, sharpmask-mini")


def test_a_missing_file_is_named(tmp_path):
    refused(tmp_path / "nothing.safetensors", "no such weights file")
    refused(tmp_path, "a folder without a model: neither model.safetensors nor sharpmask.json")
    refused(tmp_path / "a" / "b", "no such weights file")


def test_names_are_the_models_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "WEIGHTS", tmp_path / "weights")
    assert sources.names() == []
    save(build(DEEPMASK), tmp_path / "weights" / "b.safetensors")
    save(build(SHARPMASK), tmp_path / "weights" / "a.safetensors")
    (tmp_path / "weights" / "README.md").touch()
    assert sources.names() == ["a", "b"]
    assert load("b").architecture == DEEPMASK


def test_a_repository_is_asked_for_its_model(monkeypatch, path):
    save(build(DEEPMASK), path)
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a: asked.append(a) or path)
    assert load("someone/some-model").architecture == DEEPMASK
    assert asked == [("someone/some-model", "model.safetensors")]


@pytest.mark.parametrize("name", ["owner/model-v1.5", "some.one/a.b.c", "o_1/m--2"])
def test_repository_with_dots_in_its_name_is_asked(monkeypatch, path, name):
    save(build(DEEPMASK), path)
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a: asked.append(a) or path)
    load(name)
    assert asked == [(name, "model.safetensors")]


@pytest.mark.parametrize(
    "name", ["runs/net.safetensors", "a/b.pth", "./model", "../model", "a/b/c", "~/model", "a b/c"]
)
def test_path_of_no_file_is_not_taken_for_a_repository(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("asked the hub"))
    refused(name, "no such weights file or name")


def test_missing_model_of_a_folder_that_exists_is_not_looked_for_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("asked the hub"))
    refused("runs/first-v1.5", "no such weights file or name")


@pytest.mark.parametrize("reason", ["no route\nto host", ""])
def test_an_unreachable_repository_is_one_line(monkeypatch, reason):
    def fail(*_):
        raise OSError(reason)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    refused("someone/some-model", "cannot be fetched from Hugging Face: (no route)?$")


# --- files that are no models ---


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def bombs(folder, marker):
    """Pickles in every container torch has had."""
    plain, legacy, zipped = (folder / f"{name}.pth" for name in ("plain", "legacy", "zip"))
    plain.write_bytes(pickle.dumps({"conv1.weight": Bomb(marker)}))
    torch.save({"conv1.weight": Bomb(marker)}, legacy, _use_new_zipfile_serialization=False)
    torch.save({"conv1.weight": Bomb(marker)}, zipped)
    return plain, legacy, zipped


def test_pickles_are_refused_and_nothing_in_them_runs(tmp_path):
    marker = tmp_path / "ran"
    for bomb in bombs(tmp_path, marker):
        for call in (load, lambda path: load_backbone(MobileNetV2(), path), read_metadata):
            refused(bomb, call=call)
            assert not marker.exists()
        with suppress(RuntimeError):  # the bomb does go off where it can
            torch.load(bomb, weights_only=False)
        assert marker.exists()
        marker.rmdir()
        renamed = bomb.with_suffix(".safetensors")
        bomb.rename(renamed)
        for call in (load, lambda path: load_backbone(MobileNetV2(), path)):
            refused(renamed, "not a readable safetensors file", call)
            assert not marker.exists()


def test_files_that_are_no_safetensors(path):
    for content in (b"", b"Hello, world\n" * 9, b"\x89PNG\r\n\x1a\n", struct.pack("<Q", 2**60)):
        path.write_bytes(content)
        for call in (load, read_safetensors, read_metadata):
            refused(path, "not a readable (safetensors|model) file", call)


def test_truncated_files(path):
    save(build(DEEPMASK), path)
    content = path.read_bytes()
    for length in (4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refused(path, "not a readable safetensors file")


def test_safetensors_that_are_no_model_of_ours(path):
    save_file({"conv1.weight": torch.zeros(2)}, path)
    refused(path, "not a sharpmask model file.*--init")
    save_file({"conv1.weight": torch.zeros(2)}, path, {"format": "pt"})
    refused(path, "not a sharpmask model file")
    assert read_metadata(path) == {"format": "pt"}


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "architecture"),
        ("7", "architecture"),
        ("null", "architecture"),
        ('{"model": "sharpmask", "deepmask": 7}', "architecture"),
        ('{"model": "deepmask", "vector": -1}', None),
        ('{"model": "deepmask", "bottleneck_channels": 1000000000000}', None),
    ],
)
def test_damaged_architectures(path, architecture, message):
    save_file({"x": torch.zeros(2)}, path, {"architecture": architecture})
    refused(path, message)


def test_tensors_that_do_not_fit_the_architecture_are_named(path):
    model = build(DEEPMASK)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    texts = {"architecture": json.dumps(DEEPMASK)}
    for change, message in (
        ({"mask_head.bias": torch.zeros(3)}, "mask_head.bias"),
        ({"mask_head.colour": torch.zeros(3)}, "mask_head.colour"),
    ):
        save_file(state | change, path, texts)
        refused(path, re.escape(message))
    save_file({key: value for key, value in state.items() if key != "mask_head.bias"}, path, texts)
    refused(path, re.escape("mask_head.bias"))


# --- backbones ---


def thin():
    return ResNet(BasicBlock, (1, 1, 1), width=4)


def imagenet_state():
    """A ResNet file as torchvision's: with what lies beyond stride 16."""
    state = randomised(thin()).state_dict()
    return state | {"layer4.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(2, 2)}


def write(state, path):
    torch.save(state, path) if path.suffix == ".pth" else save_file(state, path)
    return path


@pytest.mark.parametrize("name", ["resnet.safetensors", "resnet.pth", "resnet.bin"])
def test_a_backbone_is_filled_by_name(tmp_path, name):
    state = imagenet_state()
    path = tmp_path / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    backbone = thin()
    load_backbone(backbone, path)
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_batch_norm_is_folded_on_loading(tmp_path, suffix):
    state = randomised(MobileNetV2BN()).state_dict()
    backbone = MobileNetV2()
    load_backbone(backbone, write(state, tmp_path / f"mobilenet{suffix}"))
    folded = fold_batch_norm(state)
    assert all(torch.equal(value, folded[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": None}, "lacks 1 tensors for this backbone, e.g. 'conv1.weight'"),
        (
            {"layer1.1.conv1.weight": torch.zeros(1)},
            "has unknown 1 tensors for this backbone, e.g. 'layer1.1.conv1.weight'",
        ),
        (
            {"conv1.bias": torch.zeros(7)},
            "has misshapen 1 tensors for this backbone, e.g. 'conv1.bias'",
        ),
        ({"bn9.running_mean": torch.zeros(1)}, "has no convolution 'conv9'"),
        ({"odd.running_mean": torch.zeros(1)}, "odd"),
        ({"bn1.running_mean": torch.zeros(4)}, "batch norm 'bn1' lacks its running_var"),
        (
            {
                f"bn1.{part}": torch.ones(5)
                for part in ("running_mean", "running_var", "weight", "bias")
            },
            "size of tensor",
        ),
    ],
    ids=["missing", "extra", "misshapen", "no conv", "odd norm", "half a norm", "wide norm"],
)
def test_files_of_another_net_are_refused_whole(tmp_path, change, message, suffix):
    state = imagenet_state() | change
    state = {key: value for key, value in state.items() if value is not None}
    path = write(state, tmp_path / f"net{suffix}")
    backbone = thin()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    refused(path, re.escape(message), lambda path: load_backbone(backbone, path))
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"conv1.weight": torch.zeros(1)}},
        [torch.zeros(1)],
        torch.zeros(1),
        7,
        {1: torch.zeros(1)},
    ],
    ids=["nested", "list", "tensor", "number", "numbered"],
)
def test_pth_files_that_hold_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "expected a state dict", lambda p: load_backbone(thin(), p))


def test_pth_files_that_are_damaged(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(imagenet_state(), path)
    whole = path.read_bytes()
    for content in (b"", b"Hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        refused(path, call=lambda p: load_backbone(thin(), p))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not a checkpoint")
    refused(path, call=lambda p: load_backbone(thin(), p))
