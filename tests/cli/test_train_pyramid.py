import json
import signal

import pytest
import torch
from typer.testing import CliRunner

from sharpmask.cli.train import app
from sharpmask.cli.train_options import parse_shares
from sharpmask.models.pretrained import load, save_atomically
from sharpmask.models.yolox import YoloxNano
from sharpmask.training import pyramid_stage

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
    options = ["--init", tmp_path / "trunk.safetensors", "--keep-back", "4"]
    result = run(coco_folder, tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    model = load(tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "kept_back.json").read_text())
    assert len(kept) == 3  # two complete photos, and the only one that is not
    assert model.metadata["kept_back"] == kept
    assert model.metadata["data"]["photos"] == 9 - 3
    stem = "backbone.stem.conv.weight"
    assert torch.equal(model.backbone.state_dict()[stem], trunk[stem])
    assert result.stderr.splitlines()[-1].startswith("sharpmask: train.json: 9 photos, ")
    # The same command finds nothing left to do; one that learns from other photos is refused.
    assert run(coco_folder, tmp_path / "run", *options).exit_code == 0
    for other, problem in [
        ([*options[:2], "--keep-back", "3"], "keep-back: 4 there, 3 now"),
        ([*options, "--keep-back-source", "coco"], "keep-back-source: not given there, coco now"),
        (options[2:], "init: "),
    ]:
        result = run(coco_folder, tmp_path / "run", *other)
        assert result.exit_code == 2
        assert f"the run there learned from something else ({problem}" in result.stderr


@pytest.mark.slow
def test_a_run_that_is_stopped_saves_and_goes_on(coco_folder, tmp_path, monkeypatch):
    level_scene_loss = pyramid_stage.level_scene_loss

    def stopped_loss(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return level_scene_loss(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pyramid_stage, "level_scene_loss", stopped_loss)
        result = run(coco_folder, tmp_path / "run", "--set", "steps=2")
    assert result.exit_code == 128 + signal.SIGTERM
    said = result.stderr.splitlines()[-1]
    assert said.startswith("sharpmask: stopped by SIGTERM; 1 of 2 steps are saved in ")
    assert load(tmp_path / "run").metadata["steps"] == {"done": 1, "of": 2}
    assert run(coco_folder, tmp_path / "run", "--set", "steps=2").exit_code == 0
    assert load(tmp_path / "run").metadata["steps"] == {"done": 2, "of": 2}


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
