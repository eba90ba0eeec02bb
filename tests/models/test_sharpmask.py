import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sharpmask
from reference.slow_refinement import refine
from reference.small_nets import (
    GEOMETRY,
    AveragingTrunk,
    BlindTrunk,
    PaddedTrunk,
    all_cells,
    photos,
    spread,
)
from sharpmask.images import read_image
from sharpmask.models.backbones import STRIDES, Bottleneck, ResNet
from sharpmask.models.deepmask import DeepMask, build_deepmask
from sharpmask.models.layers import gather_windows
from sharpmask.models.pretrained import build
from sharpmask.models.sharpmask import SharpMask, convert_form, upsample
from sharpmask.models.window_net import patch_cells
from tolerances import DOUBLE

COFFEE = Path(sharpmask.__file__).parent / "assets" / "coffee.jpg"
assert_close = torch.testing.assert_close
WINDOW, CONTEXT, PATCH = GEOMETRY.window_size, GEOMETRY.context, GEOMETRY.patch_size


def small(backbone=BlindTrunk, **options):
    trunk = backbone()
    geometry = replace(GEOMETRY, cell_offset=trunk.cell_offset)
    deepmask = DeepMask(trunk, geometry=geometry, bottleneck_channels=6, vector=9)
    options = {"mask_channels": 16, "skip_channels": 8} | options
    return spread(SharpMask(deepmask, **options))


def image_and_cells(model, height=64, width=80, seed=0):
    images = photos(2, height, width, seed)
    features = model.encode(images)
    return images, features, all_cells(model.score(features))


def windows_of(images, cells):
    """What the network is trained on: each cell's patch with its context."""
    framed = torch.nn.functional.pad(images, [CONTEXT] * 4, value=77)
    return torch.stack([
        framed[image, :, 16 * row : 16 * row + WINDOW, 16 * column : 16 * column + WINDOW]
        for image, row, column in cells.tolist()
    ])  # fmt: skip


class Places(PaddedTrunk):
    """Maps of means of pixels."""

    channels = (3, 3, 3, 3)

    def forward(self, x):
        return tuple(torch.nn.functional.avg_pool2d(x, 2, stride) for stride in STRIDES)


def nudge(features):
    """Other maps, the same head."""
    return tuple(x + torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype) for x in features.maps)


# --- size ---


@pytest.mark.parametrize("form", ["refactored", "concatenated"])
def test_parameters_added_to_the_papers_resnet50(form):
    deepmask = DeepMask(
        # One block a layer: the refinement reads no more of a ResNet-50 than its widths.
        ResNet(Bottleneck, (1, 1, 1))
    )
    model = SharpMask(deepmask, form=form)
    added = 512 * 32 * 100 + 3200
    for first, hidden, k in ((1024, 64, 32), (512, 64, 16), (256, 64, 8), (64, 32, 4)):
        added += 9 * first * hidden + hidden + 9 * hidden * k + k  # S
        added += 9 * k * k + k  # M
        added += 9 * 2 * k * k // 2 + (1 if form == "concatenated" else 2) * k // 2  # both to k / 2
    added += 9 * 2 + 1
    everything = sum(p.numel() for p in model.parameters())
    assert everything - sum(p.numel() for p in deepmask.parameters()) == added
    assert round(added / 1e6, 2) == 2.75  # facts.md


@torch.inference_mode()
def test_input_and_output_of_the_papers_patch():
    deepmask = DeepMask(ResNet(Bottleneck, (1, 1, 1), width=4), bottleneck_channels=4, vector=8)
    model = SharpMask(deepmask, mask_channels=16, skip_channels=8, lateral_channels=(4, 4, 4, 4))
    masks, scores = model.eval()(torch.zeros(2, 3, 192, 192))
    assert masks.shape == (2, 160, 160)
    assert scores.shape == (2,)


# --- the whole pass against its equations ---

OPTIONS = [
    {},
    {"upsampling": "nearest"},
    {"schedule": "constant", "mask_channels": 5, "skip_channels": 3},
    {"lateral_channels": (3, 6, 2, 5), "skip_channels": 24},
    {"lateral": False, "mask_channels": 48},  # fewer are dead by chance
    {"vertical": False, "mask_channels": 48},
    {"lateral": False, "vertical": False, "mask_channels": 48, "upsampling": "nearest"},
]


