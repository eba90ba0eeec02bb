import math

import numpy as np
import pytest
import torch

from sharpmask.data.patches import PatchBatch
from sharpmask.data.scenes import SceneBatch
from sharpmask.training.losses import patch_loss, scene_loss
from tolerances import DOUBLE


def random_batch(seed, *, size=6, coarse=6, count=5):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    labels = torch.tensor([1.0, -1, 1, 1, -1], dtype=torch.float64)[:count]
    masks = (normal(count, size, size) > 1).to(torch.uint8)
    masks[labels < 0] = 0
    batch = PatchBatch(
        windows=torch.zeros(count, 3, 1, 1, dtype=torch.uint8),
        masks=masks,
        labels=labels,
        for_mask=torch.tensor([1.0, 0, 1, 0, 1], dtype=torch.float64)[:count],
        for_score=torch.tensor([1.0, 1, 0, 1, 1], dtype=torch.float64)[:count],
    )
    return normal(count, coarse, coarse).requires_grad_(), normal(count).requires_grad_(), batch


def slow_upsample(logits, size):
    """Bilinear, pixel centres at +.5, the edge continued."""
    coarse = len(logits)
    large = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            for y in range(coarse):
                for x in range(coarse):
                    down = min(max((i + 0.5) * coarse / size - 0.5, 0), coarse - 1)
                    across = min(max((j + 0.5) * coarse / size - 0.5, 0), coarse - 1)
                    near = max(0, 1 - abs(down - y)) * max(0, 1 - abs(across - x))
                    large[i, j] += near * logits[y, x]
    return large


def papers_loss(mask_logits, score_logits, batch, score_weight):
    """DeepMask, equation 1, as it is printed; w and h are the target's."""
    mask_sum = score_sum = 0.0
    size = batch.masks.shape[-1]
    for k, y in enumerate(batch.labels.tolist()):
        f = slow_upsample(mask_logits[k].detach().numpy(), size)
        inner = 0.0
        for i in range(size):
            for j in range(size):
                m = 1 if batch.masks[k, i, j] else -1
                inner += math.log(1 + math.exp(-m * f[i, j]))
        if batch.for_mask[k]:
            mask_sum += (1 + y) / (2 * size * size) * inner
        if batch.for_score[k]:
            score_sum += score_weight * math.log(1 + math.exp(-y * score_logits[k].item()))
    return mask_sum / len(batch.labels), score_sum / len(batch.labels)


@pytest.mark.parametrize(("size", "coarse"), [(6, 6), (8, 4), (10, 5), (7, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_is_the_papers(seed, size, coarse):
    mask_logits, score_logits, batch = random_batch(seed, size=size, coarse=coarse)
    found = patch_loss(mask_logits, score_logits, batch, score_weight=1 / 32)
    expected = torch.tensor(
        papers_loss(mask_logits, score_logits, batch, 1 / 32), dtype=torch.float64
    )
    torch.testing.assert_close(torch.stack(found).detach(), expected, **DOUBLE)


def test_the_score_weight_scales_the_score_alone():
    mask_logits, score_logits, batch = random_batch(2)
    once = patch_loss(mask_logits, score_logits, batch, score_weight=1.0)
    thrice = patch_loss(mask_logits, score_logits, batch, score_weight=3.0)
    assert once[1].item() > 0.1
    assert thrice[0].item() == once[0].item()
    assert thrice[1].item() == pytest.approx(3 * once[1].item(), rel=1e-12)
    assert patch_loss(mask_logits, score_logits, batch, score_weight=0.0)[1].item() == 0


def test_only_positives_for_the_mask_head_reach_it():
    mask_logits, score_logits, batch = random_batch(3)
    sum(patch_loss(mask_logits, score_logits, batch, score_weight=1.0)).backward()
    # Exactly zero, not small: patches 1 and 4 are negatives, 3 is not for the mask head.
    assert [bool(gradient.any()) for gradient in mask_logits.grad] == [True, False, True] + [
        False
    ] * 2
    assert score_logits.grad.ne(0).tolist() == [True, True, False, True, True]


def test_gradients_point_at_the_target():
    mask_logits, score_logits, batch = random_batch(4)
    sum(patch_loss(mask_logits, score_logits, batch, score_weight=1.0)).backward()
    # Descent raises logits on the object and lowers them elsewhere.
    inside = batch.masks[0] > 0
    assert inside.any()
    assert torch.all(mask_logits.grad[0][inside] < 0)
    assert torch.all(mask_logits.grad[0][~inside] > 0)
    assert score_logits.grad[0] < 0 < score_logits.grad[1]


def test_huge_logits_stay_finite():
    mask_logits, score_logits, batch = random_batch(5)
    found = patch_loss(1e4 * mask_logits, 1e4 * score_logits, batch, score_weight=1.0)
    assert all(torch.isfinite(term) for term in found)
    sum(found).backward()
    assert torch.isfinite(mask_logits.grad).all()


# --- scenes ---


def random_scenes(seed, coarse):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    labels = torch.tensor([[[1, 0, -1], [-1, 1, -1]], [[0, 0, 1], [-1, -1, -1]]]).double()
    cells = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 2]])
    masks = (normal(3, 6, 6) > 0).to(torch.uint8)
    batch = SceneBatch(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), labels, cells, masks)
    return normal(3, coarse, coarse).requires_grad_(), normal(2, 2, 3).requires_grad_(), batch


@pytest.mark.parametrize("coarse", [6, 3])
def test_scene_loss_against_its_definition(coarse):
    mask_logits, score_logits, batch = random_scenes(1, coarse)
    mask_sum, quality = 0.0, np.zeros((2, 2, 3))
    for k, cell in enumerate(batch.cells.tolist()):
        f, target = slow_upsample(mask_logits[k].detach().numpy(), 6), batch.masks[k].numpy() > 0
        mask_sum += np.mean([math.log(1 + math.exp(-f[p] if target[p] else f[p]))
                             for p in np.ndindex(6, 6)])  # fmt: skip
        quality[tuple(cell)] = (target & (f > 0)).sum() / (target | (f > 0)).sum()
    score_sum = 0.0
    for place in np.ndindex(2, 2, 3):
        y, s = quality[place], 1 / (1 + math.exp(-score_logits[place].item()))
        if batch.labels[place]:
            score_sum -= (s - y) ** 2 * (y * math.log(s) + (1 - y) * math.log(1 - s))
    mask, score = scene_loss(mask_logits, score_logits, batch, score_weight=0.5)
    assert mask.item() == pytest.approx(mask_sum / 3, rel=1e-9)
    assert score.item() == pytest.approx(0.5 * score_sum / 3, rel=1e-6)  # IoU is single precision


def test_the_score_does_not_teach_the_mask_and_doubtful_cells_teach_nothing():
    mask_logits, score_logits, batch = random_scenes(2, 6)
    _, score = scene_loss(mask_logits, score_logits, batch, score_weight=1.0)
    (gradient,) = torch.autograd.grad(score, score_logits)
    assert torch.equal(gradient != 0, batch.labels != 0)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(scene_loss(mask_logits, score_logits, batch, score_weight=1.0)[1],
                            mask_logits)  # fmt: skip


def test_scenes_without_windows():
    _, score_logits, batch = random_scenes(3, 6)
    labels = batch.labels.clamp(max=0)
    empty = SceneBatch(batch.images, labels, batch.cells[:0], batch.masks[:0])
    logits = torch.zeros(0, 6, 6, dtype=torch.float64, requires_grad=True)
    mask, score = scene_loss(logits, score_logits, empty, score_weight=1.0)
    (mask + score).backward()
    assert mask == 0
    assert score > 0
