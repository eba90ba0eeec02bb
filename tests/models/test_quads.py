import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharpmask.models.pyramid_layers import double
from sharpmask.models.quads import double_and_mix, mix_each, quads_of, samples_of
from tolerances import DOUBLE


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).double()


@pytest.mark.parametrize("doubles", [False, True])
def test_quads_are_the_samples_of_the_map_or_of_its_double(doubles):
    x, weight, bias = random(2, 5, 6, 8), random(3, 5, 1, 1), random(3)
    quads = quads_of(x, weight, bias, doubles=doubles)
    samples = double(F.pad(x, (0, 1, 0, 1))) if doubles else x
    expected = F.conv2d(samples, weight, bias)
    assert quads.shape == (2, 12, *((6, 8) if doubles else (3, 4)))
    height, width = (2 * side - 1 for side in quads.shape[2:])
    torch.testing.assert_close(samples_of(quads), expected[:, :, :height, :width], **DOUBLE)


@pytest.mark.parametrize("narrows", [False, True])
def test_doubling_and_convolution_in_quads_are_the_same_in_samples(narrows):
    narrow = nn.Conv2d(6, 4, 1).double() if narrows else None
    vertical = nn.Conv2d(4, 3, 3).double()
    x = random(2, 6 if narrow else 4, 5, 5)
    around = F.pad(x, (1, 1, 1, 1))
    expected = vertical(double(narrow(around) if narrow else around))[:, :, 1:-1, 1:-1]
    found = samples_of(double_and_mix(x, narrow, vertical))
    assert found.shape == (2, 3, 9, 9)
    torch.testing.assert_close(found, expected, **DOUBLE)


def test_each_sample_of_a_quad_is_mixed_alone():
    quads, layer = random(2, 20, 3, 3), nn.Conv2d(5, 2, 1).double()
    mixed = mix_each(quads, layer)
    torch.testing.assert_close(samples_of(mixed), layer(samples_of(quads)), **DOUBLE)


@pytest.mark.parametrize("windows", [0, 3])
def test_samples_that_are_learned_from_are_the_same_and_have_gradients(windows):
    quads = random(windows, 8, 4, 4)
    learned = quads.clone().requires_grad_()
    samples = samples_of(learned)
    torch.testing.assert_close(samples, samples_of(quads), rtol=0, atol=0)
    weight = random(*samples.shape)
    (samples * weight).sum().backward()
    # Half of the last quads' samples lie beyond the window.
    assert int((learned.grad == 0).sum()) == windows * 2 * (64 - 49)
