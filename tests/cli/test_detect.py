"""From training a detector to its Average Precision, by the commands."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

import sharpmask
from reference.thin_models import pyramid_file
from sharpmask.cli.main import app
from sharpmask.detection import fast_rcnn, proposing
from sharpmask.engines.load import load_engine
from sharpmask.images import read_image
from sharpmask.masks import decode
from sharpmask.models.pretrained import read_metadata


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A proposer with random weights."""
    folder = tmp_path_factory.mktemp("files")
    pyramid_file(folder)
    return folder


@pytest.fixture(scope="module")
def annotations(coco_folder, files):
    """Of the validation photos, the partly labelled one left out."""
    content = json.loads(coco_folder.val.read_text())
    content["images"] = [image for image in content["images"] if image.get("complete", True)]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    path = files / "complete.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few steps, and no export of the proposer for a faster engine."""
    monkeypatch.setattr(fast_rcnn, "STEPS", 20)
    monkeypatch.setattr(fast_rcnn, "HIDDEN", 16)
    torch_alone = lambda source, *_, **__: load_engine(source, "torch")  # noqa: E731
    monkeypatch.setattr(proposing, "load_engine", torch_alone)


def train(coco_folder, files, output, *more):
    return run(
        "train", "detector", "--train", coco_folder.train, "--images", coco_folder.images,
        "--weights", files / "pyramid.safetensors", "--min-objects", "2", "--num-proposals", "8",
        "--device", "cpu", "--output", output, "--kind", "fast-rcnn", *more,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [pytest.param("rcnn", marks=pytest.mark.slow), "fast-rcnn"])
