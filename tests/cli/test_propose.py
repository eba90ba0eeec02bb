import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from typer.testing import CliRunner

import sharpmask
from reference.thin_models import thin_export, thin_file
from sharpmask.cli.main import app
from sharpmask.images import read_image
from sharpmask.models.pretrained import save
from sharpmask.torch7.proposer import Torch7Proposer

SIZE = (48, 64)


@pytest.fixture(scope="module")
def weights(cache):
    """A model file: a SharpMask with random weights, as thin as they come.

    It is exported already: a process of its own need not import torch.
    """
    thin_export(cache)
    return thin_file(cache)


@pytest.fixture
def propose(weights, tmp_path):
    """Run the command at one scale, to save time; results go to ``tmp_path / "out"``."""

    def propose(*arguments, **given):
        options = {"weights": weights, "output": tmp_path / "out", "num-proposals": 3}
        options |= {"engine": "torch", "scales": -1} | given
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        result = CliRunner().invoke(app, ["propose", *map(str, arguments), *flags])
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return propose


def write_photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def visible(folder):
    """Names of the files that a user sees."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def results(folder):
    return json.loads((folder / "proposals.json").read_text())


def assert_one_line(result, *parts, status=2):
    assert result.exit_code == status
    (line,) = result.stderr.splitlines()
    assert line.startswith("sharpmask: ")
    for part in parts:
        assert part in line


# --- what is written ---


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2
def test_one_photo(tmp_path, propose):
    photo = write_photo(tmp_path / "000000000139.png")
    result = propose(photo)
    assert result.exit_code == 0
    assert result.stderr == ""
    path = tmp_path / "out" / "proposals.json"
    assert re.fullmatch(rf"3 proposals for 1 of 1 photos, \d+ s: {path}\n", result.stdout)
    records = results(tmp_path / "out")
    assert [record["image_id"] for record in records] == [139] * 3
    assert {record["file_name"] for record in records} == {str(photo)}
    scores = [record["score"] for record in records]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    # COCO's own tools read them.
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 139, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(path))
    assert len(loaded.anns) == 3
    for annotation in loaded.anns.values():
        mask = loaded.annToMask(annotation)
        assert mask.shape == SIZE
        rows, columns = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
        assert coco_mask.area(annotation["segmentation"]) == mask.sum()
    overlay = np.asarray(Image.open(tmp_path / "out" / "overlay.png"))
    assert overlay.shape == (*SIZE, 3)
    assert not np.array_equal(overlay, np.asarray(Image.open(photo)))
    assert visible(tmp_path / "out") == ["overlay.png", "proposals.json"]


def test_without_overlays(tmp_path, propose):
    photos = [write_photo(tmp_path / f"{name}.png") for name in "ab"]
    for chosen in (photos, photos[:1]):
        result = propose("--no-overlay", *chosen)
        assert result.exit_code == 0
        assert visible(tmp_path / "out") == ["proposals.json"]


def test_overlay_masks_0_draws_nothing(tmp_path, propose):
    photo = write_photo(tmp_path / "a.png")
    assert propose(photo, **{"overlay-masks": 0}).exit_code == 0
    drawn = Image.open(tmp_path / "out" / "overlay.png")
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(Image.open(photo)))


def test_a_folder_of_photos(tmp_path, propose):
    photos = [write_photo(tmp_path / "photos" / f"{name}.png", ord(name)) for name in "ab"]
    result = propose(tmp_path / "photos")
    assert result.exit_code == 0
    assert result.stdout.startswith("6 proposals for 2 of 2 photos, ")
    records = results(tmp_path / "out")
    assert [record["image_id"] for record in records] == [1] * 3 + [2] * 3
    assert [record["file_name"] for record in records] == [str(p) for p in photos for _ in "123"]
    written = sorted(p.name for p in (tmp_path / "out" / "overlays").iterdir())
    assert written == ["a.png", "b.png"]


@pytest.mark.reliability("photos of the same name in two folders")
def test_the_same_name_in_two_folders(tmp_path, propose):
    photos = [write_photo(tmp_path / folder / "7.png", seed) for seed, folder in enumerate("ab")]
    assert propose(*photos).exit_code == 0
    records = results(tmp_path / "out")
    assert [record["image_id"] for record in records] == [1] * 3 + [2] * 3
    # Each picture is that of its own photo.
    for photo, name in zip(photos, ("7.png", "7-2.png"), strict=True):
        assert propose(photo, output=tmp_path / "alone").exit_code == 0
        alone = Image.open(tmp_path / "alone" / "overlay.png")
        both = Image.open(tmp_path / "out" / "overlays" / name)
        np.testing.assert_array_equal(np.asarray(both), np.asarray(alone))


@pytest.mark.reliability("photos with odd names, links in circles")
def test_names_may_be_anything(tmp_path, propose, monkeypatch):
    photos = tmp_path / "mes photos 写真"
    names = ["-dash.png", "ein bild ü.png", "写真.png", "'\"$(touch x);.png", "a\nb.png"]
    for seed, name in enumerate(names):
        write_photo(photos / name, seed)
    (photos / "loop.png").symlink_to("loop.png")
    (photos / "circle.png").symlink_to(".")
    result = propose(photos)
    assert result.exit_code == 1
    assert "for 5 of 6 photos, 1 could not be read" in result.stdout
    assert "loop.png" in result.stderr
    found = {record["file_name"] for record in results(tmp_path / "out")}
    assert found == {str(photos / name) for name in names}
    drawn = {path.name for path in (tmp_path / "out" / "overlays").iterdir()}
    assert drawn == set(names)
    monkeypatch.chdir(photos)
    assert propose("./-dash.png", output=tmp_path / "dash").exit_code == 0
    assert len(results(tmp_path / "dash")) == 3


def test_a_large_picture_in_tiles(tmp_path, propose):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 700, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    result = propose(tmp_path / "large.png", "--tiles", **{"num-proposals": 150, "scales": 0})
    assert result.exit_code == 0, result.output
    records = results(tmp_path / "out")
    assert 100 < len(records) <= 150  # more than a tile gives
    assert {tuple(record["segmentation"]["size"]) for record in records} == {(200, 700)}
    assert max(record["bbox"][0] + record["bbox"][2] for record in records) > 640
    assert read_image(tmp_path / "out" / "overlay.png").shape == (200, 700, 3)


def test_a_photo_without_any_proposal_gives_an_empty_list(tmp_path, propose, weights):
    model = sharpmask.load(weights)
    torch.nn.init.constant_(model.predict.bias, -1000.0)
    save(model, tmp_path / "blind.safetensors")
    photo = write_photo(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "proposals.json").write_text('["of another run"]')
    result = propose(photo, weights=tmp_path / "blind.safetensors")
    assert result.exit_code == 0
    assert result.stdout.startswith("0 proposals for 1 of 1 photos")
    assert results(tmp_path / "out") == []


# --- photos that cannot be read ---


def test_a_single_unreadable_photo_ends_the_command(tmp_path, propose):
    result = propose(tmp_path / "none.png")
    assert_one_line(result, "none.png: no such file")
    assert result.stdout == ""
    assert not (tmp_path / "out" / "proposals.json").exists()


def test_of_several_photos_the_bad_are_named_and_the_others_done(tmp_path, propose):
    photos = [write_photo(tmp_path / f"{k}.png", k) for k in (4, 5, 6)]
    photos[1].write_text("no picture")
    result = propose(photos[0], photos[1], tmp_path / "none.png", photos[2])
    assert result.exit_code == 1
    bad, missing = result.stderr.splitlines()
    assert str(photos[1]) in bad
    assert "none.png: no such file" in missing
    assert result.stdout.startswith("6 proposals for 2 of 4 photos, 2 could not be read, ")
    found = {(record["image_id"], record["file_name"]) for record in results(tmp_path / "out")}
    assert {name for _, name in found} == {str(photos[0]), str(photos[2])}
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 2


def test_of_several_photos_all_may_be_bad(tmp_path, propose):
    result = propose(tmp_path / "a.png", tmp_path / "b.png")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert re.fullmatch(
        r"0 proposals for 0 of 2 photos, 2 could not be read, \d+ s\n", result.stdout
    )
    assert not (tmp_path / "out" / "proposals.json").exists()


def test_an_empty_folder_is_named(tmp_path, propose):
    (tmp_path / "empty").mkdir()
    assert_one_line(propose(tmp_path / "empty"), "empty: no photos that can be read in this folder")


# --- what else can go wrong ---


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"weights": "sharkmask-xyz"}, ["sharkmask-xyz: no such weights"]),
        ({"weights": "none.safetensors"}, ["none.safetensors: no such weights"]),
        ({"weights": Path(__file__)}, ["test_propose.py: not a readable safetensors file"]),
        ({"device": "tpu9"}, ["expected auto, cpu or cuda", "tpu9"]),
        ({"scales": "huge"}, ["expected one of default, zoom, zoom2", "huge"]),
        ({"scales": "-1,nan"}, ["scales: expected octaves between -10 and 10, got nan"]),
        ({"image-size": 31}, ["image_size: expected at least 32 pixels, got 31"]),
        ({"annotations": "none.json"}, ["none.json"]),
        ({"num-proposals": 0}, ["num_proposals: expected at least 1, got 0"]),
        ({"mask-threshold": 1.5}, ["mask_threshold: expected", "between 0 and 1, got 1.5"]),
        ({"suppression": -1}, ["suppression: expected", "between 0 and 1, got -1"]),
    ],
)
def test_settings_are_checked(tmp_path, propose, given, parts):
    assert_one_line(propose(write_photo(tmp_path / "a.png"), **given), *parts)
    assert not (tmp_path / "out").exists()


def test_a_backbone_is_no_model(tmp_path, propose):
    from safetensors.torch import save_file

    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "backbone.safetensors")
    result = propose(write_photo(tmp_path / "a.png"), weights=tmp_path / "backbone.safetensors")
    assert_one_line(result, "backbone.safetensors: not a sharpmask model file", "--init")


def test_cuda_must_be_there(tmp_path, propose, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = propose(write_photo(tmp_path / "a.png"), device="cuda")
    assert_one_line(result, "cuda was asked for", "use --device cpu")


def test_an_output_that_is_a_file_is_named(tmp_path, propose):
    (tmp_path / "taken").write_text("")
    result = propose(write_photo(tmp_path / "a.png"), output=tmp_path / "taken")
    assert_one_line(result, "taken")


def test_markup_in_names_is_text(tmp_path, propose):
    result = propose(tmp_path / "[bold]a[/bold].png")
    assert_one_line(result, "[bold]a[/bold].png: no such file")
    assert propose(write_photo(tmp_path / "[red]b.png")).exit_code == 0


def test_help_is_there():
    result = CliRunner().invoke(app, ["propose", "--help"])
    assert result.exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    assert "--num-proposals" in text
    assert CliRunner().invoke(app, ["propose"]).exit_code == 2


@pytest.mark.slow
def test_the_real_command(tmp_path, weights):
    """A process of its own: streams, exit status and files as a shell sees them."""
    good, bad = write_photo(tmp_path / "1.png"), tmp_path / "2.png"
    bad.write_bytes(b"")
    source = Path(sharpmask.__file__).parents[1]
    command = [sys.executable, "-c", "from sharpmask.cli.main import app; app()", "propose"]
    options = ["--weights", weights, "--output", tmp_path / "out", "--num-proposals", "2"]
    options += ["--engine", "openvino", "--scales=-1"]
    ended = subprocess.run(
        [*command, good, bad, *options],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1
    assert re.fullmatch(
        r"2 proposals for 1 of 2 photos, 1 could not be read, \d+ s: "
        rf"{tmp_path}/out/proposals.json\n",
        ended.stdout,
    )
    assert ended.stderr == f"sharpmask: {bad}: is empty (0 bytes); fetch it again\n"
    assert len(results(tmp_path / "out")) == 2


# --- options ---


def test_octaves_and_image_size_are_those_of_python(tmp_path, propose, weights):
    photo = write_photo(tmp_path / "7.png")
    given = {"scales": "-1,0.5", "image-size": 40}
    assert propose(photo, **given).exit_code == 0
    proposer = sharpmask.Proposer(
        weights, engine="torch", scales=[-1, 0.5], image_size=40, num_proposals=3
    )
    expected = [{**record, "file_name": str(photo)} for record in proposer(photo).to_coco(7)]
    assert results(tmp_path / "out") == json.loads(json.dumps(expected))


def test_image_ids_come_from_an_annotation_file(tmp_path, propose):
    photos = [write_photo(tmp_path / "photos" / f"{name}.png", ord(name)) for name in "abc"]
    images = [{"id": k, "file_name": f"{name}.png"} for k, name in ((70, "a"), (4, "b"))]
    (tmp_path / "ann.json").write_text(json.dumps({"images": images}))
    result = propose(tmp_path / "photos", annotations=tmp_path / "ann.json")
    assert result.exit_code == 1
    assert f"{photos[2]}: left out: no image has its name" in result.stderr
    assert [record["image_id"] for record in results(tmp_path / "out")] == [70] * 3 + [4] * 3
    assert "for 2 of 3 photos, 1 left out, " in result.stdout


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        (["--torch7", "--mask-threshold", "0.2"], "--mask-threshold: has no effect with --torch7"),
        (["--torch7", "--suppression", "0.7"], "--suppression: has no effect with --torch7"),
        (["--torch7", "--no-clean"], "--clean: has no effect with --torch7"),
        (["--torch7", "--image-size", "640"], "--image-size: has no effect with --torch7"),
        (["--torch7", "--tiles"], "--tiles: has no effect with --torch7"),
        (["--torch7"], "--engine: has no effect with --torch7"),
        (
            ["--no-overlay", "--overlay-masks", "10"],
            "--overlay-masks: has no effect with --no-over",
        ),
    ],
)
def test_options_without_effect_are_refused(tmp_path, propose, given, refused):
    assert_one_line(propose(write_photo(tmp_path / "a.png"), *given), refused, "leave it out")
    assert not (tmp_path / "out").exists()


def test_torch7_proposes_as_fairs_code_does(tmp_path, weights):
    photo = write_photo(tmp_path / "7.png")
    arguments = ["propose", photo, "--torch7", "--weights", weights, "--output", tmp_path / "out"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--num-proposals", "4"])
    assert result.exit_code == 0, result.output
    proposer = Torch7Proposer(sharpmask.load(weights), num_proposals=4, device="cpu")
    expected = [{**record, "file_name": str(photo)} for record in proposer(photo).to_coco(7)]
    assert results(tmp_path / "out") == json.loads(json.dumps(expected))


# --- photos as they come ---


def test_a_photo_named_like_the_picture_is_left_alone(tmp_path, propose, monkeypatch):
    photo = write_photo(tmp_path / "overlay.png")
    before = photo.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert propose("overlay.png", output=".").exit_code == 0
    assert photo.read_bytes() == before
    assert visible(tmp_path) == ["overlay-2.png", "overlay.png", "proposals.json"]


def test_files_passed_over_are_counted_in_one_line(tmp_path, propose):
    write_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.HEIC").write_bytes(b"heic")
    result = propose(tmp_path / "photos")
    assert result.exit_code == 0
    assert result.stderr == f"sharpmask: {tmp_path}/photos: 1 files passed over (1 x .heic)\n"


def test_an_unreadable_photo_leaves_no_older_results(tmp_path, propose):
    photo = write_photo(tmp_path / "a.png")
    assert propose(photo).exit_code == 0
    photo.write_text("no picture")
    assert propose(photo).exit_code == 2
    assert visible(tmp_path / "out") == []


# --- as a shell runs it ---


@pytest.fixture
def shell(weights, tmp_path):
    """Run a shell's line; S stands for the command with two photos and a model."""
    for name in "ab":
        write_photo(tmp_path / "photos" / f"{name}.png", ord(name))

    def shell(line, **environment):
        command = f"{sys.executable} -m sharpmask propose {tmp_path}/photos --num-proposals 2 "
        command += f"--engine openvino --scales -1 --weights {weights} --output {tmp_path}/out"
        return subprocess.run(
            ["bash", "-c", line.replace("SHARPMASK", command)],
            env={**os.environ, "PYTHONPATH": str(Path(sharpmask.__file__).parents[1])}
            | environment,
            capture_output=True,
            timeout=300,
        )

    return shell


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("SHARPMASK >/dev/full", 1, b"sharpmask: standard output cannot be written (No space left"),
        ("SHARPMASK | true; exit ${PIPESTATUS[0]}", 0, b""),
        pytest.param("SHARPMASK >&-", 0, b"", marks=pytest.mark.slow),
        pytest.param("SHARPMASK >&- 2>&-", 0, b"", marks=pytest.mark.slow),
        pytest.param(
            *("PYTHONUNBUFFERED=1 SHARPMASK | true; exit ${PIPESTATUS[0]}", 0, b""),
            marks=pytest.mark.slow,
        ),
        pytest.param("SHARPMASK >/dev/full 2>/dev/full", 1, b"", marks=pytest.mark.slow),
    ],
)
def test_no_output_costs_no_results(shell, tmp_path, line, status, said):
    done = shell(line)
    assert (done.returncode, b"Traceback" in done.stderr) == (status, False), done.stderr
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)
    assert len(results(tmp_path / "out")) == 4
    assert len([*(tmp_path / "out" / "overlays").iterdir()]) == 2


