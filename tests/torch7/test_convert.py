"""Conversion of FAIR's models: files laid out by the tests, and FAIR's own answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fair_layout import FairLayout
from sharpmask.models.backbones import fold_batch_norm
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.pretrained import build, load, save
from sharpmask.models.sharpmask import SharpMask, upsample
from sharpmask.models.window_net import patch_cells
from sharpmask.torch7.convert import convert_torch7
from sharpmask.torch7.format import Torch7Error
from sharpmask.torch7.proposer import Torch7Proposer
from tolerances import SINGLE
from torch7_writer import LuaObject, write_torch7

THIN = {
    "model": "deepmask", "backbone": "resnet50", "width": 2, "bottleneck_channels": 4, "vector": 8,
    "score_channels": 6,
}  # fmt: skip
THIN_SHARPMASK = {
    "model": "sharpmask", "mask_channels": 16, "skip_channels": 16,
    "lateral_channels": [5, 4, 3, 2], "upsampling": "nearest",
}  # fmt: skip


def random_model(architecture: dict, **changes: object) -> DeepMask | SharpMask:
    torch.manual_seed(0)
    model = build({**architecture, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    state, other = first.state_dict(), second.state_dict()
    assert state.keys() == other.keys()
    for key in state:
        torch.testing.assert_close(state[key], other[key], **SINGLE, msg=key)


@pytest.mark.parametrize("affine", ["inn.ConstAffine", "nn.SpatialConstDiagonal"])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("convolutional", [True, False])
@pytest.mark.parametrize("mirrored", [True, False])
def test_deepmask_comes_back(tmp_path, affine, biases, convolutional, mirrored):
    model = random_model(THIN, padding="symmetric" if mirrored else "zero")
    layout = FairLayout(
        affine=affine, biases=biases, convolutional=convolutional, mirrored=mirrored
    )
    write_torch7(tmp_path / "model.t7", layout.deepmask(model))
    converted = convert_torch7(tmp_path / "model.t7")
    padding = "symmetric" if mirrored else "zero"
    assert converted.architecture == {**THIN, "head": "c", "padding": padding}
    assert_same_weights(model, converted)


def test_sharpmask_comes_back_and_can_be_saved(tmp_path):
    model = random_model({**THIN_SHARPMASK, "deepmask": {**THIN, "padding": "symmetric"}})
    write_torch7(tmp_path / "model.t7", FairLayout().sharpmask(model), cuda=True)
    converted = convert_torch7(tmp_path / "model.t7")
    save(converted, tmp_path / "fair.safetensors")
    assert_same_weights(model, load(tmp_path / "fair.safetensors"))


def test_resnet_trunk_folds_its_batch_norm(tmp_path):
    layout = FairLayout()
    deepmask = build({"model": "deepmask", "backbone": "resnet50", "bottleneck_channels": 8})
    rng = np.random.default_rng(0)
    torchvision = {}

    def normed(layer: torch.nn.Module) -> list[LuaObject]:
        name = next(n for n, m in deepmask.backbone.named_modules() if m is layer)
        weight = layer.weight.detach().numpy().copy()
        statistics = {
            "weight": rng.normal(size=len(weight)),
            "bias": rng.normal(size=len(weight)),
            "running_mean": rng.normal(size=len(weight)),
            "running_var": rng.uniform(0.5, 2, len(weight)),
        }
        statistics = {key: value.astype(np.float32) for key, value in statistics.items()}
        norm = (
            name.replace("downsample.0", "downsample.1")
            if "downsample" in name
            else name.replace("conv", "bn")
        )
        torchvision[f"{name}.weight"] = torch.from_numpy(weight)
        torchvision.update(
            {f"{norm}.{key}": torch.from_numpy(value) for key, value in statistics.items()}
        )
        batch_norm = LuaObject("nn.SpatialBatchNormalization", {**statistics, "eps": 1e-5})
        return [*layout.conv(weight, None), batch_norm]

    layout.normed = normed
    write_torch7(tmp_path / "resnet-50.t7", layout.trunk(deepmask))
    converted = convert_torch7(tmp_path / "resnet-50.t7")
    expected = fold_batch_norm(torchvision)
    assert converted.keys() == expected.keys()
    for key, value in converted.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-4, msg=key)


def test_unknown_and_left_over_parameters_are_errors(tmp_path):
    path = tmp_path / "model.t7"
    model = random_model(THIN)

    def converting(change) -> None:
        tree = FairLayout().deepmask(model)
        change(tree["model"].fields)
        write_torch7(path, tree)
        convert_torch7(path)

    def replace_trunk_module(number: int, module: LuaObject):
        return lambda fields: fields["trunk"].fields["modules"].__setitem__(number, module)

    extra = FairLayout().linear(torch.nn.Linear(8, 8))
    with pytest.raises(Torch7Error, match=r"model\.t7: trunk\.3: nn\.Secret is not understood"):
        converting(replace_trunk_module(3, LuaObject("nn.Secret")))
    with pytest.raises(Torch7Error, match=r"trunk\.3: cudnn\.ReLU with weight"):
        converting(replace_trunk_module(3, LuaObject("cudnn.ReLU", {"weight": np.ones(3)})))
    another = FairLayout().simple(torch.nn.Conv2d(2, 2, 1))[0]
    with pytest.raises(Torch7Error, match="backbone: 43 layers expected, the file has 44"):
        converting(replace_trunk_module(3, another))
    wrong = {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(Torch7Error, match="2 channels, then a map of 3"):
        converting(replace_trunk_module(2, LuaObject("inn.ConstAffine", wrong)))
    with pytest.raises(Torch7Error, match="no module 'scoreBranch'"):
        converting(lambda fields: fields.pop("scoreBranch"))
    with pytest.raises(Torch7Error, match="mask_head: 1 layers expected, the file has 2"):
        converting(lambda fields: fields["maskBranch"].fields["modules"].__setitem__(3, extra))


def test_modules_that_contain_themselves_are_refused(tmp_path):
    tree = FairLayout().deepmask(random_model(THIN))
    modules = tree["model"].fields["trunk"].fields["modules"]
    modules[3] = tree["model"].fields["trunk"]
    write_torch7(tmp_path / "x.t7", tree)
    with pytest.raises(Torch7Error, match="nested too deeply"):
        convert_torch7(tmp_path / "x.t7")
    # Ten levels that each hold the next one twelve times: 12^10 leaves in a small file.
    layout = FairLayout()
    module = layout.plain("nn.Identity")
    for _ in range(10):
        module = layout.sequential(*[module] * 12)
    modules[3] = module
    write_torch7(tmp_path / "x.t7", tree)
    with pytest.raises(Torch7Error, match="more than 1000 modules"):
        convert_torch7(tmp_path / "x.t7")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"config": {}}, "holds no model"),
        ({"model": LuaObject("nn.FastMask")}, "holds nn.FastMask"),
        (1.0, "holds no model"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    write_torch7(tmp_path / "x.t7", content)
    with pytest.raises(Torch7Error, match=message):
        convert_torch7(tmp_path / "x.t7")


FAIR = Path(__file__).parents[2].parent / "shared" / "torch7"
needs_fair = pytest.mark.skipif(
    not FAIR.is_dir(), reason="FAIR's own outputs (../shared/torch7) are not on this machine"
)


def assert_agrees(ours: torch.Tensor | np.ndarray, golden: np.ndarray, bound: float = 1e-4) -> None:
    """Largest difference as a share of the golden array's maximum, over the patches both hold."""
    ours = np.asarray(ours)[: len(golden)]
    golden = golden[: len(ours)].reshape(ours.shape)
    assert np.abs(ours - golden).max() <= bound * np.abs(golden).max()


