import pytest
import torch

from reference.yolox_forward import forward
from sharpmask.models.backbones import BACKBONES
from sharpmask.models.deepmask import build_deepmask
from sharpmask.models.pretrained import load_backbone, save_atomically
from sharpmask.models.yolox import MAP_STRIDES, YoloxNano
from tolerances import DOUBLE


def seeded(padding="zero", width=16):
    torch.manual_seed(3)
    trunk = YoloxNano(width=width, padding=padding).double().eval()
    for parameter in trunk.parameters():
        # Torch's own start leaves little of a signal after seventy layers.
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return trunk


def image(height, width):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1)).double()


def test_the_trunk_is_the_published_one():
    trunk = seeded(width=4)
    x = image(416, 448)  # so that the largest pooling square does not see all of stride 32
    made = trunk(x)
    expected = forward(trunk.state_dict(), x)
    for ours, theirs in zip([*made.maps, *made.levels], expected, strict=True):
        assert theirs.std() > 0.01
        torch.testing.assert_close(ours, theirs, **DOUBLE)


def test_the_published_file_fits():
    state = YoloxNano().state_dict()
    assert len(state) == 154
    assert sum(value.numel() for value in state.values()) == 801_424
    assert state["backbone.stem.conv.weight"].shape == (16, 3, 6, 6)
    assert state["C3_n4.m.0.conv2.dconv.conv.weight"].shape == (128, 1, 3, 3)


@pytest.mark.parametrize("padding", ["zero", "symmetric"])
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (71, 130)])
def test_sides_are_halved_rounding_up(padding, size):
    trunk = seeded(padding, width=4)
    made = trunk(image(*size))
    for stride, width, x in zip(MAP_STRIDES, trunk.channels, made.maps, strict=True):
        assert x.shape == (2, width, *(-(-side // stride) for side in size))
    for level, x in zip(made.levels, made.maps[2:], strict=True):
        assert level.shape == x.shape


def test_cells_are_centred_where_the_trunk_says():
    """A pixel moves the cells whose kernels hold it: their middle is what is measured."""
    trunk = seeded(width=4)
    size = 256
    pixel = 128
    for index, stride in enumerate(MAP_STRIDES[:3]):
        x = torch.zeros(1, 3, size, size).double()
        before = trunk.backbone(x)[index]
        x[..., pixel - 1 : pixel + 1, pixel - 1 : pixel + 1] = 1e-3
        moved = (trunk.backbone(x)[index] - before).abs().sum(1)[0] > 0
        rows = moved.any(1).nonzero().flatten().double()
        middle = rows.mean().item() * stride + trunk.cell_offset
        # What was changed lies round coordinate 128, which is not the centre of a cell.
        assert abs(middle - pixel) <= stride / 2


def test_layers_to_a_stride_are_those_that_make_its_map():
    trunk = seeded(width=4)
    x = image(64, 64)
    y = x
    for layer in trunk.layers_to(8):
        y = layer(y)
    torch.testing.assert_close(y, trunk(x).maps[2], **DOUBLE)
    assert trunk.layers_to(0) == []


def test_as_a_backbone_it_ends_with_dark4_and_the_pyramids_fourth_level(tmp_path):
    trunk = seeded()
    save_atomically(trunk.state_dict(), tmp_path / "yolox.safetensors", {})
    backbone = BACKBONES["yolox_nano"](padding="zero").double()
    load_backbone(backbone, tmp_path / "yolox.safetensors")
    x = image(80, 112)
    made = trunk(x)
    *finer, last = backbone(x)
    torch.testing.assert_close(tuple(finer), made.maps[:3], **DOUBLE)
    torch.testing.assert_close(last, torch.cat([made.maps[3], made.levels[1]], 1), **DOUBLE)
    assert backbone.channels == tuple(y.shape[1] for y in (*finer, last))


@pytest.mark.parametrize("padding", ["zero", "symmetric"])
def test_deepmask_takes_it_as_a_backbone(padding):
    model = build_deepmask(backbone="yolox_nano", bottleneck_channels=8, vector=8, padding=padding)
    features = model.encode(torch.rand(1, 3, 208, 224) * 255)
    assert model.score(features).shape == (1, 4, 5)
    assert model.decode(features, torch.tensor([[0, 3, 4]])).shape == (1, 56, 56)
