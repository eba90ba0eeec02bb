"""Detector files: safetensors whose metadata says what it tells apart and how to build it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharpmask.detection.detector import Category
from sharpmask.detection.fast_rcnn import FastRCNN
from sharpmask.detection.rcnn import RCNN, RegionNet
from sharpmask.models.pretrained import read_metadata, read_safetensors, save_atomically
from sharpmask.models.sources import WeightsError, resolve

ARRAYS = ("svm", "svm_bias", "boxes", "boxes_bias")


def save_classifier(
    classifier: RCNN | FastRCNN, path: Path, *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a detector's network and categories, in float16, whole or not at all.

    Args:
        classifier: An R-CNN or Fast R-CNN.
        path: A .safetensors file.
        metadata: Proposals, data, figures: anything JSON holds.
    """
    if isinstance(classifier, RCNN):
        net = classifier.net
        options: dict[str, Any] = {"backbone": net.name, "warped_size": net.warped_size}
        tensors = {f"net.{key}": value for key, value in net.state_dict().items()}
        tensors |= {key: torch.from_numpy(value) for key, value in classifier.weights.items()}
        kind = "rcnn"
    else:
        options = dict(classifier.options)
        tensors = classifier.state_dict()
        kind = "fast-rcnn"
    categories = [{"id": c.id, "name": c.name} for c in classifier.categories]
    description = {"kind": kind, "options": options, "categories": categories}
    texts = {"detector": json.dumps(description)}
    texts |= {key: json.dumps(value) for key, value in (metadata or {}).items()}
    halves = {key: value.detach().cpu().half().contiguous() for key, value in tensors.items()}
    save_atomically(halves, path, texts)


def load_classifier(source: str | os.PathLike[str]) -> RCNN | FastRCNN:
    """Load an R-CNN or Fast R-CNN for a ``Detector``.

    Args:
        source: What ``load`` takes: a name in the package, a file, a run's folder, or a Hugging
            Face repository.

    Raises:
        WeightsError: There is no such file, or it is no detector.
    """
    path = resolve(source)
    metadata = read_metadata(path)
    if "detector" not in metadata:
        raise WeightsError(f"{path}: not a detector; train one with: sharpmask train detector")
    tensors, _ = read_safetensors(path)
    state = {key: value.float() for key, value in tensors.items()}
    try:
        description = metadata["detector"]
        categories = [Category(c["id"], str(c["name"])) for c in description["categories"]]
        options = description["options"]
        classifier: RCNN | FastRCNN
        if description["kind"] == "rcnn":
            arrays = {key: np.asarray(state.pop(key)) for key in ARRAYS}
            net = RegionNet(**options)
            net.load_state_dict({key.removeprefix("net."): value for key, value in state.items()})
            classifier = RCNN(net, categories, arrays)
        else:
            classifier = FastRCNN(categories, **options)
            classifier.load_state_dict(state)
            classifier.eval()
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path}: not a sound detector: {str(error)[:300]}") from None
    classifier.metadata = {key: value for key, value in metadata.items() if key != "detector"}
    return classifier