def test_a_detector_is_trained_and_finds_named_objects(
    coco_folder, files, annotations, tmp_path, kind
):
    result = train(
        coco_folder, files, tmp_path / "run", "--kind", kind, "--val", annotations,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 categories: disc, plate, roof" in result.output
    assert "boxes_AP50" in result.output
    assert "masks_AP50" in result.output
    metadata = read_metadata(tmp_path / "run")
    assert metadata["detector"]["kind"] == kind
    assert [c["id"] for c in metadata["detector"]["categories"]] == [3, 7, 90]
    assert metadata["data"]["photos"] == 9
    assert not (tmp_path / "run" / "vectors").exists()

    photos = sorted(coco_folder.images.glob("val-*.png"))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    result = run(
        "detect", *photos, bad, "--detector", tmp_path / "run", "--output", tmp_path / "out",
        "--min-score", "0.001", "--overlay-score", "0.001",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "4 of 5 photos, 1 could not be read" in result.output
    records = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {record["category_id"] for record in records} <= {3, 7, 90}
    assert {"bbox", "segmentation", "score", "image_id", "file_name"} <= records[0].keys()
    for photo in photos:
        drawn = read_image(tmp_path / "out" / "overlays" / photo.name)
        assert drawn.shape == read_image(photo).shape
        assert (drawn != read_image(photo)).any()

    if kind == "fast-rcnn":
        formats_tell_the_categories(photos, tmp_path)

    # Photos are numbered from 1; the annotations have ids of their own.
    named = [{**r, "image_id": int(Path(r["file_name"]).stem.split("-")[1])} for r in records]
    known = {image["id"] for image in json.loads(annotations.read_text())["images"]}
    (tmp_path / "named.json").write_text(json.dumps([r for r in named if r["image_id"] in known]))
    result = run(
        "evaluate", "--annotations", annotations, "--detections", tmp_path / "named.json",
        "--category", "disc", "--category", "roof", "--output", tmp_path / "report",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "report" / "precision.json").read_text())
    assert figures["boxes"].keys() == figures["masks"].keys()
    assert {"AP", "AP50", "ARl", "AP/disc", "AP/roof"} <= figures["boxes"].keys()


def formats_tell_the_categories(photos, folder):
    """The formats name each object, and hold what the selection leaves."""
    names = {3: "disc", 7: "plate", 90: "roof"}
    formats = ["coco", "yolo", "labelme", "labelstudio", "parquet"]
    result = run(
        "detect", *photos, "--detector", folder / "run", "--output", folder / "formats",
        "--min-score", "0.001", "--no-overlap", "--top", "3", "--no-overlay",
        *(option for name in formats for option in ("--format", name)),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    out = folder / "formats"
    records = json.loads((out / "detections.json").read_text())
    found = [
        [record for record in records if record["image_id"] == image_id]
        for image_id in range(1, len(photos) + 1)
    ]
    by_photo = [[names[record["category_id"]] for record in each] for each in found]
    told = [label for labels in by_photo for label in labels]
    assert max(map(len, by_photo)) == 3
    assert len(set(told)) > 1
    coco = json.loads((out / "coco.json").read_text())
    assert {each["id"]: each["name"] for each in coco["categories"]} == names
    assert [names[each["category_id"]] for each in coco["annotations"]] == told
    rows = pyarrow.parquet.read_table(out / "proposals.parquet").to_pylist()
    assert [[each["category"] for each in row["proposals"]] for row in rows] == by_photo
    tasks = json.loads((out / "labelstudio" / "tasks.json").read_text())
    assert [
        [region["value"]["brushlabels"][0] for region in task["predictions"][0]["result"]]
        for task in tasks
    ] == by_photo
    assert [
        label.get("value")
        for label in ElementTree.parse(out / "labelstudio" / "config.xml").iter("Label")
    ] == [*names.values()]
    assert (out / "yolo" / "classes.txt").read_text().split() == [*names.values()]
    for photo, labels in zip(photos, by_photo, strict=True):
        shapes = json.loads((out / "labelme" / f"{photo.stem}.json").read_text())["shapes"]
        assert [shape["label"] for shape in shapes] == labels
        lines = (out / "yolo" / "labels" / f"{photo.stem}.txt").read_text().splitlines()
        assert [[*names.values()][int(line.split()[0])] for line in lines] == labels
    for each in found:
        assert sum(decode(record["segmentation"]) for record in each).max() == 1


def test_proposals_of_another_method(coco_folder, files, annotations, tmp_path):
    """Boxes alone, from a file, to learn from; the model reads them, and proposes later on."""
    rng = np.random.default_rng(0)
    content = json.loads(coco_folder.train.read_text())
    records = [
        {"image_id": image["id"], "category_id": 1, "score": float(rng.random()),
         "bbox": [float(v) for v in (*rng.integers(0, 60, 2), *rng.integers(10, 30, 2))]}
        for image in content["images"] for _ in range(30)
    ]  # fmt: skip
    path = tmp_path / "found.json"
    path.write_text(json.dumps(records))
    result = train(coco_folder, files, tmp_path / "run", "--proposals", path)
    assert result.exit_code == 0, result.output
    noted = read_metadata(tmp_path / "run")["proposals"]
    assert (noted["file"], noted["num_proposals"]) == ("found.json", 8)
    photo = next(coco_folder.images.glob("val-*.png"))
    result = run("detect", photo, "--detector", tmp_path / "run", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output

    result = train(
        coco_folder, files, tmp_path / "other", "--proposals", path, "--val", annotations
    )
    assert "--val-proposals" in result.stderr
    path.write_text(json.dumps([{**records[0], "image_id": 12345}]))
    result = train(coco_folder, files, tmp_path / "other", "--proposals", path)
    assert result.exit_code == 2
    assert "holds proposals for none of the 9 photos" in result.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--category", "cow"], "category 'cow' is not in the data; it has: disc, plate, roof"),
        (["--min-objects", "99"], "no category has 99 objects to learn from"),
        (
            ["--weights", "sharpmask-nano"],
            "sharpmask-nano: a detector needs a model with a feature pyramid",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_trained(coco_folder, files, tmp_path, more, message):
    result = train(coco_folder, files, tmp_path, *more)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()[-1]) < 400


def test_a_bad_validation_file_is_found_before_proposals_are_made(
    coco_folder, files, annotations, tmp_path
):
    content = json.loads(annotations.read_text())
    content["categories"] = [c for c in content["categories"] if c["name"] != "disc"]
    gone = {c["id"] for c in content["categories"]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in gone]
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    missing = tmp_path / "none.json"
    result = train(coco_folder, files, tmp_path / "run", "--val", path, "--proposals", missing)
    assert result.exit_code == 2
    assert "disc" in result.stderr
    assert "none.json" not in result.stderr


def test_detect_wants_a_detector(files, coco_folder, tmp_path):
    photo = next(coco_folder.images.glob("val-*.png"))
    result = run("detect", photo, "--detector", files / "pyramid.safetensors")
    assert result.exit_code == 2
    assert "not a detector; train one with: sharpmask train detector" in result.stderr


def test_training_of_svms_names_the_library_that_is_missing(
    coco_folder, files, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = train(coco_folder, files, tmp_path, "--kind", "rcnn")
    assert result.exit_code == 2
    assert "sklearn is not installed; pip install 'sharpmask[rcnn]'" in result.stderr


def test_a_detector_of_other_categories_is_not_gone_on_with(coco_folder, files, tmp_path):
    found = tmp_path / "found.json"  # any regions
    ids = [image["id"] for image in json.loads(coco_folder.train.read_text())["images"]]
    found.write_text(
        json.dumps([{"image_id": k, "bbox": [5, 5, 20, 20], "score": 0.5} for k in ids])
    )

    def trained(category):
        return train(
            coco_folder, files, tmp_path / "run", "--category", category, "--proposals", found
        )

    assert trained("disc").exit_code == 0
    result = trained("roof")
    assert result.exit_code == 2
    assert "something else (category: disc there, roof now)" in result.stderr.splitlines()[-1]
    names = read_metadata(tmp_path / "run")["detector"]["categories"]
    assert [category["name"] for category in names] == ["disc"]
    assert trained("disc").exit_code == 0  # the same command goes on


def test_what_a_detector_cannot_be_is_told_before_photos_are_read(coco_folder, tmp_path):
    given = {"train": coco_folder.train, "images": coco_folder.images, "output": tmp_path}
    with pytest.raises(ValueError, match="kind: expected rcnn or fast-rcnn, got 'svm'"):
        sharpmask.train_detector(**given, kind="svm")
    with pytest.raises(ValueError, match="category 'sofa' is not in the data"):
        sharpmask.train_detector(**given, kind="fast-rcnn", categories="sofa")
