"""Odd, damaged and hostile picture files."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from image_zoo import bombs, zoo

from sharpmask.images import ImageError, read_image
from sharpmask.inference.batch import number_photos, write_records

pytestmark = pytest.mark.reliability
FILES = zoo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    for name, (content, _, _) in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_right_pixels_or_an_error_with_path_and_reason(folder, name):
    _, pixels, off = FILES[name]
    if pixels is None:
        with pytest.raises(ImageError, match=rf"{name}: ."):
            read_image(folder / name)
    else:
        found = read_image(folder / name)
        assert found.shape == pixels.shape
        assert np.abs(found.astype(int) - pixels).max() <= off


class Mean:
    """What is found: the mean of the pixels."""

    def __init__(self, path):
        self.image = read_image(path)

    def to_coco(self, image_id):
        return [{"image_id": image_id, "mean": float(self.image.mean())}]


def test_the_batch_goes_on_past_unreadable_files(folder, note):
    photos = number_photos(sorted(folder.iterdir()))
    reports = []
    file = folder.parent / "results" / "all.json"
    outcome = write_records(photos, Mean, file, settings={}, streams=3, report=reports.append)
    bad = sum(pixels is None for _, pixels, _ in FILES.values())
    assert (outcome.photos, outcome.done) == (len(FILES), len(FILES) - bad)
    assert len(reports) == bad
    note("odd picture files: right pixels, or an error and the batch goes on", len(FILES), ">= 60")
    assert len(FILES) >= 60


BOMBS = """
import sys
from pathlib import Path
from sharpmask.images import ImageError, read_image

def peak():  # of this program alone; ru_maxrss begins with that of the one that started it
    return int(Path("/proc/self/status").read_text().partition("VmPeak:")[2].split()[0]) / 1024

before, refused = peak(), []
for path in Path(sys.argv[1]).iterdir():
    try:
        read_image(path)
    except ImageError:
        refused.append(path.name)
print(peak() - before, *refused)
"""


def test_bombs_are_refused_before_they_are_decoded(tmp_path, note):
    files = bombs()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", BOMBS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    growth, *refused = done.stdout.split() if done.returncode == 0 else ("inf",)
    kinds = len({name.rpartition(".")[2] for name in files})
    note(f"decompression bombs of {kinds} formats: refused of {len(files)}", len(refused), "all")
    note("decompression bombs: memory for all, MB", f"{float(growth):.1f}", "< 50")
    assert sorted(refused) == sorted(files), done.stderr[-2000:]
    assert float(growth) < 50


MUTATIONS = """
import sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from pathlib import Path
from image_zoo import zoo
from sharpmask.images import ImageError, read_image

count, file = int(sys.argv[2]), Path(sys.argv[3]) / "mutated"
rng = np.random.default_rng(0)
small = (content for content, pixels, _ in zoo().values() if pixels is not None)
sources = [content for content in small if len(content) < 20_000]
refused = slowest = 0
for number in range(count):
    content = bytearray(sources[number % len(sources)])
    for _ in range(rng.integers(1, 8)):
        place = int(rng.integers(len(content)))
        if rng.random() < 0.1:
            del content[place : place + int(rng.integers(1, 50))]
            content = content or bytearray(1)
        else:
            content[place] = int(rng.integers(256))
    file.write_bytes(content)
    start = time.perf_counter()
    try:
        read_image(file)
    except ImageError:
        refused += 1
    slowest = max(slowest, time.perf_counter() - start)
print(refused, slowest)
"""


def test_mutated_files_neither_kill_nor_hang(tmp_path, size, note):
    count = size(100_000, 600)
    here = str(__file__).rpartition("/")[0]
    command = [sys.executable, "-c", MUTATIONS, here, str(count), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=size(3600, 120))
    ended = signal.Signals(-done.returncode).name if done.returncode < 0 else done.returncode
    refused, slowest = done.stdout.split() if done.returncode == 0 else (0, "inf")
    note(f"{count} mutated picture files: end of the process", ended, "0")
    note(f"{count} mutated picture files: refused, the others read", refused, "-")
    note(f"{count} mutated picture files: slowest, s", f"{float(slowest):.2f}", "< 5")
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(slowest) < 5
