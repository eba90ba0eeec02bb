import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reference.torchvision_nets import VGGBN, MobileNetV2BN, ResNetBN, randomised
from sharpmask.models.backbones import (
    BACKBONES,
    STRIDES,
    VGG,
    BasicBlock,
    Bottleneck,
    InvertedResidual,
    MobileNetV2,
    ResNet,
    fold_batch_norm,
)
from tolerances import DOUBLE, SINGLE

assert_close = torch.testing.assert_close

CHANNELS = {
    "resnet18": (64, 64, 128, 256),
    "resnet34": (64, 64, 128, 256),
    "resnet50": (64, 256, 512, 1024),
    "vgg11": (128, 256, 512, 512),
    "vgg16": (128, 256, 512, 512),
    "mobilenet_v2": (16, 24, 32, 96),
    "yolox_nano": (16, 32, 64, 256),
}


class ThinVGG(VGG):
    WIDTHS = (2, 3, 4, 5, 6)


# --- shapes ---


def test_every_backbone_is_tested():
    assert set(CHANNELS) == set(BACKBONES)


@pytest.mark.parametrize("name", CHANNELS)
@torch.inference_mode()
def test_strides_and_channels_at_even_and_odd_sizes(name):
    with torch.device("meta"):  # shapes need no numbers
        backbone = BACKBONES[name]().eval()
    assert backbone.channels == CHANNELS[name]
    for height, width in ((32, 48), (33, 47)):
        maps = backbone(torch.zeros(1, 3, height, width, device="meta"))
        assert [tuple(x.shape) for x in maps] == [
            (1, channels, -(-height // stride), -(-width // stride))
            for channels, stride in zip(CHANNELS[name], STRIDES, strict=True)
        ]


@pytest.mark.parametrize("padding", ["symmetric", "zero"])
@torch.inference_mode()
def test_padding_reaches_every_convolution_that_needs_it(padding):
    # A mirrored border of a constant image leaves every map constant; zeros do not. ResNet's own
    # max-pool keeps constants too.
    for backbone in (
        ResNet(Bottleneck, (1, 1, 1), width=4, padding=padding),
        ResNet(BasicBlock, (1, 1, 1), width=4, padding=padding),
        ThinVGG((1, 1, 1, 1, 1), padding=padding),
        MobileNetV2(padding=padding),
    ):
        randomised(backbone)
        for x in backbone(torch.ones(1, 3, 37, 64)):
            spread = (x.amax((2, 3)) - x.amin((2, 3))).max()
            assert (spread < 1e-5) == (padding == "symmetric")


# --- names ---


def resnet_keys(bottleneck, depths):
    keys = ["conv1"]
    for layer, depth in enumerate(depths, 1):
        for block in range(depth):
            convs = 3 if bottleneck else 2
            keys += [f"layer{layer}.{block}.conv{conv}" for conv in range(1, convs + 1)]
            if block == 0 and (bottleneck or layer > 1):
                keys.append(f"layer{layer}.{block}.downsample.0")
    return keys


def vgg_keys(config):
    keys, position = [], 0
    for letter in config:
        if letter == "C":
            keys.append(f"features.{position}")
        position += 2 if letter == "C" else 1  # a convolution and its ReLU, or a pooling
    return keys


def mobilenet_keys():
    keys = ["features.0.0", "features.1.conv.0.0", "features.1.conv.1"]
    for block in range(2, 14):
        keys += [f"features.{block}.conv.{part}" for part in ("0.0", "1.0", "2")]
    return keys


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet18", resnet_keys(False, (2, 2, 2))),
        ("resnet34", resnet_keys(False, (3, 4, 6))),
        ("resnet50", resnet_keys(True, (3, 4, 6))),
        ("vgg11", vgg_keys("CMCMCCMCCMCC")),
        ("vgg16", vgg_keys("CCMCCMCCCMCCCMCCC")),
        ("mobilenet_v2", mobilenet_keys()),
    ],
    ids=[name for name in CHANNELS if name != "yolox_nano"],  # see test_yolox.py
)
def test_parameter_names_are_torchvisions(name, keys):
    with torch.device("meta"):  # nor do names
        state = BACKBONES[name]().state_dict()
    assert sorted(state) == sorted(f"{key}.{kind}" for key in keys for kind in ("weight", "bias"))


# --- what makes a map ---


@pytest.mark.parametrize(
    "backbone",
    [
        lambda: ResNet(BasicBlock, (2, 1, 1), width=4),
        lambda: ThinVGG((2, 1, 2, 1, 2)),
        MobileNetV2,
    ],
    ids=["resnet", "vgg", "mobilenet"],
)
def test_layers_to_a_stride_hold_the_parameters_its_map_depends_on(backbone):
    backbone = randomised(backbone())
    for stride, x in zip(STRIDES, backbone(torch.randn(1, 3, 32, 32)), strict=True):
        named = list(backbone.named_parameters())
        found = torch.autograd.grad(
            x.square().sum(), [p for _, p in named], retain_graph=True, allow_unused=True
        )
        needed = {
            name for (name, _), gradient in zip(named, found, strict=True) if gradient is not None
        }
        layers = {id(p) for layer in backbone.layers_to(stride) for p in layer.parameters()}
        assert {name for name, p in named if id(p) in layers} == needed
    assert backbone.layers_to(1) == [] or isinstance(backbone, VGG)  # VGG begins at stride 1


