import itertools

import numpy as np
import pytest
import torch

from reference.small_nets import GEOMETRY, BlindTrunk, all_cells, photos, spread
from sharpmask.geometry import DEEPMASK_GEOMETRY, PatchGeometry
from sharpmask.models.backbones import STRIDES, VGG, Bottleneck, ResNet
from sharpmask.models.deepmask import HEADS, DeepMask, build_deepmask, crop
from sharpmask.models.window_net import patch_cells
from tolerances import DOUBLE, SINGLE

assert_close = torch.testing.assert_close

# A grid of four, for the original head pools by two and reads every second value.
WIDE = PatchGeometry(patch_size=64, context=16, object_size=37, coarse_size=8)


def small(head="c", backbone=BlindTrunk, geometry=WIDE, **options):
    options = {"bottleneck_channels": 6, "vector": 9} | options
    return spread(DeepMask(backbone(), head=head, geometry=geometry, **options))


def image_and_cells(model, height=112, width=144):
    images = photos(2, height, width)
    features = model.encode(images)
    return images, features, all_cells(model.score(features))


# --- sizes of the published nets ---


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_papers_resnet50():
    with torch.device("meta"):  # counting needs no numbers
        model = build_deepmask(backbone="resnet50")
    trunk = 3 * 64 * 49  # weights, then one shift for each output channel
    outputs = 64
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6)):
        for block in range(blocks):
            trunk += channels * width + width * width * 9 + width * 4 * width
            outputs += width + width + 4 * width
            if block == 0:
                trunk += channels * 4 * width
                outputs += 4 * width
            channels = 4 * width
    assert count(model.backbone) == trunk + outputs
    bottleneck = 1024 * 128 + 128
    joint = 128 * 10 * 10 * 512 + 512
    score = 512 * 1024 + 1024 + 1024 + 1
    mask = 512 * 56 * 56 + 56 * 56
    assert count(model) == trunk + outputs + bottleneck + joint + score + mask == 17_348_417
    # FAIR keeps a gain beside every shift: facts.md has 17.36 M of them, 8.54 in the trunk.
    assert round((count(model.backbone) + outputs) / 1e6, 2) == 8.54
    assert round((count(model) + outputs) / 1e6, 2) == 17.36
    assert [round(n / 1e6, 2) for n in (bottleneck + joint, mask, score)] == [6.69, 1.61, 0.53]
    # The class's own defaults are the paper's too.
    thin = DeepMask(ResNet(Bottleneck, (1, 1, 1)))
    assert count(thin) - count(thin.backbone) == bottleneck + joint + score + mask


def test_parameters_of_the_original_deepmask():
    with torch.device("meta"):
        model = build_deepmask(backbone="vgg11", head="original")
    widths = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    vgg = sum(9 * i * o + o for i, o in itertools.pairwise(widths))
    mask = 512 * 512 + 512 + 512 * 14 * 14 * 512 + 512 + 512 * 56 * 56 + 56 * 56
    score = 512 * 7 * 7 * 512 + 512 + 512 * 1024 + 1024 + 1024 + 1
    assert count(model) == vgg + mask + score
    assert round(count(model) / 75e6, 1) == 1  # "about 75 M"
    assert model.geometry == DEEPMASK_GEOMETRY


@torch.inference_mode()
def test_input_and_output_of_the_papers_patch():
    model = DeepMask(ResNet(Bottleneck, (1, 1, 1), width=4), bottleneck_channels=4, vector=8)
    masks, scores = model.eval()(torch.zeros(2, 3, 192, 192))
    assert masks.shape == (2, 56, 56)
    assert scores.shape == (2,)


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match=r"backbone: expected one of .*resnet50.*got 'resnet5'"):
        build_deepmask(backbone="resnet5")
    with pytest.raises(ValueError, match="head: expected one of original, a, b, c, got 'd'"):
        build_deepmask(head="d")
    with pytest.raises(ValueError, match="padding: expected symmetric or zero, got 'reflect'"):
        build_deepmask(padding="reflect")
    odd = PatchGeometry(patch_size=48, context=0)
    with pytest.raises(ValueError, match="a grid of 3 is odd"):
        DeepMask(BlindTrunk(), head="original", geometry=odd)


