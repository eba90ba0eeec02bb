import numpy as np
import pytest
import torch

from reference.small_nets import GEOMETRY
from sharpmask.engines.torch_engine import TorchEngine, choose_device
from sharpmask.models.backbones import Bottleneck, ResNet
from sharpmask.models.deepmask import DeepMask
from sharpmask.models.sharpmask import SharpMask
from tolerances import SINGLE

CPU = torch.device("cpu")


def model(kind):
    torch.manual_seed(0)
    backbone = ResNet(Bottleneck, (1, 1, 1), width=4)
    for module in backbone.modules():  # a new net's blocks add nothing yet
        if isinstance(module, Bottleneck):
            torch.nn.init.kaiming_normal_(module.conv3.weight)
    deepmask = DeepMask(backbone, geometry=GEOMETRY, bottleneck_channels=6, vector=9)
    return deepmask if kind == "deepmask" else SharpMask(deepmask, mask_channels=16)


@pytest.mark.parametrize("kind", ["deepmask", "sharpmask"])
@pytest.mark.parametrize("size", [(64, 80), (69, 91)], ids=str)  # whole strides, and not
def test_the_engine_is_the_model(kind, size):
    net = model(kind)
    engine = TorchEngine(net, CPU)
    assert engine.geometry is GEOMETRY
    net.eval()
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    cells = np.array([[0, 1, 2], [0, 0, 0], [0, 1, 2]])
    (scores,), features = engine.encode(image)
    masks = engine.decode(features, cells)
    assert {type(scores), type(masks)} == {np.ndarray}
    assert scores.dtype == masks.dtype == np.float32
    with torch.inference_mode():
        pixels = torch.from_numpy(image).float().permute(2, 0, 1)[None].contiguous()
        encoded = net.encode(pixels)
        expected = net.score(encoded)[0]
        decoded = net.decode(encoded, torch.from_numpy(cells))
    assert scores.shape == tuple(GEOMETRY.num_cells(side) for side in size)
    assert expected.std() > 1e-3
    torch.testing.assert_close(torch.from_numpy(scores), expected, **SINGLE)
    torch.testing.assert_close(torch.from_numpy(masks), decoded, **SINGLE)


def test_nothing_remembers_gradients():
    engine = TorchEngine(model("sharpmask"), CPU)
    _, features = engine.encode(np.zeros((64, 64, 3), np.uint8))
    assert not any(x.requires_grad for x in features.masks)


def test_no_cells_give_no_masks():
    engine = TorchEngine(model("sharpmask"), CPU)
    _, features = engine.encode(np.zeros((64, 64, 3), np.uint8))
    assert engine.decode(features, np.zeros((0, 3), np.int64)).shape == (0, 32, 32)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(ValueError, match=r"cuda was asked for.*use --device cpu"):
        choose_device("cuda")
    for name in ("gpu", "", "cpu0"):
        with pytest.raises(ValueError, match=f"expected auto, cpu or cuda, got '{name}'"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:0") == torch.device("cuda:0")
