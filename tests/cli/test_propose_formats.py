"""``propose`` with other formats, selection, standard input, and --json."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

import sharpmask
from found_masks import iou, mask_of
from reference.thin_models import thin_export, thin_file
from sharpmask.cli.main import app
from sharpmask.cli.photos import Results
from sharpmask.inference.batch import unshown
from sharpmask.writers.formats import FORMATS

ALL = [part for name in FORMATS for part in ("--format", name)]
SIZE = (48, 64)


@pytest.fixture(scope="module")
def weights(cache):
    """A SharpMask with random weights, as thin as they come; exported already."""
    thin_export(cache)
    return thin_file(cache)


@pytest.fixture
def options(weights):
    return [
        *("--weights", str(weights), "--num-proposals", "20", "--engine", "openvino"),
        *("--scales", "-1,0", "--mask-threshold", "0.5", "--suppression", "1"),
    ]


@pytest.fixture
def propose(options, tmp_path, monkeypatch):
    """Run the command in ``tmp_path``; results go to ``out`` there."""
    monkeypatch.chdir(tmp_path)

    def propose(*arguments, given=None, output="out"):
        more = ["--output", output] if output else []
        arguments = ["propose", *map(str, arguments), *options, *more]
        result = CliRunner().invoke(app, arguments, input=given)
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return propose


@pytest.fixture
def photos(tmp_path):
    """A folder of three."""
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        write_photo(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


def write_photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def contents(folder):
    """Every file that a user sees; links by where they lead."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def records_of(folder):
    return json.loads((folder / "proposals.json").read_text())


def masks_of(folder):
    return [mask_of(record["segmentation"]) for record in records_of(folder)]


def refused(result, *parts):
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    for part in parts:
        assert part in line


# --- formats ---


@pytest.mark.parametrize("more", [[], ["--polygons"]], ids=["masks", "polygons"])
def test_all_formats_are_written_beside_the_results(propose, photos, tmp_path, more):
    result = propose(photos, *ALL, *more)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    assert line.endswith(
        ": out/proposals.json, coco.json, yolo, labelme, labelstudio, masks, cutouts, "
        "proposals.parquet"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("proposals.json", "overlays", "coco.json", "proposals.parquet", ".lock"),
        *("yolo", "labelme", "labelstudio", "masks", "cutouts"),
    }
    coco = COCO(tmp_path / "out" / "coco.json")
    assert [image["file_name"] for image in coco.dataset["images"]] == ["a.png", "b.png", "c.png"]
    assert [a["image_id"] for a in coco.dataset["annotations"]] == [
        record["image_id"] for record in records_of(tmp_path / "out")
    ]
    polygons = {isinstance(a["segmentation"], list) for a in coco.dataset["annotations"]}
    assert polygons == {bool(more)}
    cutouts = [*(tmp_path / "out" / "cutouts").rglob("*.png")]
    assert len(cutouts) == len(records_of(tmp_path / "out"))


def test_formats_of_an_earlier_run_are_named(propose, tmp_path):
    """They stay, as someone may have corrected them, but may be of other photos."""
    first, second = (write_photo(tmp_path / f"{name}.png") for name in "ab")
    propose(first, "--no-overlay", "--format", "yolo", "--format", "coco")
    before = contents(tmp_path / "out" / "yolo")
    result = propose(second, "--no-overlay", "--format", "coco")
    assert result.exit_code == 0
    said = "out: not written anew, as --format did not ask for it, and so perhaps of other photos"
    assert result.stderr == f"sharpmask: {said} or settings: yolo\n"
    assert contents(tmp_path / "out" / "yolo") == before
    assert propose(second, "--json").stderr.count("not written anew") == 0


@pytest.mark.slow
def test_results_do_not_depend_on_the_formats(propose, photos, tmp_path):
    propose(photos, output="alone")
    propose(photos, *ALL)
    assert records_of(tmp_path / "alone") == records_of(tmp_path / "out")
    alone = contents(tmp_path / "alone")
    assert alone.items() <= contents(tmp_path / "out").items()


def test_a_photo_without_masks_is_in_the_data_set(propose, photos, tmp_path):
    result = propose(photos, "--format", "coco", "--min-score", "1")
    assert result.exit_code == 0, result.output
    assert records_of(tmp_path / "out") == []
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [(image["height"], image["width"]) for image in content["images"]] == [SIZE] * 3
    assert content["annotations"] == []


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from sharpmask.cli.main import app
from sharpmask.inference.journal import Journal

add, calls, last = Journal.add, itertools.count(1), int(sys.argv.pop(1))

def counted(self, *arguments):
    if next(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, *arguments)