@needs_fair
@torch.no_grad()
def test_patch_outputs_equal_fairs():
    golden = np.load(FAIR / "tiny" / "golden_patch.npz")
    deepmask = convert_torch7(FAIR / "tiny" / "deepmask" / "model.t7").eval()
    model = convert_torch7(FAIR / "tiny" / "sharpmask" / "model.t7").eval()
    normal = deepmask.normalize
    windows = (torch.from_numpy(golden["input"]) * normal.std + normal.mean) * 255
    mask, score = deepmask(windows)
    assert_agrees(mask, golden["mask56"])
    assert_agrees(score, golden["score"])
    mask, score = model(windows)
    assert_agrees(mask, golden["sharpmask"])
    assert_agrees(score, golden["score_sm"])

    # Every step on the way.
    cells = patch_cells(len(windows))
    features = model.encode_patches(windows)
    assert_agrees(features.maps[3], golden["trunk_m8"])
    assert_agrees(model.deepmask.mask_vectors(features, cells), golden["trunk"])
    encoding = model.mask_encoding(model.deepmask.mask_vectors(features, cells))
    encoding = encoding.unflatten(1, (-1, 10, 10))
    assert_agrees(encoding, golden["ref0"])
    for index, module in enumerate(model.refinement):
        assert_agrees(features.laterals[index], golden[f"neth{index + 1}"])
        assert_agrees(module.vertical(module.mask(encoding)), golden[f"netv{index + 1}"])
        encoding = upsample(module(encoding, features.laterals[index]), "nearest")
        assert_agrees(encoding, golden[f"ref{index + 1}"])
    assert_agrees(model.predict(encoding)[:, 0], golden["sharpmask"])


