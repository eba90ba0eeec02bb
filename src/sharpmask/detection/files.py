"""Detector files: safetensors whose metadata says what it tells apart and how to build it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from sharpmask.detection.detections import Category
from sharpmask.detection.heads import RegionHead
from sharpmask.files import replacing_file
from sharpmask.models.sources import WeightsError, resolve


def save_head(head: RegionHead, path: Path, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a detector's last layers and categories, in float16, whole or not at all.

    Args:
        head: Of an R-CNN or Fast R-CNN.
        path: A .safetensors file.
        metadata: Proposals, data, figures: anything JSON holds.
    """
    categories = [{"id": c.id, "name": c.name} for c in head.categories]
    texts = {"detector": json.dumps({"kind": head.kind, "categories": categories})}
    texts |= {key: json.dumps(value) for key, value in (metadata or {}).items()}
    halves = {key: np.ascontiguousarray(a, np.float16) for key, a in head.arrays.items()}
    with replacing_file(path) as file:
        file.write(serialize(halves, texts))


def load_head(source: str | os.PathLike[str]) -> RegionHead:
    """Load an R-CNN's or Fast R-CNN's last layers for a ``Detector``.

    Args:
        source: What ``load`` takes: a name in the package, a file, a run's folder, or a Hugging
            Face repository.

    Raises:
        WeightsError: There is no such file, or it is not a detector.
    """
    path = resolve(source)
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            if "detector" not in texts:
                raise WeightsError(
                    f"{path}: not a detector; train one with: sharpmask train detector"
                )
            arrays = {key: file.get_tensor(key).astype(np.float32) for key in file.keys()}  # noqa: SIM118
        metadata = {key: json.loads(text) for key, text in texts.items()}
        description = metadata.pop("detector")
        if "options" in description:
            raise WeightsError(
                f"{path}: was trained by an earlier version, with a trunk of its own; train it "
                "again"
            )
        categories = tuple(Category(c["id"], str(c["name"])) for c in description["categories"])
        return RegionHead(description["kind"], categories, arrays, metadata)
    except WeightsError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a sound detector: {str(error)[:300]}") from None
