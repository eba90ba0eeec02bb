import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import sharpmask
from sharpmask.cli import train_progress
from sharpmask.cli.main import app
from sharpmask.models.pretrained import load, read_metadata, save
from sharpmask.training import origin, stages

THIN = ["--bottleneck-channels", "8"]
SHORT = [
    "--set", "steps=2", "--set", "batch_size=3", "--set", "scene_size=208", "--workers", "0",
]  # fmt: skip


def invoke(*arguments):
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def given(coco_folder, tmp_path):
    """The options every run needs."""
    return [
        *("--train", coco_folder.train),
        *("--images", coco_folder.images),
        *("--output", tmp_path / "run"),
    ]


@pytest.fixture(scope="module")
def stage_one(coco_folder, tmp_path_factory):
    """A DeepMask trained by the command for two steps, and what the command said."""
    output = tmp_path_factory.mktemp("stage-one")
    result = invoke(
        *("deepmask", "--train", coco_folder.train, "--images", coco_folder.images),
        *("--val", coco_folder.val, "--output", output, *THIN, *SHORT),
    )
    return output, result


def assert_one_line(result, *parts, status=2):
    assert result.exit_code == status
    (line,) = result.stderr.splitlines()
    assert line.startswith("sharpmask: ")
    for part in parts:
        assert part in line


# --- both stages ---


def test_stage_one(stage_one):
    output, result = stage_one
    assert result.exit_code == 0
    assert "mean_iou" in result.stdout
    assert result.stdout.endswith(f"model in {output / 'model.safetensors'}\n")
    assert result.stderr.splitlines() == [
        "sharpmask: train.json: 3 annotations not used: crowd",
        "sharpmask: train.json: 9 photos, 17 objects, 3 categories",
        "sharpmask: val.json: 1 annotations not used: crowd",
        "sharpmask: val.json: 4 photos, 7 objects, 3 categories",
    ]
    metadata = read_metadata(output)
    assert metadata["architecture"].items() >= {
        "model": "deepmask", "backbone": "mobilenet_v2", "head": "c", "bottleneck_channels": 8,
    }.items()  # fmt: skip
    assert metadata["recipe"]["steps"] == 2
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val_patches"] == 2 * 7


def test_stage_two(stage_one, given, tmp_path, coco_folder):
    first, _ = stage_one
    thin = ["--mask-channels", "16", "--skip-channels", "8", "--val", coco_folder.val]
    result = invoke("sharpmask", *given, "--deepmask", first, *thin, *SHORT)
    assert result.exit_code == 0
    assert "deepmask_mean_iou" in result.stdout
    before, after = load_file(first / "model.safetensors"), load(tmp_path / "run").state_dict()
    own = {key: value for key, value in after.items() if key.startswith("deepmask.")}
    assert {key.removeprefix("deepmask.") for key in own} == before.keys()
    for key, value in own.items():
        assert torch.equal(value, before[key.removeprefix("deepmask.")])
    # What comes out can be proposed with.
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photo)
    options = [
        "--weights",
        tmp_path / "run",
        "--output",
        tmp_path / "out",
        "--num-proposals",
        2,
        "--engine",
        "torch",
    ]
    proposed = CliRunner().invoke(app, [*map(str, ["propose", photo, *options])])
    assert proposed.exit_code == 0
    assert (tmp_path / "out" / "proposals.json").exists()


def test_other_recipes_and_settings(given, tmp_path):
    result = invoke(
        *("deepmask", *given, *THIN, *SHORT, "--recipe", "paper-deepmask"),
        *("--set", "optimizer=adamw", "--head", "b", "--precision", "bf16-mixed"),
    )
    assert result.exit_code == 0
    recipe = read_metadata(tmp_path / "run")["recipe"]
    assert (recipe["optimizer"], recipe["batches"]) == ("adamw", "alternating")


def test_stage_one_begins_from_a_backbone(stage_one, given, tmp_path):
    state = {
        key.removeprefix("backbone."): value + 0.01
        for key, value in load_file(stage_one[0] / "model.safetensors").items()
        if key.startswith("backbone.")
    }
    save_file(state, tmp_path / "backbone.safetensors")
    init = ["--init", tmp_path / "backbone.safetensors"]
    assert invoke("deepmask", *given, *THIN, *SHORT, *init).exit_code == 0
    # Up to stride 4 the recipe keeps the layers as they are: here that is block 3.
    trained = load_file(tmp_path / "run" / "model.safetensors")
    for key, value in state.items():
        is_frozen = int(key.split(".")[1]) <= 3
        assert torch.equal(trained[f"backbone.{key}"], value) is is_frozen, key


