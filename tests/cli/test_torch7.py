"""``sharpmask propose --torch7`` on a converted model."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fair_layout import FairLayout
from sharpmask.cli.main import app
from sharpmask.images import write_image
from sharpmask.models.pretrained import build, load
from sharpmask.torch7.proposer import Torch7Proposer
from torch7_writer import write_torch7

COMPARED = ("image_id", "category_id", "segmentation", "bbox", "score")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A converted model and two photos."""
    folder = tmp_path_factory.mktemp("torch7")
    torch.manual_seed(0)
    model = build({
        "model": "deepmask", "backbone": "resnet50", "width": 2, "bottleneck_channels": 4,
        "vector": 8, "score_channels": 6, "padding": "zero",
    })  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    write_torch7(folder / "model.t7", FairLayout(mirrored=False).deepmask(model))
    arguments = ["convert", str(folder / "model.t7"), str(folder / "model.safetensors")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    pixels = np.random.default_rng(0).integers(0, 256, (2, 72, 96, 3), np.uint8)
    (folder / "photos").mkdir()
    for number, photo in enumerate(pixels, 1):
        write_image(folder / "photos" / f"{number}.png", photo)
    return folder


@pytest.mark.slow
def test_propose_with_fairs_arithmetic_writes_its_proposals(folder, tmp_path):
    arguments = ["--weights", folder / "model.safetensors", "--num-proposals", 6, "--device", "cpu"]
    arguments += ["--torch7", "--no-overlay", "--output", tmp_path]
    result = CliRunner().invoke(app, ["propose", str(folder / "photos"), *map(str, arguments)])
    assert result.exit_code == 0, result.output
    records = json.loads((tmp_path / "proposals.json").read_text())
    proposer = Torch7Proposer(load(folder / "model.safetensors"), num_proposals=6, device="cpu")
    expected = [
        record
        for number in (1, 2)
        for record in proposer(folder / "photos" / f"{number}.png").to_coco(number)
    ]
    assert len(expected) >= 6
    assert len(records) == len(expected)
    for record, truth in zip(records, json.loads(json.dumps(expected)), strict=True):
        assert record.items() >= {key: truth[key] for key in COMPARED}.items()
    # The arithmetic matters: without it the proposals are others.
    arguments.remove("--torch7")
    arguments[-1] = tmp_path / "ours"
    result = CliRunner().invoke(app, ["propose", str(folder / "photos"), *map(str, arguments)])
    assert result.exit_code == 0, result.output
    ours = json.loads((tmp_path / "ours" / "proposals.json").read_text())
    masks = [[record["segmentation"] for record in made] for made in (ours, records)]
    assert masks[0] != masks[1]
