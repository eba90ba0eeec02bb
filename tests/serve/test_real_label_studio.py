"""A real Label Studio server.

LABEL_STUDIO=ls/bin/label-studio pytest -m real tests/serve/test_real_label_studio.py
"""

import io
import json
import re
import zipfile

import numpy as np
import pytest
from skimage.draw import polygon2mask

from serve.conftest import SQUARES, make_photo, png, running, square
from serve.studio import (
    COMMAND,
    CONFIG,
    act_on_all,
    connected_project,
    label_studio,
    made,
    personal_token,
)
from sharpmask.selection import Selection
from sharpmask.serve.app import create_app
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings
from writers.test_labelstudio import brush_of

TOKENS = ("api_tokens_enabled", "legacy_api_tokens_enabled")

pytestmark = [
    pytest.mark.real,  # a minute until the server is up
    pytest.mark.skipif(not COMMAND, reason="Label Studio is not installed; LABEL_STUDIO names it"),
]


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    with label_studio(tmp_path_factory.mktemp("label-studio")) as client:
        yield client


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("token", ["personal", "legacy"])
def test_a_project_gets_predictions_a_click_is_answered_and_the_export_holds_our_masks(
    studio, proposer, token
):
    allowed = dict(zip(TOKENS, (True, token == "legacy"), strict=True))
    made(studio.post("/api/jwt/settings", json=allowed))
    settings = Settings(
        label_studio=str(studio.base_url).rstrip("/"),
        # Label Studio sends a legacy token of itself.
        label_studio_token=personal_token(studio) if token == "personal" else "",
        labels=Selection(top=6),
    )
    files = {f"{name}.png": png(make_photo(seed=seed)) for seed, name in enumerate("ab")}
    with running(create_app(Photos(proposer), settings)) as backend:
        project, model = connected_project(studio, CONFIG, files, backend)
        act_on_all(studio, project, "retrieve_tasks_predictions")
        tasks = made(studio.get("/api/tasks", params={"project": project}))["tasks"]
        assert len(tasks) == 2
        expected = proposer(make_photo(seed=0))[:6]
        for task in tasks:
            predictions = made(studio.get("/api/predictions", params={"task": task["id"]}))
            (prediction,) = predictions
            assert "sharpmask" in prediction["model_version"]
            assert len(prediction["result"]) == 6
            seed = 0 if task["data"]["image"].endswith("a.png") else 1
            if seed == 0:
                for region, mask in zip(prediction["result"], expected.masks(), strict=True):
                    np.testing.assert_array_equal(
                        brush_of(region["value"]["rle"], (240, 320)), mask
                    )
                first, chosen = task["id"], prediction["result"][:3]

        (top, left, _), (other_top, other_left, side) = SQUARES
        point = {
            "type": "keypointlabels", "from_name": "point", "to_name": "image", "id": "p",
            "original_width": 320, "original_height": 240, "image_rotation": 0,
            "value": {
                "x": (left + 20) / 3.2, "y": (top + 30) / 2.4, "width": 0.5,
                "keypointlabels": ["object"],
            },
        }  # fmt: skip
        box = {
            "type": "rectanglelabels", "from_name": "box", "to_name": "image", "id": "r",
            "original_width": 320, "original_height": 240, "image_rotation": 0,
            "value": {
                "x": other_left / 3.2, "y": other_top / 2.4, "width": side / 3.2,
                "height": side / 2.4, "rotation": 0, "rectanglelabels": ["object"],
            },
        }  # fmt: skip
        ids = {region["id"] for region in prediction["result"]}
        for mark, truth in ((point, SQUARES[0]), (box, SQUARES[1])):
            answer = made(
                studio.post(
                    f"/api/ml/{model}/interactive-annotating",
                    json={"task": first, "context": {"result": [mark]}},
                )
            )
            (region,) = answer["data"]["result"]
            assert iou(brush_of(region["value"]["rle"], (240, 320)), square(*truth)) > 0.9
            assert region["id"] not in ids  # else it would take the other one's place
            ids.add(region["id"])

        made(studio.post(f"/api/tasks/{first}/annotations", json={"result": chosen}))
        exported = made(
            studio.get(f"/api/projects/{project}/export", params={"exportType": "JSON"})
        )
        (task,) = [each for each in exported if each["id"] == first]
        regions = task["annotations"][0]["result"]
        assert len(regions) == 3
        for region, mask in zip(regions, expected.masks(), strict=False):
            np.testing.assert_array_equal(brush_of(region["value"]["rle"], (240, 320)), mask)
        files = exported_files(studio, project, "BRUSH_TO_COCO")
        assert_holds(json.loads(files["result_coco.json"]), [*expected.masks()][:3])


def test_polygons_are_exported_as_coco_and_yolo(studio, proposer):
    made(studio.post("/api/jwt/settings", json=dict.fromkeys(TOKENS, True)))
    settings = Settings(label_studio=str(studio.base_url).rstrip("/"), labels=Selection(top=6))
    config = CONFIG.replace("BrushLabels", "PolygonLabels")
    config = re.sub("<KeyPointLabels.*</KeyPointLabels>", "", config, flags=re.DOTALL)
    with running(create_app(Photos(proposer), settings)) as backend:
        project, _ = connected_project(studio, config, {"a.png": png(make_photo())}, backend)
        for action in ("retrieve_tasks_predictions", "predictions_to_annotations"):
            act_on_all(studio, project, action)
    files = exported_files(studio, project, "COCO")
    assert_holds(json.loads(files["result.json"]), [*proposer(make_photo())[:6].masks()])
    files = exported_files(studio, project, "YOLO")
    (labels,) = (text for name, text in files.items() if name.startswith("labels/") and text)
    assert len(labels.splitlines()) == 6


def exported_files(studio, project, kind):
    """Contents of an export's archive by their names."""
    answer = studio.get(f"/api/projects/{project}/export", params={"exportType": kind})
    assert answer.status_code == 200, answer.text[:2000]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def assert_holds(coco, masks):
    """Each mask is an annotation, by a polygon of its outline, and there are no others."""
    found = []
    for annotation in coco["annotations"]:
        rings = (np.reshape(ring, (-1, 2))[:, ::-1] for ring in annotation["segmentation"])
        found.append(np.any([polygon2mask((240, 320), ring) for ring in rings], axis=0))
    assert len(found) == len(masks)
    assert {category["name"] for category in coco["categories"]} == {"object"}
    for mask in masks:
        assert max(iou(mask, other) for other in found) > 0.9
