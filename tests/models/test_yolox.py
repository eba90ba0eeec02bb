from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from reference.yolox_forward import forward
from sharpmask.data.patches import cut_window
from sharpmask.data.sampling import Patch
from sharpmask.geometry import DEEPMASK_GEOMETRY, PatchGeometry
from sharpmask.models.backbones import BACKBONES, YoloxNanoBackbone
from sharpmask.models.deepmask import DeepMask, build_deepmask
from sharpmask.models.pretrained import build, load, load_backbone, save, save_atomically
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


# --- where a window of it lies ---

WIDE = PatchGeometry(patch_size=32, context=256, object_size=18, coarse_size=8)
"""Two cells in so much context that no border is seen through the trunk."""


class Dark4(YoloxNanoBackbone):
    """The trunk as far as stride 16, with kernels that tell no direction from another.

    What it takes from stride 32 is left out: a cell of that map lies under two of stride 16.
    """

    def __init__(self, padding):
        super().__init__(width=2, padding=padding)
        for weight in self.parameters():
            torch.nn.init.constant_(weight, 1 / weight[0].numel() if weight.ndim > 1 else 0.0)

    def forward(self, x):
        maps = self.backbone(x)
        return (*maps[:3], torch.cat([maps[3], maps[3]], dim=1))


def evenly_reading(padding, geometry=WIDE):
    """A DeepMask whose score reads all ten by ten (here two by two) cells alike."""
    backbone = Dark4(padding)
    geometry = replace(geometry, cell_offset=backbone.cell_offset)
    model = DeepMask(backbone, geometry=geometry, bottleneck_channels=2, vector=2, score_channels=2)
    for name, weight in model.named_parameters():
        if not name.startswith("backbone"):
            torch.nn.init.constant_(weight, 1 / weight[0].numel() if weight.ndim > 1 else 0.0)
    return model.double().eval()


def middle_of(gradient):
    """Centre (x, y) of what a number depends on, in pixels of the image."""
    weight = gradient[0].abs().sum(0)
    sides = [torch.arange(side, dtype=torch.float64) + 0.5 for side in weight.shape]
    y, x = ((weight.sum(1 - axis) @ sides[axis] / weight.sum()).item() for axis in (0, 1))
    return np.array([x, y])


@pytest.mark.parametrize("padding", ["zero", "symmetric"])
def test_a_window_is_pasted_round_the_middle_of_what_its_score_reads(padding):
    model = evenly_reading(padding)
    image = torch.full((1, 3, 512, 544), 200.0).double().requires_grad_()
    row, column = 15, 16
    (gradient,) = torch.autograd.grad(model.score(model.encode(image))[0, row, column], image)
    size = 512 - 2 * WIDE.border, 544 - 2 * WIDE.border  # of a photo in its border
    (window,) = model.geometry.cells_to_windows(np.array([[row, column]]), size, size)
    pasted = (window[:2] + window[2:]) / 2 + WIDE.border
    np.testing.assert_allclose(middle_of(gradient), pasted, atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", ["zero", "symmetric"])
def test_a_window_is_cut_round_the_middle_of_what_its_score_reads(padding, flip):
    model = evenly_reading(padding)
    side = WIDE.window_size
    image = torch.full((1, 3, side, side), 200.0).double().requires_grad_()
    (gradient,) = torch.autograd.grad(model(image)[1].sum(), image)
    x, y = middle_of(gradient)
    # A photo that tells x by its red and y by its green, in steps of a pixel from (200, 200) on.
    ramp = np.clip(np.arange(800) - 200, 0, 255).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(0)), axis=-1)
    patch = Patch(0, 0, (300.0, 320.0), 1.0, flip, for_mask=True, for_score=True)
    window = cut_window(Image.fromarray(pixels), patch, model.geometry)
    seen = np.asarray(window)[:, ::-1] if flip else np.asarray(window)
    red, green = (seen[int(y), int(x), channel] + 200.0 for channel in (0, 1))
    # The middle lies between two pixels; the one after it is the one before where it is mirrored.
    assert (red, green) == (299.0 if flip else 300.0, 320.0)


def test_the_offset_is_saved_and_others_are_as_before(tmp_path):
    options = {"bottleneck_channels": 4, "vector": 4, "score_channels": 4}
    model = build({"model": "deepmask", "backbone": "yolox_nano", "width": 4, **options})
    refined = build({
        "model": "sharpmask", "deepmask": model.architecture, "lateral_channels": [4] * 4
    })  # fmt: skip
    for net in (model, refined):
        save(net, tmp_path / "model.safetensors")
        assert load(tmp_path / "model.safetensors").geometry == PatchGeometry(cell_offset=1)
    original = build_deepmask(backbone="yolox_nano", width=4, head="original", vector=4)
    assert original.geometry == replace(DEEPMASK_GEOMETRY, cell_offset=1)
    sizes = {"patch_size": 96, "object_size": 56}
    assert build_deepmask(backbone="yolox_nano", geometry=sizes, **options).geometry == (
        PatchGeometry(**sizes, cell_offset=1)
    )
    other = build_deepmask(backbone="mobilenet_v2", **options)
    assert other.geometry == PatchGeometry()
    assert "geometry" not in other.architecture
