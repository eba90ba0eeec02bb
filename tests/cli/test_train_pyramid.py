import json

import pytest
import torch
from typer.testing import CliRunner

from sharpmask.cli.train import app
from sharpmask.cli.train_pyramid import parse_shares
from sharpmask.models.pretrained import load, save_atomically
from sharpmask.models.yolox import YoloxNano

SMALL = [
    "--set", "steps=1", "--set", "batch_size=1", "--set", "scene_size=64", "--workers", "0",
]  # fmt: skip


def run(folder, output, *options):
    arguments = ["pyramid", "--train", folder.train, "--images", folder.images, "--output", output]
    return CliRunner().invoke(app, [str(a) for a in (*arguments, *SMALL, *options)])


def test_a_run_starts_from_a_trunk_and_tells_what_was_kept_back(coco_folder, tmp_path):
    torch.manual_seed(4)
    trunk = YoloxNano().state_dict()
    save_atomically(dict(trunk), tmp_path / "trunk.safetensors", {})
    options = ["--init", tmp_path / "trunk.safetensors", "--keep-photos", "4"]
    result = run(coco_folder, tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    model = load(tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "kept_back.json").read_text())
    assert len(kept) == 3  # two complete photos, and the only one that is not
    assert model.metadata["kept_back"] == kept
    assert model.metadata["data"]["photos"] == 9 - 3
    stem = "backbone.stem.conv.weight"
    assert torch.equal(model.backbone.state_dict()[stem], trunk[stem])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--init", "nowhere.safetensors"], "no such weights file"),
        (["--share", "street"], "--share street: expected source=share"),
        (["--share", "street=.5"], "shares: expected at most 1"),
        (["--set", "scene_size=100"], "scene_size: expected a multiple of 64"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(coco_folder, tmp_path, options, problem):
    result = run(coco_folder, tmp_path / "run", *options)
    assert result.exit_code == 2
    assert problem in result.output


def test_shares_are_read_and_sources_may_hold_an_equals_sign():
    assert parse_shares(["coco2017=.5", "a=b/c=0.25"]) == {"coco2017": 0.5, "a=b/c": 0.25}
    for text in ("coco", "coco=2", "coco=x", "coco=-1"):
        with pytest.raises(ValueError, match="expected source=share"):
            parse_shares([text])
