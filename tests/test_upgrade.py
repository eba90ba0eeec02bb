"""What version 0.1.0 wrote is read, or refused with what to do.

``golden/version_0_1_0`` was written by that version (commit 8551ffd): two model files of random
weights with their answers to two windows; a run of four steps on ``synthetic_coco`` as it was after
two, and a seventh of the values that its model had after four; an export for OpenVINO.
"""

import dataclasses
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import sharpmask
from sharpmask.coco.annotations import load_coco
from sharpmask.geometry import PatchGeometry
from sharpmask.models.backbones import BasicBlock, ResNet
from sharpmask.models.deepmask import DeepMask
from sharpmask.training import recipes
from sharpmask.training.stages import train_stage
from tolerances import SINGLE

OLD = Path(__file__).parent / "golden" / "version_0_1_0"


@pytest.fixture(scope="module")
def answers():
    return np.load(OLD / "answers.npz")


@pytest.mark.parametrize("name", ["deepmask", "sharpmask"])
@torch.inference_mode()
def test_model_file_of_0_1_0_answers_as_it_did(name, answers):
    model = sharpmask.load(OLD / f"{name}.safetensors").eval()
    windows = np.random.default_rng(0).integers(0, 256, (2, 3, 192, 192)).astype(np.float32)
    masks, scores = model(torch.from_numpy(windows))
    torch.testing.assert_close(masks[:, ::8, ::8].numpy(), answers[f"{name}_masks"], **SINGLE)
    torch.testing.assert_close(scores.numpy(), answers[f"{name}_scores"], **SINGLE)


def test_run_of_0_1_0_goes_on_to_the_same_end(coco_folder, tmp_path, answers):
    shutil.copy(OLD / "checkpoint.safetensors", tmp_path)
    geometry = PatchGeometry(patch_size=32, context=16, object_size=18, coarse_size=14)
    backbone = ResNet(BasicBlock, (1, 1, 1), width=4)
    model = DeepMask(backbone, geometry=geometry, bottleneck_channels=4, vector=4, score_channels=8)
    recipe = dataclasses.replace(
        recipes.patches_deepmask(), steps=4, batch_size=6, warmup_steps=2, epoch_steps=2,
        validate_every=2, score_weight=1.0,
    )  # fmt: skip
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    steps = []
    train_stage(
        model, data=load_coco(coco_folder.train, coco_folder.images), validation=None,
        recipe=recipe, output=tmp_path, fabric=fabric, workers=0,
        on_step=lambda step, loss: steps.append(step),
    )  # fmt: skip
    assert steps == [3, 4]
    values = [value.numpy().ravel() for _, value in sorted(model.state_dict().items())]
    torch.testing.assert_close(np.concatenate(values)[::7], answers["trained"], **SINGLE)


@pytest.mark.slow  # imports OpenVINO
def test_export_of_0_1_0_is_refused_with_what_to_do(tmp_path):
    with zipfile.ZipFile(OLD / "exported.zip") as archive:
        archive.extractall(tmp_path / "exported")
    with pytest.raises(sharpmask.WeightsError, match="export the model again"):
        sharpmask.load_engine(tmp_path / "exported")
