"""What a run remembers of its data, and that only one run writes to a folder."""

import json
import os
import time
from pathlib import Path

import pytest
import toy_run
from lightning_fabric import Fabric

from sharpmask.coco.annotations import load_coco
from sharpmask.training.origin import data_origin, files_of, only_run, remember, silent


def origin_of(coco_folder, annotations=None, images=None):
    images = images or coco_folder.images
    return data_origin(load_coco(annotations or coco_folder.train, images), None, images)


def changed(coco_folder, tmp_path, change):
    content = json.loads(coco_folder.train.read_text())
    change(content)
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    return path


def moved(content):
    polygon = next(a for a in content["annotations"] if isinstance(a["segmentation"], list))[
        "segmentation"
    ][0]
    polygon[0] += 3


def renamed(content):
    content["categories"][0]["name"] = "dish"


def partly(content):
    content["images"][0]["complete"] = not content["images"][0].get("complete", True)


@pytest.mark.parametrize("change", [moved, renamed, partly])
def test_other_annotations_are_noticed(coco_folder, tmp_path, change):
    first = origin_of(coco_folder)
    other = origin_of(coco_folder, changed(coco_folder, tmp_path, change))
    assert first["train"] != other["train"]
    assert first["images"] == other["images"]


def test_other_photos_of_the_same_names_are_noticed_and_a_moved_folder_is_not(
    coco_folder, tmp_path
):
    folder = tmp_path / "images"
    folder.mkdir()
    for photo in coco_folder.images.iterdir():
        (folder / photo.name).write_bytes(photo.read_bytes())
    assert origin_of(coco_folder, images=folder) == origin_of(coco_folder)
    photo = folder / "train-5.png"
    photo.write_bytes(photo.read_bytes() + b"more")
    first, other = origin_of(coco_folder), origin_of(coco_folder, images=folder)
    assert first["images"] != other["images"]
    assert first["train"] == other["train"]


def test_every_difference_is_named(tmp_path):
    remember(tmp_path, {"a": 1, "model": {"b": [1, 2], "c": None}}, report=silent, write=True)
    # Nothing is learned yet: the run may still be another one.
    remember(tmp_path, {"a": 2, "model": {"b": [1, 2], "c": None}}, report=silent, write=True)
    toy_run.run(tmp_path)
    said = []
    remember(tmp_path, {"a": 2, "model": {"b": (1, 2), "c": None}}, report=said.append, write=True)
    assert said == []
    with pytest.raises(
        ValueError, match=r"learned from something else .* give another --output"
    ) as e:
        remember(tmp_path, {"a": 1, "model": {"b": [3], "c": "x"}}, report=silent, write=True)
    assert (
        "(a: 2 there, 1 now; model b: 1, 2 there, 3 now; model c: not given there, x now)"
        in str(e.value)
    )


def test_a_run_of_version_0_1_goes_on_with_a_warning(tmp_path):
    toy_run.run(tmp_path)
    said = []
    remember(tmp_path, {"a": 1}, report=said.append, write=True)
    assert len(said) == 1
    assert "begun by version 0.1 and did not note what it learns from" in said[0]


def test_a_model_from_elsewhere_is_not_written_over(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"model\.safetensors and no note of what it learned from"):
        remember(tmp_path, {"a": 1}, report=silent, write=True)


def test_of_two_runs_in_one_folder_the_second_is_refused(tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()

    def hold():
        with only_run(tmp_path / "run", fabric):
            (tmp_path / "held").touch()
            time.sleep(60)

    child = toy_run.in_child(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(ValueError, match="run: another run is writing there"):  # noqa: SIM117
        with only_run(tmp_path / "run", fabric):
            pass
    os.kill(child, 9)
    os.waitpid(child, 0)
    with only_run(tmp_path / "run", fabric):  # a killed run leaves the folder free
        pass


def test_no_annotation_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train: expected one annotation file or several, got no"):
        files_of([])
    assert files_of("a.json") == files_of(["a.json"]) == [Path("a.json")]