@pytest.mark.slow  # test_console prints such names in this process
def test_names_of_any_script_are_printed_on_an_ascii_terminal(shell, tmp_path):
    done = shell("SHARPMASK/写真", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(
        f" s: {tmp_path}/out/".encode() + rb"\u5199\u771f/proposals.json" + b"\n"
    )
    assert len(results(tmp_path / "out" / "写真")) == 4


@pytest.mark.slow
def test_names_of_any_script_are_printed_in_the_locale_c(shell, tmp_path):
    done = shell("SHARPMASK/写真", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert len(results(tmp_path / "out" / "写真")) == 4


@pytest.mark.slow
def test_sigterm_keeps_what_is_done(weights, tmp_path):
    for number in range(1, 200):
        write_photo(tmp_path / "photos" / f"{number}.png", number)
    arguments = ["propose", tmp_path / "photos", "--weights", weights, "--engine", "torch"]
    arguments += ["--output", tmp_path / "out", "--no-overlay", "--num-proposals", "2"]
    arguments += ["--scales", "-1"]
    with subprocess.Popen(
        [sys.executable, "-m", "sharpmask", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(sharpmask.__file__).parents[1])},
        stderr=subprocess.PIPE,
    ) as process:
        journal = tmp_path / "out" / ".proposals.json.journal"
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") > 3:
                process.terminate()
                break
            time.sleep(0.01)
        said = process.stderr.read()
    assert process.returncode == 143
    assert said == b"sharpmask: ended by SIGTERM\n"
    assert 3 <= len(results(tmp_path / "out")) / 2 < 199
    assert journal.exists()  # the same command goes on


@pytest.mark.slow
def test_no_home_and_no_user_is_as_a_home_that_cannot_be_written(weights, tmp_path):
    """As in a container that runs as any user id."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root may become a user that does not exist")
    nobody = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", sys.executable]
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment["PYTHONPATH"] = str(Path(sharpmask.__file__).parents[1])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        photo = write_photo(Path(folder) / "a.png")
        model = shutil.copy(weights, folder)
        able = subprocess.run([*nobody, "-c", "import torch"], env=environment, capture_output=True)
        if able.returncode:
            pytest.skip("others may not read this installation")
        command = [*nobody, "-m", "sharpmask", "propose", str(photo), "--engine", "openvino"]
        command += ["--weights", str(model), "--output", f"{folder}/out", "--scales", "-1"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, cwd=folder
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def test_version_and_module():
    command = [sys.executable, "-m", "sharpmask", "--version"]
    environment = {**os.environ, "PYTHONPATH": str(Path(sharpmask.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == f"sharpmask {version('sharpmask')}\n"
