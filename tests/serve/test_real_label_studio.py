"""A real Label Studio server, in a virtual environment of its own: LABEL_STUDIO names its command.

python -m venv ls && ls/bin/pip install label-studio
LABEL_STUDIO=ls/bin/label-studio pytest -m real tests/serve/test_real_label_studio.py
"""

import os
import shutil
import socket
import subprocess
import time

import httpx
import numpy as np
import pytest

from serve.conftest import SQUARES, make_photo, png, running, square
from sharpmask.selection import Selection
from sharpmask.serve.app import create_app
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings
from writers.test_labelstudio import brush_of

COMMAND = os.environ.get("LABEL_STUDIO") or shutil.which("label-studio")
TOKEN = "0123456789abcdef0123456789abcdef01234567"
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image"><Label value="thing"/></BrushLabels>
<KeyPointLabels name="point" toName="image" smart="true"><Label value="thing"/></KeyPointLabels>
<RectangleLabels name="box" toName="image" smart="true"><Label value="thing"/></RectangleLabels>
</View>"""

pytestmark = [
    pytest.mark.real,  # a minute until the server is up
    pytest.mark.skipif(not COMMAND, reason="Label Studio is not installed; LABEL_STUDIO names it"),
]


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory):
    """A client of a server with an empty database; its address is the client's."""
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = {
        "ML_BLOCK_LOCAL_IP": "false",  # a backend on this machine
        "SSRF_PROTECTION_ENABLED": "false",  # and its webhook
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_HOST": address,
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "PYTHONPATH": "",
    }
    command = [COMMAND, "start", "--no-browser", "--port", str(port), "--data-dir", str(folder)]
    command += ["--username", "a@example.com", "--password", "not-a-secret"]
    command += ["--user-token", TOKEN, "--enable-legacy-api-token"]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        command, env={**os.environ, **options}, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        headers = {"Authorization": f"Token {TOKEN}"}
        with httpx.Client(base_url=address, headers=headers, timeout=120) as client:
            end = time.monotonic() + 1800
            while True:
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                assert time.monotonic() < end, (folder / "log").read_text()[-3000:]
                time.sleep(2)
            yield client
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def made(answer, *statuses):
    assert answer.status_code in (statuses or (200, 201)), answer.text[:2000]
    return answer.json()


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def test_a_project_gets_predictions_a_click_is_answered_and_the_export_holds_our_masks(
    label_studio, proposer
):
    host = str(label_studio.base_url).rstrip("/")
    settings = Settings(label_studio=host, labels=Selection(top=6))
    with running(create_app(Photos(proposer), settings)) as backend:
        project = made(
            label_studio.post("/api/projects", json={"title": "masks", "label_config": CONFIG})
        )["id"]
        files = {f"{name}.png": (f"{name}.png", png(make_photo(seed=seed)), "image/png")
                 for seed, name in enumerate("ab")}  # fmt: skip
        made(label_studio.post(f"/api/projects/{project}/import", files=files))
        tasks = made(label_studio.get("/api/tasks", params={"project": project}))["tasks"]
        assert len(tasks) == 2

        connected = made(
            label_studio.post(
                "/api/ml",
                json={
                    "url": backend,
                    "project": project,
                    "title": "sharpmask",
                    "is_interactive": True,
                },
            )
        )  # fmt: skip
        assert connected["state"] == "CO", connected

        everything = {"selectedItems": {"all": True, "excluded": []}}
        made(
            label_studio.post(
                "/api/dm/actions",
                params={"id": "retrieve_tasks_predictions", "project": project},
                json=everything,
            )
        )
        expected = proposer(make_photo(seed=0))[:6]
        for task in tasks:
            predictions = made(label_studio.get("/api/predictions", params={"task": task["id"]}))
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
                "keypointlabels": ["thing"],
            },
        }  # fmt: skip
        box = {
            "type": "rectanglelabels", "from_name": "box", "to_name": "image", "id": "r",
            "original_width": 320, "original_height": 240, "image_rotation": 0,
            "value": {
                "x": other_left / 3.2, "y": other_top / 2.4, "width": side / 3.2,
                "height": side / 2.4, "rotation": 0, "rectanglelabels": ["thing"],
            },
        }  # fmt: skip
        for mark, truth in ((point, SQUARES[0]), (box, SQUARES[1])):
            answer = made(
                label_studio.post(
                    f"/api/ml/{connected['id']}/interactive-annotating",
                    json={"task": first, "context": {"result": [mark]}},
                )
            )
            (region,) = answer["data"]["result"]
            assert iou(brush_of(region["value"]["rle"], (240, 320)), square(*truth)) > 0.9

        made(label_studio.post(f"/api/tasks/{first}/annotations", json={"result": chosen}))
        exported = made(
            label_studio.get(f"/api/projects/{project}/export", params={"exportType": "JSON"})
        )
        (task,) = [each for each in exported if each["id"] == first]
        regions = task["annotations"][0]["result"]
        assert len(regions) == 3
        for region, mask in zip(regions, expected.masks(), strict=False):
            np.testing.assert_array_equal(brush_of(region["value"]["rle"], (240, 320)), mask)