# --- normalisation ---


def test_images_are_normalised_as_imagenets():
    model = small()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.encode(torch.tensor([0.0, 255, 51]).double().reshape(1, 3, 1, 1).expand(1, 3, 64, 64))
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert_close(seen[0][0, :, 5, 7], torch.tensor(expected).double(), rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_uint8_images_are_read_as_floats():
    model = small().float()
    images = photos(1, 96, 96).to(torch.uint8)
    assert torch.equal(model.score(model.encode(images)), model.score(model.encode(images.float())))


# --- a whole image against its windows one by one ---


@pytest.mark.parametrize("head", HEADS)
@torch.inference_mode()
def test_every_cell_is_the_patch_form_on_the_features_cut_to_it(head):
    model = small(head)
    _, features, cells = image_and_cells(model)
    grid = WIDE.grid
    scores, masks = model.score(features), model.decode(features, cells)
    assert len(cells) == 2 * 4 * 6
    for (image, row, column), mask in zip(cells.tolist(), masks, strict=True):
        cut = features.maps[-1][image : image + 1, :, row : row + grid, column : column + grid]
        patch = model.embed((*features.maps[:-1], cut))
        assert model.score(patch).shape == (1, 1, 1)
        assert_close(scores[image, row, column], model.score(patch)[0, 0, 0], **DOUBLE)
        assert_close(mask, model.decode(patch, patch_cells(1))[0], **DOUBLE)


@pytest.mark.parametrize("head", HEADS)
@torch.inference_mode()
def test_every_cell_is_its_window_read_alone(head):
    model = small(head)
    images, features, cells = image_and_cells(model)
    scores, masks = model.score(features), model.decode(features, cells)
    # A blind trunk sees nothing of the context, so any colour will do beyond the image.
    context = WIDE.context
    framed = torch.nn.functional.pad(images, [context] * 4, value=77)
    windows = torch.stack([
        framed[image, :, 16 * row : 16 * row + 96, 16 * column : 16 * column + 96]
        for image, row, column in cells.tolist()
    ])  # fmt: skip
    alone_masks, alone_scores = model(windows)
    assert_close(scores.flatten(), alone_scores, **DOUBLE)
    assert_close(masks, alone_masks, **DOUBLE)
    assert scores.std() > 0.01
    assert masks.std(0).min() > 0.001


@pytest.mark.parametrize("head", HEADS)
@torch.inference_mode()
def test_decoding_some_cells_is_decoding_all_and_choosing(head):
    model = small(head)
    _, features, cells = image_and_cells(model)
    everything = model.decode(features, cells)
    order = torch.tensor([40, 3, 3, 17])
    assert_close(model.decode(features, cells[order]), everything[order], **DOUBLE)
    assert model.decode(features, cells[:0]).shape == (0, 8, 8)


@torch.inference_mode()
def test_context_reaches_a_patch_through_the_trunk_alone():
    # A trunk with 3x3 kernels sees the context; the maps that are read afterwards are cut to it.
    model = spread(DeepMask(ResNet(Bottleneck, (1, 1, 1), width=4), geometry=GEOMETRY, vector=9))
    windows = photos(2, 64, 64)
    changed = windows.clone()
    changed[:, :, :16] = 0
    assert not torch.allclose(model(windows)[1], model(changed)[1])
    features = model.encode_patches(windows)
    whole = model.encode(windows)
    for x, y, stride in zip(features.maps, whole.maps, STRIDES, strict=True):
        cut = slice(16 // stride, (16 + 32) // stride)
        assert torch.equal(x, y[:, :, cut, cut])


# --- the heads against their layers ---


def arrays(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def affine(state, name, x):
    return state[f"{name}.weight"].reshape(-1, x.size) @ x.ravel() + state[f"{name}.bias"]


@pytest.mark.parametrize("head", HEADS)
@torch.inference_mode()
def test_a_patch_by_the_layers_of_its_head(head):
    """facts.md, section 1: the tables of both papers, in NumPy on one patch."""
    model = small(head)
    features = model.encode_patches(photos(1, WIDE.window_size, WIDE.window_size))
    state, x = arrays(model), features.maps[-1][0].numpy()
    if head == "original":
        pooled = x.reshape(len(x), 2, 2, 2, 2).max((2, 4))
        # The convolution over every second value is the fully connected layer of the pooled map.
        vector = np.maximum(affine(state, "head.score_joint", pooled), 0)
        hidden = affine(state, "head.score_head.2", vector)
        score = affine(state, "head.score_head.5", np.maximum(hidden, 0))
        weight, bias = state["head.mask_conv.weight"][:, :, 0, 0], state["head.mask_conv.bias"]
        narrow = np.maximum(np.einsum("oc,chw->ohw", weight, x) + bias[:, None, None], 0)
        mask_vector = affine(state, "head.mask_joint", narrow)
    else:
        weight, bias = state["bottleneck.0.weight"][:, :, 0, 0], state["bottleneck.0.bias"]
        trunk = np.maximum(np.einsum("oc,chw->ohw", weight, x) + bias[:, None, None], 0)
        if head == "a":
            vector = affine(state, "head.score_joint", trunk)
            mask_vector = affine(state, "head.mask_joint", trunk)
        else:
            vector = mask_vector = affine(state, "head.joint", trunk)
        if head == "b":
            mask_vector = affine(state, "head.mask_split", mask_vector)
        hidden = affine(state, "head.score_head.1", vector)
        score = affine(state, "head.score_head.4", np.maximum(hidden, 0))
    mask = affine(state, "mask_head", mask_vector).reshape(8, 8)
    np.testing.assert_allclose(model.score(features).numpy()[0, 0], score, rtol=1e-10)
    decoded = model.decode(features, patch_cells(1))[0].numpy()
    np.testing.assert_allclose(decoded, mask, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("head", HEADS)
def test_two_dropouts_act_on_the_score_in_training_only(head, number):
    model = small(head)
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert [dropout.p for dropout in dropouts] == [0.5, 0.5]
    dropouts[1 - number].p = 0.0
    windows = photos(1, WIDE.window_size, WIDE.window_size)
    model.train()
    torch.manual_seed(0)
    (mask, first), (same_mask, second) = model(windows), model(windows)
    assert first != second
    assert torch.equal(mask, same_mask)
    model.eval()
    assert torch.equal(model(windows)[1], model(windows)[1])


@torch.inference_mode()
def test_images_of_a_batch_do_not_meet():
    model = small().float()
    images = photos(3, 96, 112).float()
    together = model.score(model.encode(images))
    for image, scores in zip(images, together, strict=True):
        assert_close(model.score(model.encode(image[None]))[0], scores, **SINGLE)


def test_crop_by_hand():
    x = torch.arange(30).reshape(1, 1, 5, 6)
    assert crop(x, 2)[0, 0].tolist() == [[14, 15]]
    assert torch.equal(crop(x, 0), x)


def test_vgg_can_carry_the_papers_head():
    class ThinVGG(VGG):
        WIDTHS = (2, 2, 2, 2, 2)

    backbone = ThinVGG((1, 1, 2, 2, 2))
    backbone.channels = (2, 2, 2, 2)
    model = DeepMask(backbone, geometry=GEOMETRY, bottleneck_channels=3, vector=4).eval()
    assert model(torch.zeros(1, 3, 64, 64))[0].shape == (1, 8, 8)