@needs_fair
@torch.no_grad()
def test_score_maps_of_a_whole_image_equal_fairs():
    golden = np.load(FAIR / "tiny" / "golden_image_sharpmask.npz")
    model = convert_torch7(FAIR / "tiny" / "sharpmask" / "model.t7").eval()
    image = np.asarray(Image.open(FAIR / "tiny" / "image_150x200.png").convert("RGB"))
    levels = Torch7Proposer(model, device="cpu").levels(image)
    assert len(levels) == len(golden["scales"]) == 7
    for number, level in enumerate(levels, 1):
        assert level.scaled_size == golden[f"pyramid_s{number}"].shape[1:]
        assert level.scores.shape == golden[f"logits_s{number}"].shape
        assert_agrees(level.scores, golden[f"logits_s{number}"])


@needs_fair
@pytest.mark.parametrize("kind", ["deepmask", "sharpmask"])
def test_proposals_equal_fairs_once_its_lost_cell_is_lost_too(kind):
    golden = np.load(FAIR / "tiny" / f"golden_image_{kind}.npz")
    model = convert_torch7(FAIR / "tiny" / kind / "model.t7")
    image = np.asarray(Image.open(FAIR / "tiny" / "image_150x200.png").convert("RGB"))
    proposer = Torch7Proposer(model, num_proposals=10, device="cpu")
    levels = proposer.levels(image)
    numbers, cells, scores = proposer.select([level.scores for level in levels], 10)
    assert_agrees(torch.sigmoid(torch.from_numpy(scores)), golden["topScores"][:, 0])
    np.testing.assert_array_equal(numbers + 1, golden["topScores"][:, 1])
    np.testing.assert_array_equal(cells + 1, golden["topScores"][:, 2:])
    logits = [
        proposer.engine.decode(levels[n].features, np.array([[0, *cells[k]]]))[0]
        for k, n in enumerate(numbers)
    ]
    assert_agrees(np.stack(logits), golden["topMasks0"])

    # FAIR's way to paste a mask, then pixel by pixel.
    shape = tuple(golden["topMasks_shape"])
    expected = np.unpackbits(golden["topMasks_packed"])[: np.prod(shape)].reshape(shape) > 0
    for k, n in enumerate(numbers):
        pasted = fair_paste(logits[k], golden["scales"][n], cells[k] + 1, shape[1:])
        assert (pasted != expected[k]).sum() <= 12


def fair_paste(
    logits: np.ndarray, scale: float, cell: np.ndarray, image_size: tuple[int, int]
) -> np.ndarray:
    """Binary mask of a 1-based cell in the image, as Infer.lua makes it."""
    side = int(160 / scale)
    if side >= len(logits):
        options = {"mode": "bilinear", "align_corners": True}
        mask = torch.from_numpy(logits)[None, None]
        mask = torch.nn.functional.interpolate(mask, (side, side), **options)[0, 0].numpy()
    else:
        edges = np.arange(side + 1) * len(logits) / side
        pixels = np.arange(len(logits))
        shares = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        shares = np.maximum(shares, 0) / np.diff(edges)[:, None]
        mask = shares @ logits @ shares.T
    inside = mask > np.log(0.2 / 0.8)
    pasted = np.zeros(image_size, bool)
    top, left = ((cell - 1) * 16 / scale - 80 / scale).astype(float)
    for i in range(1, side + 1):
        for j in range(1, side + 1):
            row, column = int(np.floor(top + i)), int(np.floor(left + j))
            if 1 <= row <= image_size[0] and 1 <= column <= image_size[1]:
                pasted[row - 1, column - 1] = inside[i - 1, j - 1]
    return pasted


@needs_fair
def test_order_of_many_proposals_equals_fairs():
    maps = np.load(FAIR / "tiny" / "golden_image_sharpmask.npz")
    golden = np.load(FAIR / "tiny" / "golden_topscores.npz")["topScores_np250"]
    model = convert_torch7(FAIR / "tiny" / "sharpmask" / "model.t7")
    proposer = Torch7Proposer(model, device="cpu")
    score_maps = [maps[f"logits_s{number}"] for number in range(1, 8)]
    numbers, cells, _ = proposer.select(score_maps, 250)
    np.testing.assert_array_equal(numbers + 1, golden[:, 1])
    np.testing.assert_array_equal(cells + 1, golden[:, 2:])


@needs_fair
@pytest.mark.parametrize(
    "name", ["deepmask_float", "deepmask_floatnograd", "sharpmask_float", "sharpmask_floatnograd"]
)
def test_variants_hold_the_same_model(name):
    kind = name.partition("_")[0]
    original = convert_torch7(FAIR / "tiny" / kind / "model.t7")
    assert_same_weights(original, convert_torch7(FAIR / "variants" / f"{name}.t7"))