Journal.add = counted
app()
"""


@pytest.mark.slow
def test_a_killed_run_with_all_formats_ends_like_a_calm_one(propose, options, photos, tmp_path):
    assert propose(photos, *ALL, output="calm").exit_code == 0
    command = [sys.executable, "-c", KILLED, "2", "propose", "photos", *ALL, *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(sharpmask.__file__).parents[1])}
    ended = subprocess.run([*command, "--output", "out"], cwd=tmp_path, env=environment)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "coco.json").exists()
    result = propose("photos", *ALL)
    assert result.exit_code == 0
    assert "1 of 3 photos were done before" in result.stderr
    calm, found = contents(tmp_path / "calm"), contents(tmp_path / "out")
    calm["proposals.json"] = calm["proposals.json"].replace(str(tmp_path).encode() + b"/", b"")
    assert found.keys() == calm.keys()
    # Only the paths of photos differ: they were given in another way.
    assert {name for name in calm if calm[name] != found[name]} <= {"proposals.parquet"}


def test_a_failed_photo_leaves_no_older_data_set(propose, tmp_path):
    photo = write_photo(tmp_path / "a.png")
    assert propose(photo, "--format", "coco", "--format", "parquet").exit_code == 0
    photo.write_text("not a picture")
    assert propose(photo, "--format", "coco", "--format", "parquet").exit_code == 2
    assert contents(tmp_path / "out") == {}


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--format", "voc"], ["unknown format 'voc'; there are coco, yolo"]),
        (["--polygons"], ["polygons: only for the formats coco"]),
        (["--format", "yolo", "--polygons"], ["polygons: only for the formats coco"]),
        (["--min-area", "2 cm"], ["min_area: expected pixels, or a share"]),
        (["--max-area", "101%"], ["max_area: expected pixels, or a share"]),
        (["--distinct", "7"], ["distinct: expected 0 to 1, got 7"]),
        (["--min-score", "-1"], ["min_score: expected 0 to 1, got -1"]),
        (["--top", "0"], ["top: expected 1 or more, got 0"]),
        (["--json"], ["--output: has no effect with --json"]),
        (["-"], ["-: standard input holds one photo; leave the others out"]),
        (["https://a.org/b.jpg?c"], ["https://a.org/b.jpg?c: is an address; fetch the photo"]),
        (["s3://bucket/b.jpg"], ["s3://bucket/b.jpg: is an address"]),
        (["photos/*.jpg"], ["photos/*.jpg: is a pattern that fits no file"]),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_at_once(propose, tmp_path, arguments, parts):
    refused(propose(write_photo(tmp_path / "a.png"), *arguments), *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--format", "coco"], ["--no-overlay"], ["--overlay-masks", 3]])
def test_options_of_files_are_refused_with_json(propose, tmp_path, option):
    result = propose(write_photo(tmp_path / "a.png"), "--json", *option, output=None)
    refused(result, f"{option[0].replace('no-', '')}", ": has no effect with --json; leave it out")


def test_a_photo_named_like_a_pattern_is_read(propose, tmp_path):
    assert propose(write_photo(tmp_path / "what?.png")).exit_code == 0


def test_a_format_whose_package_is_missing_names_the_extra(propose, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    result = propose(write_photo(tmp_path / "a.png"), "--format", "parquet")
    refused(result, "parquet: ", "pip install 'sharpmask[parquet]'")


# --- selection and cleaning ---


def test_masks_are_cleaned_unless_that_is_not_wanted(propose, tmp_path, weights):
    photo = write_photo(tmp_path / "7.png")
    found = []
    for option, clean in (("--clean", True), ("--no-clean", False)):
        assert propose(photo, option).exit_code == 0
        records = json.loads((tmp_path / "out" / "proposals.json").read_text())
        found.append([record["segmentation"] for record in records])
        proposer = sharpmask.Proposer(
            weights, engine="torch", scales=[-1, 0], num_proposals=20, mask_threshold=0.5,
            suppression=1, clean=clean,
        )  # fmt: skip
        assert found[-1] == proposer(photo).rles()
    assert found[0] != found[1]


def test_selection_is_that_of_python(propose, options, tmp_path, weights):
    photo = write_photo(tmp_path / "7.png")
    proposer = sharpmask.Proposer(
        weights,
        engine="openvino",
        scales=[-1, 0],
        num_proposals=20,
        mask_threshold=0.5,
        suppression=1,
    )
    every = proposer(photo)
    chosen = sharpmask.selection.Selection(
        min_score=float(every.scores[15]), min_area="1%", max_area=2500, distinct=0.7, top=6
    )
    expected = chosen(every)
    assert 0 < len(expected) < 16
    arguments = ["--min-score", every.scores[15], "--min-area", "1%", "--max-area", "2500"]
    result = propose(photo, *arguments, "--distinct", 0.7, "--top", 6)
    assert result.exit_code == 0, result.output
    records = [{**record, "file_name": str(photo)} for record in expected.to_coco(7)]
    assert records_of(tmp_path / "out") == json.loads(json.dumps(records))


def test_masks_do_not_overlap_in_results_and_formats(propose, photos, tmp_path):
    result = propose(
        photos / "a.png", "--no-overlap", "--no-clean", "--format", "coco", "--format", "masks"
    )
    assert result.exit_code == 0
    masks = np.array(masks_of(tmp_path / "out"))
    assert len(masks) > 1
    assert masks.sum(0).max() == 1
    coco = COCO(tmp_path / "out" / "coco.json")
    found = [mask_of(a["segmentation"]) for a in coco.dataset["annotations"]]
    assert all(iou(*pair) == 1 for pair in zip(masks, found, strict=True))
    index = np.asarray(Image.open(tmp_path / "out" / "masks" / "indexed" / "a.png"))
    np.testing.assert_array_equal(
        index, (masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(0)
    )


def test_without_parts_no_mask_lies_in_another(propose, photos, tmp_path):
    assert propose(photos / "a.png", "--no-parts", "--distinct", 0.9).exit_code == 0
    masks = masks_of(tmp_path / "out")
    for a in masks:
        assert sum((a & b).sum() > 0.9 * a.sum() for b in masks if b.sum() >= a.sum()) == 1


# --- manners ---


def test_a_photo_comes_from_standard_input(propose, photos, tmp_path):
    content = (photos / "b.png").read_bytes()
    result = propose("-", *ALL, given=content)
    assert result.exit_code == 0, result.output
    assert {record["file_name"] for record in records_of(tmp_path / "out")} == {"out/stdin.png"}
    kept = Image.open(tmp_path / "out" / "stdin.png")
    np.testing.assert_array_equal(kept, Image.open(io.BytesIO(content)))
    assert (tmp_path / "out" / "yolo" / "images" / "stdin.png").is_file()
    propose(photos / "b.png", output="named")
    for one, other in zip(
        records_of(tmp_path / "out"), records_of(tmp_path / "named"), strict=True
    ):
        assert one["segmentation"] == other["segmentation"]


@pytest.mark.parametrize(
    ("given", "part"),
    [(b"", "standard input: is empty"), (b"<html>", "standard input: is not a JPEG, PNG")],
)
def test_standard_input_that_is_not_a_photo_is_refused(propose, tmp_path, given, part):
    refused(propose("-", given=given), part)
    assert not (tmp_path / "out").exists()


def test_json_is_all_that_is_written(propose, photos, tmp_path):
    propose(photos / "a.png")
    before = sorted(tmp_path.rglob("*"))
    result = propose("-", "--json", given=(photos / "a.png").read_bytes(), output=None)
    assert result.exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before
    records = json.loads(result.stdout)
    assert {record["file_name"] for record in records} == {"-"}
    expected = [{**record, "file_name": "-"} for record in records_of(tmp_path / "out")]
    assert records == expected
    assert re.fullmatch(r"20 proposals for 1 of 1 photos, \d+ s\n", result.stderr)
    result = propose(photos, photos / "none.png", "--json", "--quiet", output=None)
    assert result.exit_code == 1
    assert {record["image_id"] for record in json.loads(result.stdout)} == {1, 2, 3}
    assert "none.png: no such file" in result.stderr
    assert result.stderr.count("\n") == 1


def test_quiet_says_nothing_but_problems(propose, photos):
    result = propose(photos, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert Results(Path("found.json"), as_json=False, quiet=True).progress is unshown


@pytest.mark.slow
def test_completion_is_offered_for_commands_and_formats():
    def complete(line):
        environment = {**os.environ, "PYTHONPATH": str(Path(sharpmask.__file__).parents[1])}
        environment |= {"_SHARPMASK_COMPLETE": "complete_bash", "COMP_WORDS": line}
        environment["COMP_CWORD"] = str(len(line.split(" ")) - 1)
        program = "from sharpmask.cli.main import app; app(prog_name='sharpmask')"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.stdout.split()

    assert complete("sharpmask pro") == ["propose"]
    assert complete("sharpmask propose a.jpg --format la") == ["labelme", "labelstudio"]


@pytest.mark.parametrize("command", [[], ["propose"], ["detect"]])
def test_help_tells_the_exit_status(command):
    text = CliRunner().invoke(app, [*command, "--help"]).output
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    assert "Exit status: 0 all was done; 1 done in part" in plain
    assert ("--install-completion" in plain) == (not command)
