"""``sharpmask batch``: what it refuses, and, slowly, whole runs on Ray."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from reference.thin_models import thin_file
from s3_server import ADDRESS, s3_server
from sharpmask.cli.main import app
from sharpmask.images import write_image
from sharpmask.integrations.arrow import Propose
from sharpmask.integrations.parts import Run, write_part
from sharpmask.integrations.photo_lists import list_photos
from sharpmask.stores import write_bytes

SHARPMASK = [sys.executable, "-m", "sharpmask"]
OPTIONS = {"num_proposals": 3, "scales": "-1", "engine": "torch", "cores": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(thin_file(tmp_path_factory.mktemp("weights")))


@pytest.fixture
def photos(tmp_path):
    """Eleven photos and a file that is none."""
    rng = np.random.default_rng(0)
    for number in range(11):
        pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
        write_image(tmp_path / "photos" / f"{number}.png", pixels)
    (tmp_path / "photos" / "99.png").write_bytes(b"no picture")
    return tmp_path / "photos"


def flags(weights, **given):
    options = {"weights": weights, "part_size": 4, **OPTIONS} | given
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def invoke(*arguments):
    result = CliRunner().invoke(app, ["batch", *map(str, arguments)])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def run(*arguments):
    return subprocess.run(
        [*SHARPMASK, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def in_this_process(photos, output, weights):
    """The run without Ray."""
    propose = Propose(weights=weights, **OPTIONS)
    plan = Run(str(output), propose, 4)
    plan.add(list_photos(str(photos), print))
    for part in plan.left():
        write_part(str(output), part, propose)


def test_failures_are_listed_and_counted(tmp_path, photos, weights):
    in_this_process(photos, tmp_path / "out", weights)
    result = invoke("--failures", tmp_path / "out")
    assert result.exit_code == 0
    bad = photos / "99.png"
    assert result.stdout.startswith(f"{bad}: is not a JPEG")
    assert result.stdout.count("\n") == 1
    assert result.stderr == f"sharpmask: {tmp_path / 'out'}: 1 photos could not be read\n"


def test_run_that_is_done_starts_nothing_and_says_so(tmp_path, photos, weights):
    in_this_process(photos, tmp_path / "out", weights)
    result = invoke(photos, "--output", tmp_path / "out", *flags(weights))
    assert result.exit_code == 1  # a photo could not be read
    assert result.stderr == "sharpmask: 3 of 3 parts were done before\n"
    assert result.stdout.startswith("12 photos in 3 parts, 1 could not be read (sharpmask batch ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give INPUT and --output, or --failures DIR"),
        (["photos"], "give INPUT and --output"),
        (["--failures", "out", "--workers", "2"], "--workers: has no effect with --failures"),
        (["absent", "--output", "out"], "absent: no photos there"),
        (["x.jpg", "--output", "out", "--weights", "absent.safetensors"], "no such weights file"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert said in line


def test_other_settings_are_refused(tmp_path, photos, weights):
    in_this_process(photos, tmp_path / "out", weights)
    result = invoke(photos, "--output", tmp_path / "out", *flags(weights, num_proposals=4))
    assert result.exit_code == 2
    assert "was begun with num_proposals 3, not 4; give another --output" in result.stderr


def test_missing_ray_is_named(tmp_path, photos, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = invoke(photos, "--output", tmp_path / "out", *flags(weights))
    assert result.exit_code == 2
    assert "pip install 'sharpmask[ray]'" in result.stderr


def test_two_runs_do_not_write_to_one_folder(tmp_path, photos, weights):
    from sharpmask.files import owned

    with owned(tmp_path / "out"):
        result = invoke(photos, "--output", tmp_path / "out", *flags(weights))
    assert result.exit_code == 2
    assert "another run is writing there" in result.stderr


# --- on Ray ---


@pytest.mark.real  # in CI: tests/reliability/test_batch_kills.py
def test_run_finds_what_propose_finds(tmp_path, photos, weights):
    ran = run("batch", photos, "--output", tmp_path / "out", *flags(weights))
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout.startswith("12 photos in 3 parts, 1 could not be read (sharpmask batch ")
    assert "Traceback" not in ran.stderr
    assert run("convert", tmp_path / "out", tmp_path / "found.json").returncode == 0
    options = [flag for flag in flags(weights) if "part-size" not in flag and "cores" not in flag]
    run("propose", photos, "--output", tmp_path / "one", "--no-overlay", *options)
    expected = json.loads((tmp_path / "one" / "proposals.json").read_text())
    assert json.loads((tmp_path / "found.json").read_text()) == expected
    assert len(expected) == 33
    # What failed is tried again when it is asked for, and what came later is added.
    write_image(photos / "99.png", np.zeros((48, 64, 3), np.uint8))
    write_image(photos / "100.png", np.zeros((48, 64, 3), np.uint8))
    ran = run("batch", photos, "--output", tmp_path / "out", "--retry", *flags(weights))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("13 photos in 4 parts, ")
    table = parquet.read_table(tmp_path / "out")
    assert sorted(table["id"].to_pylist()) == [*range(11), 99, 100]


@pytest.mark.real
def test_run_from_store_to_store_survives_the_stores_faults(tmp_path, photos, weights):
    with s3_server(seed=0, faults=0.1) as store:
        for path in photos.iterdir():
            write_bytes(f"{ADDRESS}/photos/{path.name}", path.read_bytes())
        ran = run("batch", f"{ADDRESS}/photos", "--output", f"{ADDRESS}/out", *flags(weights))
        assert ran.returncode == 1, ran.stderr
        listed = run("batch", "--failures", f"{ADDRESS}/out")
        assert listed.stdout.startswith(f"{ADDRESS}/photos/99.png: is not a JPEG")
        assert run("convert", f"{ADDRESS}/out", tmp_path / "found.json").returncode == 0
        assert min(store.counts()[kind] for kind in ("error", "late", "reset")) > 0
    in_this_process(photos, tmp_path / "out", weights)
    run("convert", tmp_path / "out", tmp_path / "truth.json")
    found, truth = (
        [
            {name: value for name, value in record.items() if name != "file_name"}
            for record in json.loads((tmp_path / name).read_text())
        ]
        for name in ("found.json", "truth.json")
    )
    assert sorted(found, key=str) == sorted(truth, key=str)
    assert len(found) == 33


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_stopped_says_so_and_goes_on(tmp_path, photos, weights, number):
    command = [*SHARPMASK, "batch", str(photos), "--output", str(tmp_path / "out")]
    with subprocess.Popen(
        [*command, *flags(weights, part_size=1)], stderr=subprocess.PIPE, text=True
    ) as process:
        while not list((tmp_path / "out").glob("*.parquet")) and process.poll() is None:
            time.sleep(0.1)
        os.kill(process.pid, number)
        stderr = process.communicate()[1]
    assert process.returncode == 128 + number
    assert "Traceback" not in stderr
    ran = run("batch", photos, "--output", tmp_path / "out", *flags(weights, part_size=1))
    assert ran.returncode == 1, ran.stderr
    assert len(set(parquet.read_table(tmp_path / "out")["id"].to_pylist())) == 12
