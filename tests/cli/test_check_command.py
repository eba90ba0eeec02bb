import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sharpmask.cli.main import app

HEIGHT, WIDTH = 60, 80


def polygon(left, top, width, height):
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def sound():
    """Two photos with two objects each."""
    boxes = [[5, 6, 30, 20], [40, 10, 25, 30], [10, 12, 40, 40], [60, 30, 15, 20]]
    annotations = [
        {
            "id": 11 + k, "image_id": 1 + k // 2, "category_id": 1, "bbox": box, "iscrowd": 0,
            "area": box[2] * box[3], "segmentation": polygon(*box),
        }
        for k, box in enumerate(boxes)
    ]  # fmt: skip
    images = [{"id": k, "file_name": f"{k}.png", "height": HEIGHT, "width": WIDTH} for k in (1, 2)]
    return {
        "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip


@pytest.fixture
def check(tmp_path):
    """Write a file and run the command on it."""
    for number in (1, 2):
        pixels = np.full((HEIGHT, WIDTH, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")

    def check(content, *options):
        path = tmp_path / "set.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return CliRunner().invoke(app, ["check", str(path), "--images", str(tmp_path), *options])

    return check


def test_sound_file_has_no_table_and_status_0(check):
    result = check(sound())
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "training: the file can be used, 0 records are skipped",
        "evaluation: the file can be used, 0 records are missed",
        "objects: 4; longer side in photos reduced to 640 px: 16 to 32 px 75 %, 32 to 64 px 25 %",
        "objects that a level of --scales fits: default 75 %, fast 25 %, zoom 100 %, zoom2 100 %, "
        "auto 75 %",
        "auto, the sizes that finetune chooses: --scales=0.3,-0.7",
        "training learns from 4 of 4 objects; 0 are too small for it (below 100 px, or 5 px wide)",
    ]


def test_a_crowded_photo_has_a_ceiling(check):
    content = sound()
    box = polygon(5, 6, 20, 20)
    content["annotations"] = [
        {**content["annotations"][0], "id": k, "segmentation": box} for k in range(160)
    ]
    assert (
        "up to 160 objects in a photo: 100 proposals find at most 62 % of all"
        in check(content).stdout
    )


def many_faults():
    content = sound()
    extra = [
        {**content["annotations"][0], "id": 100 + k, "segmentation": [[1, 2]]} for k in range(9)
    ]
    content["annotations"] += extra
    return content


def test_problems_are_summed_up_by_kind(check):
    result = check(many_faults())
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:3] == [
        "9 x malformed segmentation: annotation 100, annotation 101, annotation 102, ...",
        "    e.g. segmentation: a polygon needs x, y of at least 3 points, got 2 numbers",
        "    training: skipped; evaluation: refused",
    ]
    assert "annotation 108" not in result.stdout
    assert "training: the file can be used, 9 records are skipped" in result.stdout
    assert "evaluation: the file is refused" in result.stdout


def test_all_lists_every_record(check):
    result = check(many_faults(), "--all")
    assert result.exit_code == 1
    assert all(f"annotation {100 + k} " in result.stdout for k in range(9))


def test_annotations_without_ids_are_called_that(check):
    content = sound()
    for record in content["annotations"]:
        del record["id"]
    result = check(content)
    assert result.exit_code == 0
    assert "has no id" in result.stdout
    assert "appears" not in result.stdout


def test_photo_that_cannot_be_used_is_counted(check):
    content = sound()
    content["images"][0]["height"] = HEIGHT + 1
    result = check(content)
    assert result.exit_code == 0
    assert "training: the file can be used, 1 records are skipped" in result.stdout
    assert "evaluation: the file can be used, 1 records are missed" in result.stdout


def test_file_of_crowds_alone_has_nothing_to_score(check):
    content = sound()
    for record in content["annotations"]:
        record["iscrowd"] = 1
    result = check(content)
    assert result.exit_code == 1
    assert "no object in 2 images, but 4 crowd regions" in result.stdout
    assert "evaluation: the file is refused" in result.stdout
    assert "objects: none" in result.stdout


def test_sizes_are_those_in_reduced_photos(check):
    result = check(sound(), "--image-size", "40")
    assert "reduced to 40 px: 8 to 16 px 75 %, 16 to 32 px 25 %" in result.stdout


def test_objects_too_small_to_learn_from_are_counted(check):
    content = sound()
    content["annotations"][0]["segmentation"] = polygon(5, 6, 4, 40)
    assert "training learns from 3 of 4 objects; 1 are too small for it" in check(content).stdout


def test_brackets_in_a_problem_are_printed(check):
    content = sound()
    content["annotations"][0] |= {"id": "[/red]", "bbox": "[red]"}
    stdout = check(content, "--all").stdout
    assert "annotation [/red]" in stdout
    assert 'bbox is "[red]", not [left, top' in " ".join(stdout.split())


def test_file_that_is_not_json_is_refused(check):
    result = check("{")
    assert result.exit_code == 1
    assert "not a JSON file" in result.stdout


def test_folders_of_labels_are_checked_as_finetune_reads_them(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels").mkdir()
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 20:60] = 1
    for name in ("a", "b"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "photos" / f"{name}.jpg")
        Image.fromarray(mask).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "labels" / "b.png").write_bytes(b"no picture")
    labels, photos = (str(tmp_path / name) for name in ("labels", "photos"))
    result = CliRunner().invoke(app, ["check", labels, "--images", photos])
    assert result.exit_code == 0
    assert "1 x file of labels that cannot be read: b.png" in result.stdout
    assert "training: the file can be used, 1 records are skipped" in result.stdout
    assert "training learns from 1 of 1 objects" in result.stdout
    assert "no bbox" not in result.stdout
    result = CliRunner().invoke(app, ["check", labels])
    assert result.exit_code == 2
    assert "is a folder of labels; give --images" in " ".join(result.stderr.split())


def test_missing_file_has_status_2(tmp_path):
    result = CliRunner().invoke(app, ["check", str(tmp_path / "none.json")])
    assert result.exit_code == 2
    assert "none.json" in result.stderr