# --- MobileNetV2 ---


@pytest.mark.parametrize("size", [(6, 8), (7, 6), (7, 7)], ids=str)
@pytest.mark.parametrize(
    ("channels", "stride", "expand"), [(5, 1, 6), (7, 1, 6), (5, 2, 6), (5, 1, 1), (6, 2, 1)]
)
@pytest.mark.parametrize("padding", ["symmetric", "zero"])
def test_padding_before_the_expansion_is_padding_after_it(padding, channels, stride, expand, size):
    block = randomised(InvertedResidual(5, channels, stride, expand, padding)).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    plain = block.conv(x)  # layer by layer: each convolution pads what it reads
    expected = x + plain if stride == 1 and channels == 5 else plain
    assert_close(block(x), expected, **DOUBLE)


@torch.inference_mode()
def test_mobilenet_maps_are_block_outputs_divided_by_their_deviation():
    backbone = randomised(MobileNetV2())
    x = torch.randn(1, 3, 32, 32)
    maps = backbone(x)
    for index, layer in enumerate(backbone.features):
        x = layer(x)
        if index in (1, 3, 6, 13):
            assert_close(maps[(1, 3, 6, 13).index(index)], x / 4, **SINGLE)


# --- batch norm ---


def resnet_pair(bottleneck, block):
    return ResNetBN(bottleneck, (2, 1, 2), 4), ResNet(block, (2, 1, 2), width=4, padding="zero")


PAIRS = {
    "basic": lambda: resnet_pair(False, BasicBlock),
    "bottleneck": lambda: resnet_pair(True, Bottleneck),
    "mobilenet": lambda: (MobileNetV2BN(), MobileNetV2(padding="zero")),
    "vgg": lambda: (
        VGGBN((1, 2, 1, 1, 2), ThinVGG.WIDTHS),
        ThinVGG((1, 2, 1, 1, 2), padding="zero"),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", PAIRS)
@torch.inference_mode()
def test_a_folded_net_is_the_net_with_batch_norm(name, dtype):
    net, ours = PAIRS[name]()
    randomised(net).to(dtype)
    state = fold_batch_norm(net.state_dict())
    if name == "vgg":  # without batch norms torchvision numbers the convolutions differently
        state = dict(zip(ours.state_dict(), state.values(), strict=True))
    ours.to(dtype).load_state_dict(state)
    for size in ((32, 64), (32, 32)) if name == "vgg" else ((32, 64), (45, 39)):
        x = torch.randn(2, 3, *size, dtype=dtype)
        for got, expected in zip(ours(x), net(x), strict=True):
            if name == "mobilenet":
                expected = expected / 4
            assert expected.abs().mean() > 0.01
            assert_close(got, expected, **(DOUBLE if dtype == torch.float64 else SINGLE))


def test_folding_by_hand():
    state = {
        "conv1.weight": torch.full((1, 1, 1, 1), 2.0),
        "bn1.weight": torch.tensor([3.0]),
        "bn1.bias": torch.tensor([5.0]),
        "bn1.running_mean": torch.tensor([7.0]),
        "bn1.running_var": torch.tensor([15.0]),
        "bn1.num_batches_tracked": torch.tensor(9),
        "fc.weight": torch.ones(1, 1),
    }
    folded = fold_batch_norm(state, eps=1.0)  # 3 (2 x - 7) / 4 + 5
    assert set(folded) == {"conv1.weight", "conv1.bias", "fc.weight"}
    assert folded["conv1.weight"].item() == 1.5
    assert folded["conv1.bias"].item() == -0.25


def test_a_convolution_bias_is_folded_too():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    randomised(net).double()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    folded = fold_batch_norm(net.state_dict())
    assert_close(F.conv2d(x, folded["0.weight"], folded["0.bias"]), net(x), **DOUBLE)


def test_folding_twice_changes_nothing_more():
    folded = fold_batch_norm(randomised(MobileNetV2BN()).state_dict())
    again = fold_batch_norm(folded)
    assert folded.keys() == again.keys()
    assert all(torch.equal(folded[key], again[key]) for key in folded)


def test_a_batch_norm_without_a_convolution_is_refused():
    state = {"bn1.running_mean": torch.zeros(1), "bn1.running_var": torch.ones(1)}
    with pytest.raises(ValueError, match="'bn1' has no convolution 'conv1'"):
        fold_batch_norm(state)
