"""Damaged checkpoints: every truncation and every flipped bit is noticed."""

import numpy as np
import pytest
import torch
from toy_run import RECIPE, Toy

from sharpmask.models.sources import WeightsError
from sharpmask.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint


def saved(path, step=7):
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    average = {name: p.detach() + 1 for name, p in model.named_parameters()}
    save_checkpoint(
        path, model=model, average=average, optimizer=optimizer, recipe=RECIPE, step=step
    )
    return path.read_bytes()


def restored(path):
    model = Toy(seed=1)
    optimizer = torch.optim.AdamW(model.parameters())
    return load_checkpoint(path, model=model, average={}, optimizer=optimizer, recipe=RECIPE)


def test_no_checkpoint_is_the_beginning(tmp_path):
    assert restored(tmp_path / "checkpoint.safetensors") == 0


@pytest.mark.reliability("checkpoint cut off at 1000 places: noticed")
def test_a_truncated_file_is_noticed_wherever_it_ends(tmp_path, size):
    path = tmp_path / "checkpoint.safetensors"
    content = saved(path)
    for end in np.linspace(0, len(content) - 1, size(1000, 150)).astype(int).tolist():
        path.write_bytes(content[:end])
        with pytest.raises(WeightsError):
            read_checkpoint(path)


@pytest.mark.reliability("checkpoint with 1000 single bits flipped: noticed, or nothing changed")
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path, size):
    path = tmp_path / "checkpoint.safetensors"
    content = saved(path)
    rng = np.random.default_rng(0)
    harmless = 0
    for place in np.linspace(0, len(content) - 1, size(1000, 150)).astype(int).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            tensors, metadata = read_checkpoint(path)
        except WeightsError:
            continue
        # White space in the header may change into other white space.
        path.write_bytes(content)
        whole, whole_metadata = read_checkpoint(path)
        assert metadata == whole_metadata
        assert tensors.keys() == whole.keys()
        assert all(torch.equal(tensors[key], whole[key]) for key in whole)
        harmless += 1
    assert harmless < 10


@pytest.mark.reliability("damaged checkpoint: the one before it is taken")
def test_the_one_before_takes_the_place_of_a_damaged_one(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    saved(path, step=5)
    content = bytearray(saved(path, step=10))
    assert restored(path) == 10
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"damaged: .* going on from checkpoint\.previous"):
        assert restored(path) == 5
    path.unlink()
    assert restored(path) == 5
