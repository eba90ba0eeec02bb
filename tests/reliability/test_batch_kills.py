"""Large runs whose processes are killed: each photo is there once, with the masks of propose."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from reference.thin_models import thin_file
from sharpmask.coco.parquet_results import ParquetResults
from sharpmask.images import write_image

pytestmark = [pytest.mark.reliability, pytest.mark.real]

PHOTOS = 60 if os.environ.get("RELIABILITY") else 20
SHARPMASK = [sys.executable, "-m", "sharpmask"]
KINDS = {"worker": "ray::write_if_equal", "node": "raylet/raylet", "driver": ""}
"""What is killed, by a part of its command line; the driver is the command itself."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A command without its output folder, and what the command propose finds in the photos."""
    folder = tmp_path_factory.mktemp("calm")
    rng = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
        write_image(folder / "photos" / f"{number}.png", pixels)
    options = [f"--weights={thin_file(folder)}", "--num-proposals=3", "--engine=torch"]
    subprocess.run(
        [
            *(*SHARPMASK, "propose", str(folder / "photos"), "--output", str(folder / "found")),
            *(*options, "--no-overlay", "--quiet"),
        ],
        check=True,
    )
    expected = json.loads((folder / "found" / "proposals.json").read_text())
    command = [*SHARPMASK, "batch", str(folder / "photos"), *options, "--part-size=1", "--quiet"]
    return [*command, "--workers=2", "--output"], expected


def descendants(root):
    """Process ids below one, and their command lines."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended
                continue
            parents[int(entry.name)] = int(fields[1])
            commands[int(entry.name)] = command
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return {pid: commands[pid] for pid in found & commands.keys()}
        found |= more


def runs(pid):
    """Whether a process runs; one that has ended may wait for somebody to ask how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(tree, seconds=120):
    """Wait until processes have ended, which those of Ray do when their driver is gone.

    Gives the command lines of those that have not.
    """
    end = time.monotonic() + seconds
    left = set(tree)
    while left and time.monotonic() < end:
        left = set(filter(runs, left))
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return [tree[pid] for pid in left]


def parts(folder):
    return len(list(folder.glob("*.parquet")))


def run_and_kill(command, folder, kind, chance, most):
    """Start the command; kill a process of the kind at random moments after a first part.

    Gives how many were killed, at most so many, the exit status, and what did not end by itself.
    """
    kills, tree = 0, {}
    with subprocess.Popen(
        [*command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while kills < most and process.poll() is None:
            goal = parts(folder) + chance.randrange(10)
            while process.poll() is None and parts(folder) <= goal:
                time.sleep(0.05)
            tree = descendants(process.pid)
            victims = [pid for pid, text in tree.items() if KINDS[kind] in text]
            victims = victims if kind != "driver" else [process.pid]
            if victims and process.poll() is None:
                os.kill(chance.choice(victims), signal.SIGKILL)
                kills += 1
            if kind != "worker":  # what only a worker's run survives
                break
        status = process.wait()
    tree.pop(process.pid, None)
    return kills, status, wait_for_end(tree)


@pytest.mark.parametrize("kind", [pytest.param("worker", marks=pytest.mark.slow), "node", "driver"])
def test_run_whose_process_is_killed_ends_with_each_photo_once(calm, tmp_path, kind, size, note):
    command, expected = calm
    wanted = size(10, 1)
    chance = random.Random(kind)
    kills = count = same = 0
    left = []
    statuses = Counter()
    while kills < wanted:
        folder = tmp_path / f"out-{count}"
        folder.mkdir()
        status = None
        while status != 0:
            if kills < wanted:
                killed, status, hanging = run_and_kill(
                    command, folder, kind, chance, wanted - kills
                )
                kills += killed
                statuses[status] += 1
                left += hanging
            else:
                status = subprocess.run([*command, str(folder)], check=False).returncode
                statuses[status] += 1
            # Ray may fail to start where cores are scarce; for ever would be another fault.
            assert sum(statuses.values()) < 5 * wanted + 5, statuses
        count += 1
        same += list(ParquetResults(folder)) == expected
    note(
        f"large runs: {kills} kills of a {kind} (exit {dict(statuses)}): each photo once",
        f"{same} of {count}",
        "all",
    )
    assert same == count
    assert left == []