@pytest.mark.parametrize("form", ["refactored", "concatenated"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.inference_mode()
def test_every_window_of_an_image_by_the_equations(options, form):
    model = small(form=form, **options)
    _, features, cells = image_and_cells(model)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    vectors = model.deepmask.mask_vectors(features, cells).numpy()
    masks = model.decode(features, cells).numpy()
    assert masks.shape == (2 * 3 * 4, PATCH, PATCH)
    # Corners, an edge and the middle, in both images.
    for number in (0, 5, 11, 18):
        image, *cell = cells[number].tolist()
        maps = [x[image].numpy() for x in reversed(features.maps)]
        expected = refine(state, vectors[number], maps, cell, GEOMETRY.grid, model.upsampling)
        assert expected.std() > 1e-3
        np.testing.assert_allclose(masks[number], expected, rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_upsampling_by_hand():
    x = torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]])
    rows = [[0, 0, 4, 4], [8, 8, 12, 12]]
    assert upsample(x, "nearest")[0, 0].tolist() == [rows[0], rows[0], rows[1], rows[1]]
    assert upsample(x, "bilinear")[0, 0].tolist() == [
        [start + y for start in (0, 1, 3, 4)] for y in (0, 2, 6, 8)
    ]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_is_torchs_interpolation(mode):
    x = torch.randn(2, 3, 7, 7)
    options = {} if mode == "nearest" else {"align_corners": False}
    expected = torch.nn.functional.interpolate(x, scale_factor=2, mode=mode, **options)
    assert_close(upsample(x, mode), expected)


# --- the two published forms ---


@pytest.mark.parametrize("schedule", ["halving", "constant"])
@pytest.mark.parametrize("there", ["refactored", "concatenated"])
@torch.inference_mode()
def test_both_forms_are_one_function_of_a_window(there, schedule):
    back = {"refactored": "concatenated", "concatenated": "refactored"}[there]
    first, second, third = (
        small(form=form, schedule=schedule, backbone=lambda: ResNet(Bottleneck, (1, 1, 1), width=4))
        for form in (there, back, there)
    )
    spread(second, seed=1)
    windows = photos(2, WINDOW, WINDOW)
    masks, scores = first(windows)
    assert not torch.allclose(second(windows)[0], masks)
    second.load_state_dict(convert_form(first.state_dict(), back))
    third.load_state_dict(convert_form(second.state_dict(), there))
    for other in (second, third):
        assert_close(other(windows)[0], masks, **DOUBLE)
        assert torch.equal(other(windows)[1], scores)


@pytest.mark.parametrize("form", ["refactored", "concatenated"])
def test_converting_to_the_form_it_has_changes_nothing(form):
    state = small(form=form).state_dict()
    converted = convert_form(state, form)
    assert list(converted) == list(state)
    assert all(torch.equal(converted[key], state[key]) for key in state)


@pytest.mark.parametrize("options", [{"lateral": False}, {"vertical": False}], ids=str)
@pytest.mark.parametrize("form", ["refactored", "concatenated"])
def test_ablations_have_but_one_form(form, options):
    state = small(**options).state_dict()
    assert list(small(form=form, **options).state_dict()) == list(state)
    converted = convert_form(state, form)
    assert list(converted) == list(state)


def test_conversion_leaves_the_given_state_alone():
    state = small().state_dict()
    before = {key: value.clone() for key, value in state.items()}
    convert_form(state, "concatenated")
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in before)


# --- a whole image against its windows one by one ---


def test_decoding_some_cells_is_decoding_all_and_choosing():
    model = small()
    with torch.inference_mode():
        _, features, cells = image_and_cells(model)
        everything = model.decode(features, cells)
        order = torch.tensor([20, 3, 3, 17])
        assert_close(model.decode(features, cells[order]), everything[order], **DOUBLE)
        assert model.decode(features, cells[:0]).shape == (0, PATCH, PATCH)
        assert everything.std(0).min() > 1e-4


@pytest.mark.parametrize("backbone", [BlindTrunk, PaddedTrunk])
@pytest.mark.parametrize("form", ["refactored", "concatenated"])
@torch.inference_mode()
def test_every_cell_is_its_window_read_alone_when_laterals_see_one_pixel(form, backbone):
    # In a whole image the lateral convolutions see real context where a lone window has a mirrored
    # border (FAIR's code as well). With nothing but the middle of each kernel they see neither.
    model = small(form=form, backbone=backbone)
    for module in model.refinement:
        convs = [module.skip[0], module.skip[2]]
        convs += [module.horizontal] if form == "refactored" else []
        for conv in convs:
            middle = conv.weight[:, :, 1, 1].clone()
            conv.weight.zero_()
            conv.weight[:, :, 1, 1] = 3 * middle
    images, features, cells = image_and_cells(model)
    masks, scores = model(windows_of(images, cells))
    assert_close(model.score(features).flatten(), scores, **DOUBLE)
    # Where strided layers pad both sides, the first patches begin before the image.
    whole = (cells[:, 1:] > 0).all(1) | (backbone is BlindTrunk)
    assert_close(model.decode(features, cells)[whole], masks[whole], **DOUBLE)
    assert masks[whole].std(0).min() > 1e-4


