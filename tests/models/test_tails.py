"""Backbone and tail together are torchvision's net up to its last map."""

import pytest
import torch
from safetensors.torch import save_file

from reference.torchvision_nets import MobileNetV2BN, ResNetBN, randomised
from sharpmask.models.backbones import BACKBONES
from sharpmask.models.pretrained import load_backbone
from sharpmask.models.sources import WeightsError
from sharpmask.models.tails import TAILS

REFERENCES = {
    "mobilenet_v2": lambda: MobileNetV2BN(whole=True),
    "resnet18": lambda: ResNetBN(False, (2, 2, 2, 2)),
    "resnet34": lambda: ResNetBN(False, (3, 4, 6, 3)),
    "resnet50": lambda: ResNetBN(True, (3, 4, 6, 3)),
}


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v2", "resnet18", "resnet50", pytest.param("resnet34", marks=pytest.mark.slow)],
)
def test_the_last_map_is_torchvisions(tmp_path, name):
    reference = randomised(REFERENCES[name]())
    save_file(reference.state_dict(), tmp_path / "net.safetensors")
    backbone, tail = BACKBONES[name](padding="zero"), TAILS[name](padding="zero")
    load_backbone(backbone, tmp_path / "net.safetensors", tail=tail)
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = reference(x)[-1]
        found = tail(backbone(x)[-1])
    assert found.shape == (1, tail.channels, 2, 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@torch.inference_mode()
def test_every_imagenet_backbone_has_a_tail():
    assert BACKBONES.keys() - TAILS.keys() == {"yolox_nano"}
    backbone, tail = BACKBONES["vgg11"](), TAILS["vgg11"]()
    last = backbone(torch.rand(1, 3, 48, 80))[-1]
    # 3 x 5 values; the last ones have no partner.
    assert tail(last).shape == (1, tail.channels, 2, 3)
    assert tail(last)[0, 7, 0, 2] == last[0, 7, :2, 4].max()


def test_a_file_without_the_tail_is_refused(tmp_path):
    save_file(randomised(MobileNetV2BN()).state_dict(), tmp_path / "net.safetensors")
    backbone = BACKBONES["mobilenet_v2"](padding="zero")
    load_backbone(backbone, tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match=r"lacks .* tensors .* 'features\.14"):
        load_backbone(
            backbone, tmp_path / "net.safetensors", tail=TAILS["mobilenet_v2"](padding="zero")
        )
