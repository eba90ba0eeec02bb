"""New processes whose threads make their first calls at the same moment: all of them end."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sharpmask.engines.load import load_engine
from sharpmask.images import write_image

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from test_start import cold, thin_file

pytestmark = [pytest.mark.reliability, pytest.mark.slow]

HUNG_S = 120
"""A process that hangs never ends; on a quiet machine one takes two or three seconds."""


def slowest(calls):
    """Seconds of the slowest of some calls."""
    seconds = []
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return max(seconds)


def test_folder_runs_of_two_photos_in_new_processes_end(tmp_path, size, note):
    count = size(50, 5)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in "ab":
        pixels = rng.integers(0, 256, (240, 320, 3), np.uint8)
        write_image(tmp_path / "photos" / f"{name}.png", pixels)
    load_engine("sharpmask-nano")  # exported before, so that threads meet
    command = [sys.executable, "-c", "from sharpmask.cli.main import app; app()", "propose"]
    command += [str(tmp_path / "photos"), "--no-overlay", "--output"]

    def run(index):
        output = tmp_path / str(index)
        done = subprocess.run(
            [*command, str(output)], capture_output=True, text=True, timeout=HUNG_S
        )
        assert done.returncode == 0, done.stderr
        assert (output / "proposals.json").is_file()

    longest = slowest(partial(run, index) for index in range(count))
    note(f"{count} cold folder runs of two photos: the slowest, s", f"{longest:.1f}", "< 20")


@pytest.mark.parametrize("kind", ["openvino", "onnx"])
def test_first_calls_of_two_threads_in_new_processes_end(cache, kind, size, note):
    count = size(50, 5)
    source = "sharpmask-nano" if kind == "openvino" else thin_file(cache)
    load_engine(source, kind)
    longest = slowest([partial(cold, source, kind, timeout=HUNG_S)] * count)
    note(
        f"{count} cold first calls of two threads, {kind}: the slowest, s", f"{longest:.1f}", "< 20"
    )
