"""``sharpmask convert`` and what reads its files; the Torch7 files are laid out as FAIR's."""

import pytest
import torch
from typer.testing import CliRunner

from fair_layout import FairLayout
from reference.thin_models import thin
from sharpmask.cli.main import app
from sharpmask.models.backbones import BACKBONES
from sharpmask.models.pretrained import build, load, load_backbone, read_metadata
from torch7_writer import write_torch7

DEEPMASK = {
    "model": "deepmask", "backbone": "resnet50", "width": 2, "bottleneck_channels": 4, "vector": 8,
    "score_channels": 6, "padding": "zero",
}  # fmt: skip
SHARPMASK = {
    "model": "sharpmask", "deepmask": DEEPMASK, "mask_channels": 16, "skip_channels": 16,
    "lateral_channels": [5, 4, 3, 2], "upsampling": "nearest",
}  # fmt: skip


def convert(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def same_weights(first, second):
    return first.keys() == second.keys() and all(
        torch.allclose(first[key], second[key], rtol=1e-5, atol=1e-6)
        for key in first  # folding norms rounds
    )


@pytest.mark.parametrize("architecture", [DEEPMASK, SHARPMASK], ids=["deepmask", "sharpmask"])
def test_convert_model_writes_what_weights_takes(tmp_path, architecture):
    torch.manual_seed(0)
    model = build(architecture)
    write = getattr(FairLayout(mirrored=False), architecture["model"])
    write_torch7(tmp_path / "model.t7", write(model))
    target = tmp_path / "fair.safetensors"
    result = convert(tmp_path / "model.t7", target)
    assert result.exit_code == 0, result.output
    said = f"{architecture['model']} in {target}; use it with --weights {target}"
    assert said in result.stdout.replace("\n", "")
    assert same_weights(model.state_dict(), load(target).state_dict())
    assert read_metadata(target)["converted_from"] == "model.t7"


@pytest.mark.slow
def test_convert_trunk_writes_what_init_takes(tmp_path):
    torch.manual_seed(0)
    deepmask = build({"model": "deepmask", "backbone": "resnet50", "bottleneck_channels": 8})
    write_torch7(tmp_path / "resnet-50.t7", FairLayout().trunk(deepmask))
    target = tmp_path / "trunk.safetensors"
    result = convert(tmp_path / "resnet-50.t7", target)
    assert result.exit_code == 0, result.output
    assert f"train with --init {target}" in result.stdout.replace("\n", "")
    backbone = BACKBONES["resnet50"]()
    load_backbone(backbone, target)
    assert same_weights(deepmask.backbone.state_dict(), backbone.state_dict())


def test_convert_to_another_suffix_writes_nothing(tmp_path):
    result = convert(tmp_path / "model.t7", tmp_path / "fair.pth")
    assert result.exit_code == 2
    assert "fair.pth: the target's name must end in .safetensors" in result.stderr.replace("\n", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"not Torch7 at all"])
def test_convert_file_that_cannot_be_read_leaves_the_target(tmp_path, content):
    target = tmp_path / "fair.safetensors"
    thin("resnet18").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(target)
    before = target.read_bytes()
    if content is not None:
        (tmp_path / "model.t7").write_bytes(content)
    result = convert(tmp_path / "model.t7", target)
    assert result.exit_code == 2
    assert "model.t7" in result.stderr
    assert target.read_bytes() == before
