"""FAIR's own answers for a small model, as far as 300 kB hold them; see fair_golden.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fair_golden import ARCHITECTURE, EVERY, GOLDEN, LINEARS, MODULES, SCORES

from sharpmask.models.pretrained import build
from sharpmask.torch7.proposer import Torch7Proposer

BOUND = 1e-4


@pytest.fixture(scope="module")
def golden():
    assert GOLDEN.stat().st_size < 300_000
    return dict(np.load(GOLDEN))


@pytest.fixture(scope="module")
def model(golden):
    """The model with FAIR's weights where the golden file holds them, and noise elsewhere."""
    torch.manual_seed(0)
    model = build(ARCHITECTURE).eval()
    state = model.state_dict()
    for key, value in golden.items():
        if key.startswith((*SCORES, *MODULES)):
            state[key].copy_(torch.from_numpy(value))
        elif key.startswith(LINEARS):
            state[key][::EVERY] = torch.from_numpy(value)
    return model


def assert_agrees(ours, golden):
    """Largest difference as a share of the golden array's maximum."""
    ours = np.asarray(ours).reshape(golden.shape)
    assert np.abs(ours - golden).max() <= BOUND * np.abs(golden).max()


@torch.no_grad()
def test_score_map_of_a_scaled_image_is_fairs(model, golden):
    pixels = F.pad(torch.from_numpy(golden["scaled"])[None] * 255, (80,) * 4, value=127.5)
    assert_agrees(model.score(model.encode(pixels)), golden["logits1"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("layer", "answer"), [("mask_encoding", "encoding"), ("deepmask.mask_head", "mask")]
)
def test_mask_linears_of_a_patch_are_fairs(model, golden, layer, answer):
    vectors = torch.from_numpy(golden["vectors"])[: len(golden[answer])]
    assert_agrees(model.get_submodule(layer)(vectors)[:, ::EVERY], golden[answer])


@torch.no_grad()
def test_refinement_of_a_patch_is_fairs(model, golden):
    encoding = torch.from_numpy(golden["ref0"])
    for index in (0, 1):
        lateral = torch.from_numpy(golden[f"neth{index + 1}"])
        encoding = model.refinement[index](encoding, lateral)
        assert_agrees(encoding, golden[f"ref{index + 1}"])
        encoding = encoding.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_order_of_many_proposals_is_fairs(model, golden):
    maps = [golden[f"logits{number}"] for number in range(1, 8)]
    indices, cells, _ = Torch7Proposer(model, device="cpu").select(maps, 250)
    np.testing.assert_array_equal(np.column_stack([indices, cells]) + 1, golden["best"])