# --- stopping ---


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(given, tmp_path, monkeypatch):
    scene_loss = stages.scene_loss

    def interrupted_loss(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return scene_loss(*arguments, **options)

    command = ["deepmask", *given, *THIN, *SHORT]
    with monkeypatch.context() as patch:
        patch.setattr(stages, "scene_loss", interrupted_loss)
        result = invoke(*command)
    assert result.exit_code == 130
    said = result.stderr.splitlines()[-1]
    assert said == (
        f"sharpmask: interrupted; 1 of 2 steps are saved in {tmp_path / 'run'}, the same command "
        "goes on from there"
    )
    # What was learned so far can be proposed with.
    load(tmp_path / "run")
    assert read_metadata(tmp_path / "run")["steps"] == {"done": 1, "of": 2}
    assert invoke(*command).exit_code == 0
    assert read_metadata(tmp_path / "run")["steps"] == {"done": 2, "of": 2}
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2]


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(given, tmp_path):
    (tmp_path / "run.py").write_text("from sharpmask.cli.main import app\n\napp()\n")
    source = Path(sharpmask.__file__).parents[1]
    command = [sys.executable, "run.py", "train", "deepmask", *given, *THIN, "--device", "cpu"]
    command += ["--devices", "2", "--set", "steps=40", "--set", "batch_size=4"]
    options = {
        "args": [*map(str, [*command, "--set", "validate_every=4"])],
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(source)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "start_new_session": True,  # a group of its own, as a terminal makes it
    }
    with subprocess.Popen(**options) as process:
        for _ in range(6000):
            if (tmp_path / "run" / "checkpoint.safetensors").exists():
                break
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "of 40 steps are saved" in errors
    assert errors.count("train.json: 9 photos") == 1
    with subprocess.Popen(**options) as process:
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_ctrl_c_before_training_is_said_too(given, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(origin, "load_coco", interrupted)
    assert_one_line(invoke("deepmask", *given, *THIN), "sharpmask: interrupted", status=130)


def test_another_run_in_the_folder_is_left_alone(stage_one, coco_folder):
    output, _ = stage_one
    data = ["--train", coco_folder.train, "--images", coco_folder.images, "--val", coco_folder.val]
    before = (output / "checkpoint.safetensors").read_bytes()
    result = invoke("deepmask", *data, "--output", output, *THIN, *SHORT, "--set", "seed=5")
    assert result.exit_code == 2
    assert "other settings (seed: 0 there, 5 now); give" in result.stderr.splitlines()[-1]
    result = invoke("deepmask", *data, "--output", output, *SHORT, "--bottleneck-channels", "9")
    assert result.exit_code == 2
    assert "model bottleneck_channels: 8 there, 9 now" in result.stderr.splitlines()[-1]
    assert (output / "checkpoint.safetensors").read_bytes() == before


def changed_content(path, folder, change):
    content = json.loads(path.read_text())
    change(content)
    (folder / path.name).write_text(json.dumps(content))
    return folder / path.name


@pytest.mark.parametrize("what", ["train", "val", "images", "init"])
def test_a_run_of_other_data_is_not_gone_on_with(stage_one, coco_folder, tmp_path, what):
    output, _ = stage_one
    options = {"train": coco_folder.train, "val": coco_folder.val, "images": coco_folder.images}
    if what in ("train", "val"):
        options[what] = changed_content(options[what], tmp_path, lambda c: c["annotations"].pop(0))
    elif what == "images":
        options["images"] = tmp_path / "images"
        shutil.copytree(coco_folder.images, options["images"])
        with (options["images"] / "train-5.png").open("ab") as photo:
            photo.write(b"more")
    else:
        state = load_file(output / "model.safetensors")
        save_file(
            {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")},
            tmp_path / "init.safetensors",
        )
        options["init"] = tmp_path / "init.safetensors"
    before = (output / "checkpoint.safetensors").read_bytes()
    given = [part for key, value in options.items() for part in (f"--{key}", value)]
    result = invoke("deepmask", *given, "--output", output, *THIN, *SHORT)
    assert result.exit_code == 2
    said = result.stderr.splitlines()[-1]
    assert f"the run there learned from something else ({what}: " in said
    assert said.count(" there, ") == 1
    assert (output / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.slow
def test_stage_two_of_another_stage_one_is_not_gone_on_with(stage_one, given, tmp_path):
    options = ["--mask-channels", "16", "--skip-channels", "8", *SHORT]
    assert invoke("sharpmask", *given, "--deepmask", stage_one[0], *options).exit_code == 0
    model = load(stage_one[0])
    next(model.parameters()).data += 1e-3
    save(model, tmp_path / "other.safetensors")
    result = invoke("sharpmask", *given, "--deepmask", tmp_path / "other.safetensors", *options)
    assert result.exit_code == 2
    assert "something else (deepmask: " in result.stderr
    nearest = [*options, "--upsampling", "nearest"]
    result = invoke("sharpmask", *given, "--deepmask", stage_one[0], *nearest)
    assert "model upsampling: bilinear there, nearest now" in result.stderr


def test_stage_two_says_when_it_is_worse_than_stage_one(given, stage_one, coco_folder, monkeypatch):
    def worse(*_, save, **__):
        figures = {"mean_iou": 0.4, "deepmask_mean_iou": 0.45, "gain": -0.05}
        save({})
        return figures

    monkeypatch.setattr(stages, "fit", worse)
    thin = ["--mask-channels", "16", "--skip-channels", "8", "--val", coco_folder.val]
    result = invoke("sharpmask", *given, "--deepmask", stage_one[0], *thin, *SHORT)
    assert result.exit_code == 0
    (said,) = [line for line in result.stderr.splitlines() if "worse" in line]
    assert "stage two ended worse than stage one: mean IoU 0.400 on --val, its DeepMask" in said
    assert "gain" in result.stdout


@pytest.mark.slow
def test_sigterm_under_nohup_saves_and_the_same_command_goes_on(given, tmp_path):
    """Real processes: one is stopped as a batch scheduler does it; a second one is refused."""
    program = "from sharpmask.cli.main import app; app()"
    command = [sys.executable, "-c", program, "train", "deepmask", *map(str, given), *THIN]
    command += ["--set", "steps=60", "--set", "batch_size=2", "--set", "validate_every=2"]
    source = Path(sharpmask.__file__).parents[1]
    options = {
        "env": {**os.environ, "PYTHONPATH": str(source)}, "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE, "text": True,
    }  # fmt: skip
    with subprocess.Popen(
        ["nohup", *command], **options, stdin=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while not (tmp_path / "run" / "checkpoint.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.05)
        second = subprocess.run(command, **{k: v for k, v in options.items() if k == "env"},
                                capture_output=True, text=True)  # fmt: skip
        assert second.returncode == 2
        assert second.stderr == (
            f"sharpmask: {tmp_path / 'run'}: another run is writing there; wait for it, or give "
            "another --output\n"
        )
        os.killpg(process.pid, signal.SIGHUP)
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        shown, errors = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "stopped by SIGTERM" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert shown == ""
    steps = read_metadata(tmp_path / "run")["steps"]
    assert 2 <= steps["done"] < steps["of"] == 60


def test_progress_without_a_terminal_is_lines_on_stderr(given, monkeypatch):
    monkeypatch.setattr(train_progress, "FIRST_LINE_S", 0)
    result = invoke("deepmask", *given, *THIN, *SHORT)
    lines = [line for line in result.stderr.splitlines() if "steps done" in line]
    assert len(lines) == 1
    assert re.fullmatch(r"sharpmask: 2 of 2 steps done, about 0 s left, loss \d.\d+", lines[0])
    assert "steps done" not in result.stdout


# --- photos that cannot be used ---


@pytest.fixture
def spoiled(coco_folder, tmp_path):
    """A copy of the photos of which two cannot be used, and the options to train on it."""
    images = tmp_path / "images"
    shutil.copytree(coco_folder.images, images)
    (images / "train-5.png").unlink()
    (images / "train-35.png").write_bytes((images / "train-35.png").read_bytes()[:2000])
    return images, [
        *("--train", coco_folder.train, "--images", images, "--output", tmp_path / "run"),
        *THIN, *SHORT,
    ]  # fmt: skip


def test_unusable_photos_are_left_out_with_one_warning(spoiled, tmp_path):
    images, options = spoiled
    result = invoke("deepmask", *options)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"sharpmask: train.json: 2 of 9 photos left out, e.g. {images / 'train-5.png'}: no such "
        "file; check the name",
        "sharpmask: train.json: 3 annotations not used: crowd",
        "sharpmask: train.json: 7 photos, 13 objects, 3 categories",
    ]
    assert read_metadata(tmp_path / "run")["data"] == {"photos": 7, "objects": 13}


def test_no_usable_photo_at_all(coco_folder, tmp_path):
    result = invoke(
        *("deepmask", "--train", coco_folder.train, "--images", tmp_path / "nowhere"),
        *("--output", tmp_path / "run", *THIN),
    )
    assert_one_line(result, "none of 9 photos can be used", "train-5.png: no such file")


# Forking while TensorBoard's thread writes: newer Pythons warn.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_photo_that_vanishes_ends_the_run_with_one_line(spoiled, monkeypatch):
    """The error comes from a worker process, which wraps it in its traceback."""
    images, options = spoiled
    monkeypatch.setattr(origin, "leave_out_unreadable", lambda dataset: (dataset, []))
    (images / "train-35.png").unlink()
    settings = ["--workers", "1", "--set", "batch_size=60"]
    result = invoke("deepmask", *options, *settings)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 3
    assert "no such file; check the name" in result.stderr.splitlines()[-1]


# --- what else can go wrong ---


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--set", "step=2"], ["unknown key 'step'; did you mean 'steps'?"]),
        (["--set", "steps=0"], ["steps: expected at least 1, got 0"]),
        (["--set", "steps"], ["--set steps: expected key=value"]),
        (["--recipe", "deep"], ["--recipe: expected one of deepmask, sharpmask", "'deep'"]),
        (["--backbone", "resnet51"], ["backbone: expected one of", "resnet51"]),
        (["--head", "d"], ["head: expected one of original, a, b, c, got 'd'"]),
        (["--device", "tpu"], ["--device: expected auto, cpu or cuda, got 'tpu'"]),
        (["--precision", "3"], ["3"]),
        (["--init", "none.pth"], ["none.pth"]),
        (["--train", "none.json"], ["none.json: No such file or directory"]),
        (["--train", __file__], ["test_train.py: not a JSON file"]),
        (["--val", "none.json"], ["none.json: No such file or directory"]),
    ],
)
def test_options_are_checked_before_anything_is_written(given, tmp_path, options, parts):
    result = invoke("deepmask", *given, *THIN, *options)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("sharpmask: ")
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options", [["--devices", "0"], ["--workers", "-1"], ["--bottleneck-channels", "0"]]
)
def test_numbers_out_of_range_are_refused(given, options):
    result = invoke("deepmask", *given, *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr


def test_cuda_must_be_there(given, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke("deepmask", *given, *THIN, "--device", "cuda")
    assert_one_line(result, "--device: cuda was asked for", "use cpu")


def test_more_gpus_than_there_are(given, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    result = invoke("deepmask", *given, *THIN, "--devices", "3")
    assert_one_line(result, "--devices: 3 were asked for, torch sees 2 here")


def test_stage_two_needs_a_deepmask(given, stage_one, tmp_path, coco_folder):
    thin = ["--mask-channels", "16", "--skip-channels", "8"]
    result = invoke("sharpmask", *given, "--deepmask", "nowhere")
    assert_one_line(result, "nowhere: no such weights")
    result = invoke("sharpmask", *given, "--deepmask", stage_one[0], "--mask-channels", "3")
    assert_one_line(result, "mask_channels", "got 3")
    assert invoke("sharpmask", *given, "--deepmask", stage_one[0], *thin, *SHORT).exit_code == 0
    result = invoke("sharpmask", *given, "--deepmask", tmp_path / "run")
    assert_one_line(result, "this is a SharpMask; give a DeepMask")


def test_what_must_be_given():
    for command in (["deepmask"], ["sharpmask"]):
        result = invoke(*command)
        assert result.exit_code == 2
        assert "--train" in result.stderr
    assert "Stage two" in invoke("sharpmask", "--help").output


# --- what is random ---


@pytest.mark.slow
@pytest.mark.parametrize("command", ["deepmask", "sharpmask"])
def test_the_seed_alone_decides_the_weights(stage_one, given, tmp_path, monkeypatch, command):
    """Those at the end; of stage two, to save time, those at the start."""
    if command != "deepmask":
        monkeypatch.setattr(stages, "fit", lambda *_, save, **__: save({}) or {})
    options = {
        "deepmask": lambda: THIN,
        "sharpmask": lambda: ["--deepmask", stage_one[0], "--mask-channels", 16],
    }[command]()
    numbers = ["--workers", 0, "--set", "steps=1", "--set", "batch_size=1"]
    numbers += ["--set", "scene_size=208"]
    ends = []
    for run, seed in enumerate((3, 3, 4)):
        torch.manual_seed(run)
        np.random.seed(run)  # noqa: NPY002 - what was random before must not matter
        output = tmp_path / str(run)
        settings = [*numbers, "--output", output, "--set", f"seed={seed}"]
        result = invoke(command, *given, *options, *settings)
        assert result.exit_code == 0, result.output
        ends.append(load_file(output / "model.safetensors"))
    first, same, other = ends
    assert all(torch.equal(value, same[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())
