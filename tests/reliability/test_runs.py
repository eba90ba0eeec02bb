"""Training runs and folder runs that are killed, run out of disk, or meet bad luck."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import sharpmask
from sharpmask.images import write_image
from sharpmask.inference.batch import number_photos, write_records
from sharpmask.models.pretrained import build, save
from sharpmask.training.checkpoint import read_checkpoint
from sharpmask.writers.formats import writers_for
from sharpmask.writers.writer import Destination

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import toy_run
from toy_run import in_child

pytestmark = pytest.mark.reliability


def state(folder):
    """A hash of everything that the last checkpoint holds."""
    return read_checkpoint(folder / "checkpoint.safetensors")[1]["sha256"]


@pytest.mark.slow
def test_training_killed_at_random_instants_ends_bit_identical(tmp_path, size, note):
    start = time.perf_counter()
    os.waitpid(in_child(lambda: toy_run.run(tmp_path / "calm")), 0)
    calm_s = time.perf_counter() - start
    wanted = size(100, 2)
    rng = random.Random(0)
    kills = runs = same = 0
    while kills < wanted:
        folder = tmp_path / str(runs)
        while True:
            child = in_child(lambda folder=folder: toy_run.run(folder))
            time.sleep(rng.uniform(0, 1.1 * calm_s))
            ended, _ = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            if kills >= wanted:
                os.waitpid(in_child(lambda folder=folder: toy_run.run(folder)), 0)
                break
        runs += 1
        same += state(folder) == state(tmp_path / "calm")
    note(
        f"training killed at {kills} random instants: bit-identical ends",
        f"{same} of {runs}",
        "all",
    )
    assert same == runs


def test_a_full_disk_stops_training_with_the_old_checkpoint_whole(tmp_path, note):
    content = run_with_little_disk(tmp_path)
    whole = toy_run.Toy()
    toy_run.run(tmp_path / "calm", whole)
    resumed = toy_run.Toy()
    toy_run.run(tmp_path / "run", resumed)
    same = all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True)
    )
    note("training on a full disk", content, "OSError")
    note("training after a full disk ends bit-identical", same, "True")
    assert content.startswith("OSError")
    assert same


def run_with_little_disk(tmp_path):
    """What a run ends with whose disk is full after its first checkpoint."""

    def limited(model):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = (tmp_path / "run" / "checkpoint.safetensors").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
        return toy_run.toy_figures(model)

    def train():
        try:
            toy_run.run(tmp_path / "run", validate=limited)
            text = "ended as if nothing had happened"
        except OSError as error:
            text = f"OSError: {error}"
        (tmp_path / "ending").write_text(text)

    os.waitpid(in_child(train), 0)
    return (tmp_path / "ending").read_text()


def test_a_folder_that_became_read_only_stops_training_with_the_checkpoint_whole(tmp_path, note):
    toy_run.run(tmp_path / "calm")
    folder = tmp_path / "run"

    def interrupt(model):
        signal.raise_signal(signal.SIGINT)
        return toy_run.toy_figures(model)

    with pytest.raises(KeyboardInterrupt):
        toy_run.run(folder, validate=interrupt)
    before = (folder / "checkpoint.safetensors").read_bytes()
    folder.chmod(0o555)
    ending = (tmp_path / "ending").open("w")  # while it is allowed

    def train():
        os.chdir(folder)  # whose parents are closed to others
        if os.geteuid() == 0:
            os.setuid(65534)  # the superuser may write anywhere
        try:
            toy_run.run(Path())
        except OSError as error:
            ending.write(type(error).__name__)
        ending.close()

    os.waitpid(in_child(train), 0)
    ending.close()
    folder.chmod(0o755)
    content = (tmp_path / "ending").read_text()
    whole = (folder / "checkpoint.safetensors").read_bytes() == before
    toy_run.run(folder)
    same = state(folder) == state(tmp_path / "calm")
    note("training in a folder that became read-only", content, "PermissionError")
    note("training after a read-only folder ends bit-identical", whole and same, "True")
    assert content == "PermissionError"
    assert whole
    assert same


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_of_two_processes_is_killed_the_other_ends(tmp_path, rank, size, note):
    if not size(True, False):
        pytest.skip("what is said then is tested in tests/training/test_loop.py")

    def train(folder, *arguments):
        command = [sys.executable, toy_run.__file__, arguments[0], str(folder), *arguments[1:]]
        start = time.perf_counter()
        # The output ends with the last of the processes.
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return done, time.perf_counter() - start

    def losses(folder):
        return [float(line) for line in (folder / "losses-0.txt").read_text().split()]

    _, calm_s = train(tmp_path / "calm", "2")
    done, seconds = train(tmp_path / "run", "2", str(rank))
    said = f"process {1 - rank} of 2 stops: another one was killed" in done.stderr
    note(f"process {rank} of 2 killed: the other says so", said, "True")
    note(
        f"process {rank} of 2 killed: until the other ended, s, with the start",
        f"{seconds:.1f}, a calm run {calm_s:.1f}",
        "< 60",
    )
    assert said
    assert seconds < 60
    # One process goes on with the samples that two would have had.
    assert train(tmp_path / "run", "1")[0].returncode == 0
    assert train(tmp_path / "alone", "1")[0].returncode == 0
    resumed, alone = losses(tmp_path / "run"), losses(tmp_path / "alone")
    same = resumed == pytest.approx(alone[5:], rel=1e-5)  # after the checkpoint of step 5
    note(f"process {rank} of 2 killed: one process goes on with the same samples", same, "True")
    assert same


def test_the_loss_curve_is_the_recorded_one(note):
    """200 steps; ``python tests/training/toy_run.py golden FILE`` records a new one."""
    path = Path(__file__).parents[1] / "golden" / "loss_curve.json"
    recorded = np.array(json.loads(path.read_text()))
    found = np.array(toy_run.golden())
    note("200-step loss curve: largest difference from the recorded one",
         f"{np.abs(found - recorded).max():.1e}", "< 1e-9")  # fmt: skip
    np.testing.assert_allclose(found, recorded, atol=1e-9)
    assert found[-1, 1] < 0.7 * found[0, 1]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # few cores
@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_change_no_loss(tmp_path, workers, note):
    curves = []
    for count in (0, workers):
        toy_run.run(tmp_path / str(count), workers=count)
        curves.append(state(tmp_path / str(count)))
    note(
        f"training with {workers} workers instead of none: same end", curves[0] == curves[1], "True"
    )
    assert curves[0] == curves[1]


# --- many photos ---


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    deepmask = {"model": "deepmask", "backbone": "resnet18", "width": 8, "vector": 16}
    model = build(deepmask | {"bottleneck_channels": 8, "score_channels": 16})
    path = tmp_path_factory.mktemp("weights") / "thin.safetensors"
    save(model, path)
    return path


def test_a_folder_run_killed_at_random_instants_ends_like_a_calm_one(tmp_path, weights, size, note):
    wanted = size(30, 0)
    if not wanted:
        pytest.skip("small kills are in tests/inference/test_journal.py")
    rng = np.random.default_rng(0)
    for number in range(30):
        pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
        write_image(tmp_path / "photos" / f"{number}.png", pixels) if number else None
        (tmp_path / "photos").mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-c", "from sharpmask.cli.main import app; app()", "propose"),
        *(str(tmp_path / "photos"), "--weights", str(weights), "--num-proposals", "5"),
        *("--engine", "torch", "--output"),
    ]

    def files(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    start = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "calm")], check=True, capture_output=True)
    calm_s = time.perf_counter() - start
    chance = random.Random(0)
    kills = runs = same = 0
    while kills < wanted:
        folder = tmp_path / f"out-{runs}"
        while True:
            with subprocess.Popen(
                [*command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                if kills < wanted:
                    time.sleep(chance.uniform(0.3, 1) * calm_s)
                    process.kill()
                    kills += 1
            if process.returncode == 0:
                break
        runs += 1
        same += files(folder) == files(tmp_path / "calm")
    note(
        f"folder runs killed at {kills} random instants: end as a calm one",
        f"{same} of {runs}",
        "all",
    )
    assert same == runs


@pytest.mark.slow
def test_memory_stays_flat_over_many_photos(tmp_path, weights, size, note):
    count = size(20_000, 60)
    proposer = sharpmask.Proposer(
        sharpmask.load(weights), num_proposals=5, num_candidates=5, scales=[-1], device="cpu"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    write_image(tmp_path / "photo.png", pixels)
    paths = [tmp_path / f"{number}.png" for number in range(count)]
    for path in paths:
        path.hardlink_to(tmp_path / "photo.png")
    resident = []

    def find(path):
        if int(path.stem) % (count // 10) == 0:
            resident.append(resident_mb())
        return proposer(path)

    writers = writers_for(["coco", "yolo", "labelstudio"], Destination(tmp_path / "out", paths))
    file = tmp_path / "found.json"
    write_records(number_photos(paths), find, file, settings={}, writers=writers)
    resident.append(resident_mb())
    # The first tenth fills caches.
    growth = max(resident[2:]) - resident[1]
    note(f"memory growth over {count} photos, MB", f"{growth:.1f}", "< 20")
    assert growth < 20
    assert len(json.loads(file.read_text())) == 5 * count
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == count


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
