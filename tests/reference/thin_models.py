"""Models of the package's own parts with few channels, made and exported in seconds."""

import torch

from sharpmask.engines import export_cache
from sharpmask.files import cache_folder
from sharpmask.models.pretrained import build, save


def thin(backbone, head="c", *, depths=None, **sharpmask_options):
    """A model with random weights and narrow layers; a SharpMask if it is given options."""
    torch.manual_seed(0)
    deepmask = {"model": "deepmask", "backbone": backbone, "head": head, "vector": 16}
    deepmask |= {"bottleneck_channels": 8, "score_channels": 16}
    if backbone.startswith("resnet"):
        deepmask["width"] = 8
    if depths:
        deepmask["depths"] = depths
    if not sharpmask_options:
        return build(deepmask)
    return build({"model": "sharpmask", "deepmask": deepmask, **sharpmask_options})


def thinnest(head="c", **sharpmask_options):
    """A thin model of as few layers as there can be."""
    return thin("resnet18", head, depths=[1, 1, 1], **sharpmask_options)


def thin_pyramid(seed=0):
    """A SharpMask on a feature pyramid of few channels, with random weights."""
    torch.manual_seed(seed)
    options = {
        "channels": 12, "vector": 8, "block_channels": 4,
        "mask_channels": [6, 5, 4, 3], "lateral_hidden": [4, 4, 4, 4, 4],
    }  # fmt: skip
    return build({"model": "pyramid", "width": 4, **options}).eval()


def pyramid_file(folder):
    """The file of a thin pyramid."""
    path = folder / "pyramid.safetensors"
    if not path.exists():
        model = thin_pyramid()
        torch.nn.init.zeros_(model.predict.bias)  # so that its masks are not empty
        save(model, path)
    return path


def thin_file(folder):
    """A SharpMask of few layers, which torch exports to ONNX in seconds, with random weights."""
    path = folder / "thin.safetensors"
    if not path.exists():
        save(thinnest(mask_channels=16, skip_channels=8), path)
    return path


def thin_export(folder):
    """The model of ``thin_file`` as it is kept for OpenVINO; not to be written to."""
    weights = thin_file(folder)
    export_cache.exported(weights, "openvino")
    return cache_folder() / "exported" / f"openvino-{export_cache._key(weights, 'openvino')}"