@torch.inference_mode()
def test_the_features_that_a_window_reads_lie_where_it_is_pasted():
    """The scored cell is the decoded cell is the pasted window, for padded strides."""
    model = DeepMask(Places(), geometry=replace(GEOMETRY, cell_offset=1), vector=9).double()
    model.normalize = torch.nn.Identity()
    height, width = 96, 112
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([x, y, 0 * x])[None].double() + 0.5  # pixels that hold their own place
    cells = torch.tensor([[0, row, column] for row in range(1, 5) for column in range(1, 6)])
    size = height - 2 * GEOMETRY.border, width - 2 * GEOMETRY.border  # of a photo in its border
    pasted = model.geometry.cells_to_windows(cells[:, 1:].numpy(), size, size) + GEOMETRY.border
    alone = model.encode_patches(windows_of(image, cells)).maps
    for stride, whole, patches in zip(STRIDES, model.read(image), alone, strict=True):
        read = gather_windows(whole, cells, PATCH // stride, 16 // stride)
        samples = torch.arange(PATCH // stride) * stride + stride / 2
        for axis, shape in ((0, (1, 1, -1)), (1, (1, -1, 1))):
            meant = torch.from_numpy(pasted[:, axis, None, None]) + samples.reshape(shape)
            # Where coarse cells are evenly read, finer ones fall between two of the patch's own.
            assert (read[:, axis] - meant).abs().max() == (0 if stride == 16 else stride / 2)
        assert_close(patches, read, **DOUBLE)


@pytest.mark.parametrize("form", ["refactored", "concatenated"])
@torch.inference_mode()
def test_a_patch_in_an_image_that_mirrors_it_is_the_patch_alone(form):
    # Real context that happens to be the patch's mirror image is what padding makes up. Then
    # kernels may look around, as long as those before the last do not tell left from right.
    model = small(backbone=AveragingTrunk, form=form)
    for module in model.refinement:
        for conv in (module.skip[0], module.skip[2]):
            mirrored = [
                conv.weight,
                conv.weight.flip(2),
                conv.weight.flip(3),
                conv.weight.flip(2, 3),
            ]
            conv.weight.copy_(torch.stack(mirrored).mean(0))
    patch = photos(1, PATCH, PATCH)[0].numpy()
    around = ((0, 0), (PATCH, PATCH), (2 * PATCH, PATCH))
    image = torch.from_numpy(np.pad(patch, around, mode="symmetric"))[None]
    window = torch.from_numpy(np.pad(patch, ((0, 0), (16, 16), (16, 16)), mode="symmetric"))[None]
    cells = torch.tensor([[0, 2, 4], [0, 1, 4], [0, 2, 3]])
    there, below, beside = model.decode(model.encode(image), cells)
    alone = model(window)[0][0]
    assert_close(there, alone, **DOUBLE)
    assert not torch.allclose(below, alone)
    assert not torch.allclose(beside, alone)


@torch.inference_mode()
def test_real_context_changes_a_mask():
    # The design that the two tests above have to work around: were laterals cut first, this failed.
    model = small()
    images, features, cells = image_and_cells(model)
    masks, _ = model(windows_of(images, cells))
    assert not torch.allclose(model.decode(features, cells), masks)


@torch.inference_mode()
def test_images_whose_sides_are_no_whole_strides():
    model = small(backbone=lambda: ResNet(Bottleneck, (1, 1, 1), width=4))
    _, features, cells = image_and_cells(model, 70, 91)
    assert model.score(features).shape == (2, 4, 5)
    masks = model.decode(features, cells)
    assert masks.shape == (40, PATCH, PATCH)
    assert masks.isfinite().all()
    # 70 = 2 * 16 + 32 + 6: row 2 is the last whose window the maps hold in full.
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    maps = [x[1].numpy() for x in reversed(features.maps)]
    chosen = torch.tensor([[1, 2, 3]])
    vector = model.deepmask.mask_vectors(features, chosen)[0].numpy()
    expected = refine(state, vector, maps, (2, 3), GEOMETRY.grid, model.upsampling)
    got = model.decode(features, chosen)[0].numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


# --- stage one within stage two ---


@torch.inference_mode()
def test_the_score_is_deepmasks():
    model = small()
    images, features, cells = image_and_cells(model)
    stage_one = model.deepmask.encode(images)
    assert torch.equal(model.score(features), model.deepmask.score(stage_one))
    assert torch.equal(
        model.deepmask.decode(features, cells), model.deepmask.decode(stage_one, cells)
    )


def test_masks_teach_no_coarse_mask_head():
    model = small()
    masks, _ = model(photos(1, WINDOW, WINDOW))
    masks.square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    score = {name for name in without if name.startswith("deepmask.head.score_head.")}
    assert without - score == {"deepmask.mask_head.weight", "deepmask.mask_head.bias"}
    assert len(score) == 4


# --- ablations ---


@torch.inference_mode()
def test_without_laterals_the_features_are_not_read():
    model = small(lateral=False)
    _, features, cells = image_and_cells(model)
    masks = model.decode(features, cells)
    changed = model.add_laterals(type(features)(nudge(features), features.embedding))
    assert torch.equal(model.decode(changed, cells), masks)
    # Which the full net does not do, nor any single level of it.
    model = small()
    _, features, cells = image_and_cells(model)
    masks = model.decode(features, cells)
    for level, changed_map in enumerate(nudge(features)):
        maps = [*features.maps]
        maps[level] = changed_map
        changed = model.add_laterals(type(features)(tuple(maps), features.embedding))
        assert not torch.allclose(model.decode(changed, cells), masks)


def test_without_verticals_a_cell_of_the_encoding_stays_in_its_square():
    reached = {}
    for vertical in (True, False):
        model = small(vertical=vertical, upsampling="nearest")
        seen = []
        model.mask_encoding.register_forward_hook(lambda *a, seen=seen: seen.append(a[2]))
        masks, _ = model(photos(1, WINDOW, WINDOW))
        (gradient,) = torch.autograd.grad(masks[0, 3, 3], seen[0])
        # Pixel (3, 3) lies in the first of the 2 x 2 squares of 16.
        reached[vertical] = gradient.reshape(16, 2, 2).abs().sum(0) > 0
    assert reached[True].all()
    assert reached[False].tolist() == [[True, False], [False, False]]


# --- wrong arguments ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "double"}, "schedule: expected halving or constant, got 'double'"),
        ({"upsampling": "cubic"}, "upsampling: expected bilinear or nearest, got 'cubic'"),
        ({"form": "fused"}, "form: expected refactored or concatenated, got 'fused'"),
        ({"mask_channels": 24}, "divides mask_channels by 16 and skip_channels by 8: got 24 and 8"),
        ({"skip_channels": 12}, "got 16 and 12"),
        ({"mask_channels": 0}, "mask_channels 0, skip_channels 8"),
        ({"lateral_channels": (4, 4, 4)}, "lateral_channels: expected 4 widths, got (4, 4, 4)"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small(**options)


def test_constant_schedule_takes_any_width():
    model = small(schedule="constant", mask_channels=3, skip_channels=5)
    assert [m.vertical.weight.shape[:2] for m in model.refinement] == [(3, 3)] * 4
    assert [m.horizontal.weight.shape[:2] for m in model.refinement] == [(3, 5)] * 4


def test_the_original_deepmask_can_be_refined_too():
    deepmask = build_deepmask(backbone="mobilenet_v2", head="original", vector=4, score_channels=4)
    model = SharpMask(deepmask, mask_channels=16, skip_channels=8, lateral_channels=(4,) * 4)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 224, 224))[0].shape == (1, 224, 224)


STANDS_STILL = pytest.mark.xfail(strict=True, reason="the channel is silent from the start")


@pytest.mark.parametrize(
    "seed",
    [
        0,
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in (3, 5)),
        pytest.param(1, marks=[pytest.mark.slow, STANDS_STILL]),
    ],
)
def test_a_single_last_channel_learns(seed):
    """On this trunk three seeds of ten do not: docs/log.md, "How the refinement starts"."""
    deepmask = sharpmask.load("deepmask-nano")
    torch.manual_seed(seed)
    options = {"mask_channels": 16, "skip_channels": 16}
    model = build({"model": "sharpmask", "deepmask": deepmask.architecture, **options})
    model.deepmask = deepmask.requires_grad_(False)
    photo = torch.tensor(read_image(COFFEE)).permute(2, 0, 1)
    windows = torch.stack([photo[:, y : y + 192, x : x + 192] for x, y in ((0, 0), (200, 100))])
    target = torch.full((2, 160, 160), -1.0)
    target[:, 40:120, 40:120] = 1
    features = deepmask.encode_patches(windows)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 2e-3)
    for _ in range(25):
        masks = model.decode(model.add_laterals(features), patch_cells(2))
        loss = torch.nn.functional.softplus(-target * masks).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.4


@pytest.mark.parametrize("seed", range(5))
def test_what_is_learned_reaches_the_mask_encoding_from_the_start(seed):
    """With torch's own start the gradient that arrives there is below 1e-5."""
    torch.manual_seed(seed)
    deepmask = {"model": "deepmask", "backbone": "resnet18", "width": 8, "vector": 16}
    model = build({"model": "sharpmask", "deepmask": deepmask | {"bottleneck_channels": 8}})
    masks, _ = model(photos(1, 192, 192).float())
    (gradient,) = torch.autograd.grad(masks.square().mean(), model.mask_encoding.weight)
    assert gradient.norm() > 1e-4
