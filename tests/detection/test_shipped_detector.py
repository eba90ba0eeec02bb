"""The detector that comes with the package."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import sharpmask
from sharpmask import defaults
from sharpmask.detection.files import load_head
from sharpmask.models.sources import names, resolve, shipped, source_fingerprint

COFFEE = Path(sharpmask.__file__).parent / "assets" / "coffee.jpg"


def test_it_is_small_and_belongs_to_the_default_model():
    path = resolve(defaults.DETECTOR)
    assert path.stat().st_size < 10e6
    sums = dict(
        reversed(line.split()) for line in (path.parent / "SHA256SUMS").read_text().splitlines()
    )
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[path.name]
    head = load_head(defaults.DETECTOR)
    assert head.metadata["proposals"]["weights"] == defaults.MODEL
    assert head.metadata["proposals"]["fingerprint"] == source_fingerprint(defaults.MODEL)
    assert head.metadata["licence"].startswith("Apache-2.0")
    assert head.metadata["parameters"] == sum(array.size for array in head.arrays.values())
    assert defaults.DETECTOR in shipped()
    assert defaults.DETECTOR not in names()  # no model that proposes


@pytest.mark.slow  # starts the default model
def test_it_names_what_stands_on_the_table():
    detector = sharpmask.Detector.load(engine="onnx")
    found = detector(COFFEE)
    assert found.names[0] in ("cup", "dining table", "bowl")  # a cup on a table
    height, width = found.image_size
    left, top, right, bottom = found.boxes[found.names.index("cup")]
    assert left < width / 2 < right  # it stands in the middle
    assert top < height / 2 < bottom
    assert np.isfinite(found.boxes).all()
