"""Malformed run lengths: only ``ValueError``, whatever they hold."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.reliability

PROGRAM = """
import sys, time
import numpy as np
from sharpmask.coco.segmentation import segmentation_to_rle
from sharpmask.masks import encode, rle_areas

count = int(sys.argv[1])
rng = np.random.default_rng(0)
letters = [chr(k) for k in range(32, 127)] + ["\\0", "\\n", "é", "☃"]

def some(number):
    size = tuple(int(v) for v in rng.integers(1, 40, 2))
    kind = number % 6
    if kind == 0:  # any text
        counts = "".join(rng.choice(letters, rng.integers(0, 30)))
    elif kind == 1:  # a sound one, damaged
        mask = rng.random(size) < 0.5
        counts = list(encode(mask, size)["counts"])
        for _ in range(rng.integers(1, 4)):
            if counts:
                counts[rng.integers(len(counts))] = str(rng.choice(letters))
        counts = "".join(counts)
    elif kind == 2:  # numbers of all sizes
        counts = [int(v) for v in rng.integers(-5, 10 ** rng.integers(1, 18), rng.integers(0, 9))]
    elif kind == 3:  # other things in the list
        counts = [rng.choice([1.5, float("nan"), -1, 2**70, 3]) for _ in range(rng.integers(0, 6))]
        counts = [None if c == 3 else c for c in counts]
    elif kind == 4:
        counts = rng.choice(np.array([None, b"abc", 7, 1.5, True, {}], object))
    else:  # polygons
        values = rng.normal(0, 10.0 ** rng.integers(0, 12), rng.integers(0, 12))
        return [values.tolist()], size
    strange = np.array([None, "ab", (1,), (0, 0), (-1, 5)], object)
    stated = size if rng.random() < 0.8 else rng.choice(strange)
    return {"size": list(stated) if isinstance(stated, tuple) else stated, "counts": counts}, size

refused = 0
for number in range(count):
    segmentation, size = some(number)
    try:
        rle = segmentation_to_rle(segmentation, size)
        area = int(rle_areas([rle])[0])
        assert 0 <= area <= size[0] * size[1], (segmentation, size, area)
    except ValueError:
        refused += 1
print(refused)
"""


def test_only_value_errors(size, note):
    count = size(100_000, 3000)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(count)], capture_output=True, text=True, timeout=1200
    )
    ended = signal.Signals(-done.returncode).name if done.returncode < 0 else done.returncode
    note(f"{count} malformed masks: end of the process", ended, "0")
    assert done.returncode == 0, done.stderr[-2000:]
    refused = int(done.stdout)
    note(f"{count} malformed masks: refused by ValueError, the others sound", refused, "-")
    assert refused > count / 3
