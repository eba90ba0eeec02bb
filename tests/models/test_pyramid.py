import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reference.thin_models import thin_pyramid
from sharpmask.models.layers import flatten
from sharpmask.models.pretrained import build, load, save
from sharpmask.models.pyramid import (
    LEVELS,
    PyramidFeatures,
    build_pyramid,
)
from sharpmask.models.pyramid_layers import double
from sharpmask.models.quads import samples_of
from sharpmask.models.yolox import MAP_STRIDES
from tolerances import DOUBLE


def tiny():
    return thin_pyramid().double()


def photos(height=128, width=192, count=2):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 3, height, width, generator=generator).double() * 255


def all_cells(scores):
    return torch.tensor([
        (image, level, row, column)
        for level, score in enumerate(scores)
        for image, row, column in np.ndindex(*score.shape)
    ])  # fmt: skip


def shown_by_place(model, height, width):
    """Features of an image that tell where they are.

    What windows read at a step holds the place (x, then y) of each sample, at the last step in
    quads; vectors their cell (column, then row), once for each number of an encoding.
    """
    vectors = []
    for stride in model.geometry.strides:
        y, x = torch.meshgrid(*(torch.arange(n // stride) for n in (height, width)), indexing="ij")
        vectors.append(torch.stack([x, y])[None].double().repeat_interleave(11 * 11, dim=1))

    def places(level, step):
        apart = model.geometry.strides[level] / 2**step
        y, x = (
            apart * torch.arange(side / apart).double() + model.geometry.cell_offset
            for side in (height, width)
        )
        samples = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
        if step < model.geometry.doublings:
            return samples
        return torch.cat([samples[:, :, p::2, q::2] for p, q in np.ndindex(2, 2)], dim=1)

    steps = [flatten([places(level, step) for level in LEVELS]) for step in range(4)]
    return PyramidFeatures(tuple(vectors), tuple(steps))


@pytest.mark.parametrize("level", [pytest.param(0, marks=pytest.mark.slow), *LEVELS[1:]])
def test_scored_cell_is_decoded_cell_is_pasted_window(level):
    model = tiny()
    model.mask_encoding = torch.nn.Identity()
    model.refine = lambda encoding, windows: (encoding, windows)
    height, width = 256, 320
    features = shown_by_place(model, height, width)
    cells = all_cells([features.vectors[level][:, 0]])
    cells[:, 1] = level
    encoding, windows = model.decode(features, cells)
    assert encoding.shape == (len(cells), 2, 11, 11)
    expected = cells[:, [3, 2]].double()[..., None, None].expand_as(encoding)
    torch.testing.assert_close(encoding, expected, **DOUBLE)
    boxes = model.geometry.cells_to_windows(cells[:, 1:].numpy(), (height, width), (height, width))
    for step, window in enumerate(windows):
        side = model.geometry.side(step)
        # Samples of a mask of this size, the outermost half a fine sample inside the window.
        inset = model.geometry.sample_size(level) / 2
        starts, ends = boxes[:, :2] + inset, boxes[:, 2:] - inset
        x, y = (np.linspace(starts[:, k], ends[:, k], side, axis=1) for k in (0, 1))
        place = np.stack(np.broadcast_arrays(x[:, None, :], y[:, :, None]), axis=1)
        apart = model.geometry.strides[level] / 2**step
        last = np.array([width, height])[:, None, None] - apart + model.geometry.cell_offset
        near = 1e-6
        inside = ((place >= model.geometry.cell_offset - near) & (place <= last + near)).all(1)
        if step == model.geometry.doublings:
            window = samples_of(window)
        read = window.permute(0, 2, 3, 1).numpy()
        place = place.transpose(0, 2, 3, 1)
        assert inside.any(axis=(1, 2)).all()
        np.testing.assert_allclose(read[inside], place[inside], rtol=1e-12, atol=1e-9)
        assert not inside.all()
        assert not read[~inside].any()


def test_what_windows_read_is_the_map_of_their_stride():
    model = tiny()
    model.refine = lambda encoding, windows: windows
    images = photos(128, 192, count=1)
    maps = model.backbone(model.normalize(images)).maps
    features = model.encode(images)
    for level in LEVELS:
        windows = model.decode(features, torch.tensor([[0, level, 1, 1]]))
        for step in range(1, 4):
            stride = model.stride_of(level, step)
            index = MAP_STRIDES.index(stride)
            which = model.steps_at(stride).index(step)
            read = F.conv2d(*model.laterals[index](maps[index])[which])[0]
            window = windows[step]
            window = (samples_of(window) if step == model.geometry.doublings else window)[0]
            middle = window.shape[-1] // 2
            row = model.geometry.strides[level] // stride
            torch.testing.assert_close(window[:, middle, middle], read[:, row, row], **DOUBLE)


def test_masks_of_some_cells_are_those_of_all_in_any_order():
    model = tiny()
    features = model.encode(photos(64, 128))
    cells = all_cells(model.score(features))
    everything = model.decode(features, cells)
    assert everything.std() > 1e-3
    chosen = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))[:40]
    torch.testing.assert_close(model.decode(features, cells[chosen]), everything[chosen], **DOUBLE)
    assert model.decode(features, cells[:0]).shape == (0, 81, 81)


def test_shapes_of_every_level():
    model = tiny()
    masks, scores = model(photos(128, 192), torch.tensor([[1, 3, 1, 2], [0, 0, 15, 23]]))
    assert masks.shape == (2, 81, 81)
    assert [tuple(score.shape) for score in scores] == [
        (2, 16, 24), (2, 8, 12), (2, 4, 6), (2, 2, 3)
    ]  # fmt: skip


def test_every_parameter_learns():
    model = tiny()
    masks, scores = model(photos(), torch.tensor([[0, k, 1, 1] for k in LEVELS]))
    (masks.square().mean() + sum(score.square().mean() for score in scores)).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_doubling_keeps_samples_and_puts_means_between():
    x = torch.randn(2, 3, 5, 6).double()
    y = double(x)
    assert y.shape == (2, 3, 9, 11)
    torch.testing.assert_close(y[:, :, ::2, ::2], x, **DOUBLE)
    torch.testing.assert_close(y[:, :, ::2, 1::2], (x[..., 1:] + x[..., :-1]) / 2, **DOUBLE)


def test_a_model_file_holds_all_it_takes(tmp_path):
    model = tiny().float()
    model.metadata = {"kept_back": ["a.jpg"]}
    save(model, tmp_path / "model.safetensors", metadata=model.metadata)
    loaded = load(tmp_path / "model.safetensors")
    assert loaded.metadata == {"kept_back": ["a.jpg"]}
    cells = torch.tensor([[0, 1, 2, 3]])
    for ours, theirs in zip(
        model(photos().float(), cells), loaded(photos().float(), cells), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_released_architectures_keep_their_keys():
    keys = build({"model": "pyramid"}).state_dict().keys()
    assert len(keys) == 236
    assert {
        "backbone.C3_n4.conv3.conv.weight", "levels.mix.2.weight", "levels.coarsest.bias",
        "head.blocks.2.spread.weight", "head.gain", "mask_encoding.weight", "level_lateral.weight",
        "laterals.4.horizontal.weight", "refinement.2.narrow.bias", "refinement.3.vertical.weight",
        "predict.weight",
    } <= keys  # fmt: skip


def test_wrong_widths_are_refused():
    with pytest.raises(ValueError, match="mask_channels: expected 4 widths"):
        build_pyramid(mask_channels=[8, 8])
