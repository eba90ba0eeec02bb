"""CVAT's own command, agent, mapper and mask codec, against a stand-in for its server."""

import io
import json
import os
import subprocess
import sys
import zipfile
from itertools import chain

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reference.thin_models import pyramid_file
from serve.conftest import running
from sharpmask.inference.proposer import Proposer

pytest.importorskip("cvat_cli", reason="cvat-cli is not installed")
from cvat_sdk.masks import decode_mask

pytestmark = pytest.mark.real  # another program

RNG = np.random.default_rng(0)
SIZES = ((96, 128), (80, 64))
PHOTOS = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
TASK, LABEL, FUNCTION = 7, 77, 3
DATE = "2026-01-01T00:00:00Z"


class Cvat:
    """What of CVAT's REST the command asks for: one task of two photos, and a queue of requests.

    Attributes:
        uploaded: Bodies of annotations, with the query that they came by.
        asked: Parameters of requests that agents are to answer.
        answers: Of agents, by their number.
    """

    def __init__(self, kind):
        self.kind = kind
        self.uploaded, self.asked, self.answers = [], [], {}
        task, queue = f"/api/tasks/{TASK}", f"/api/functions/queues/function:{FUNCTION}/requests"
        self.app = Starlette(
            routes=[
                Route("/api/server/about", self.about),
                Route(task, self.task),
                Route("/api/labels", self.labels),
                Route(f"{task}/data/meta", self.meta),
                Route(f"{task}/data", self.data),
                Route(f"{task}/annotations", self.annotations, methods=["PATCH", "PUT"]),
                Route(f"{task}/annotations/", self.annotations, methods=["PATCH", "PUT"]),
                Route(f"/api/functions/{FUNCTION}", self.function),
                Route(f"{queue}/acquire", self.acquire, methods=["POST"]),
                Route(f"{queue}/{{number:int}}/complete", self.complete, methods=["POST"]),
                Route(f"{queue}/{{number:int}}/fail", self.complete, methods=["POST"]),
            ]
        )

    async def about(self, request):
        text = dict.fromkeys(("name", "description", "logo_url", "subtitle"), "")
        return JSONResponse({**text, "version": "2.80.0"})

    async def task(self, request):
        return JSONResponse(
            {
                "id": TASK, "name": "a", "size": len(PHOTOS), "data_chunk_size": 10,
                "data_original_chunk_type": "imageset", "organization": None, "updated_date": DATE,
                "jobs": {"count": 1, "completed": 0, "validation": 0, "url": ""},
                "labels": {"url": ""},
            }
        )  # fmt: skip

    async def labels(self, request):
        assert request.query_params["task_id"] == str(TASK)
        label = {"id": LABEL, "name": "thing", "type": self.kind, "attributes": [], "sublabels": []}
        return JSONResponse({"count": 1, "next": None, "previous": None, "results": [label]})

    async def meta(self, request):
        frames = [
            {"name": f"{k}.png", "width": width, "height": height, "related_files": 0}
            for k, (height, width) in enumerate(SIZES)
        ]
        content = {"frames": frames, "deleted_frames": [], "chunks_updated_date": DATE}
        return JSONResponse(content)

    async def data(self, request):
        assert request.query_params["quality"] == "original"
        files = [io.BytesIO() for _ in PHOTOS]
        for photo, file in zip(PHOTOS, files, strict=True):
            Image.fromarray(photo).save(file, "PNG")
        if request.query_params["type"] == "frame":
            return Response(files[int(request.query_params["number"])].getvalue())
        chunk = io.BytesIO()
        with zipfile.ZipFile(chunk, "w") as archive:
            for number, file in enumerate(files):
                archive.writestr(f"{number:06}.png", file.getvalue())
        return Response(chunk.getvalue())

    async def annotations(self, request):
        content = await request.json()
        self.uploaded.append((dict(request.query_params), content))
        return JSONResponse({"version": 1, "tags": [], "shapes": [], "tracks": []})

    async def function(self, request):
        return JSONResponse(
            {
                "id": FUNCTION, "provider": "native", "kind": "interactor", "min_pos_points": 0,
                "min_neg_points": 0, "startswith_box": False, "startswith_box_optional": True,
            }
        )  # fmt: skip

    async def acquire(self, request):
        content = await request.json()
        number = len(self.answers)
        if content["request_category"] != "interactive" or number == len(self.asked):
            return JSONResponse({"ar_assignment": None})
        assignment = {"ar_id": str(number), "ar_params": self.asked[number]}
        return JSONResponse({"ar_assignment": assignment})

    async def complete(self, request):
        self.answers[request.path_params["number"]] = await request.json()
        return JSONResponse({})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return pyramid_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def proposer(weights):
    return Proposer(weights, engine="torch", mask_threshold=0.2)


def run_command(cvat, weights, folder, *arguments):
    options = [f"weights=str:{weights}", "engine=str:torch", "mask_threshold=float:0.2"]
    with running(cvat.app) as address:
        command = [sys.executable, "-m", "cvat_cli", "--server-host", address, *arguments]
        command += ["--function-module", "sharpmask.integrations.cvat"]
        ran = subprocess.run(
            [*command, *(part for option in options for part in ("-p", option))],
            capture_output=True, text=True, check=False, timeout=300,
            env=os.environ | {"CVAT_ACCESS_TOKEN": "t", "XDG_CACHE_HOME": str(folder)},
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


@pytest.mark.parametrize("kind", ["mask", "polygon"])
def test_a_task_is_annotated_by_the_command_with_pythons_masks(weights, proposer, tmp_path, kind):
    cvat = Cvat(kind)
    options = ["-p", "top=int:5", "-p", "label=str:thing", "--clear-existing"]
    if kind == "polygon":
        options.append("--conv-mask-to-poly")
    run_command(cvat, weights, tmp_path, "task", "auto-annotate", str(TASK), *options)
    ((_, content),) = cvat.uploaded
    for number, ((height, width), photo) in enumerate(zip(SIZES, PHOTOS, strict=True)):
        shapes = [each for each in content["shapes"] if each["frame"] == number]
        expected = proposer(photo)[:5]
        assert len(shapes) == len(expected) > 0
        for shape, mine in zip(shapes, expected, strict=True):
            assert (shape["type"], shape["label_id"]) == (kind, LABEL)
            if kind == "polygon":
                ring = np.reshape(shape["points"], (-1, 2))
                np.testing.assert_allclose(ring, mine.polygon, atol=1e-6)
            else:
                found = decode_mask(shape["points"], image_width=width, image_height=height)
                np.testing.assert_array_equal(found, mine.mask)


def test_an_agent_answers_points_and_boxes_with_pythons_masks(weights, proposer, tmp_path):
    cvat = Cvat("mask")
    read = proposer.read(PHOTOS[0])
    height, width = SIZES[0]
    truth = proposer(PHOTOS[0])[0]
    row, column = np.argwhere(truth.mask)[truth.area // 2].tolist()
    box = truth.box.tolist()
    prompts = [
        ([[column, row]], [], []),
        ([[column, row]], [[1, 1]], []),
        ([], [], [box[:2], box[2:]]),
    ]
    asked = {"type": "interact", "task": TASK, "frame": 0}
    cvat.asked = [
        {**asked, "pos_points": points, "neg_points": without, "obj_bbox": corners}
        for points, without, corners in prompts
    ]
    agent = ["function", "run-agent", str(FUNCTION), "--burst", "-p", "kind=str:interaction"]
    log = run_command(cvat, weights, tmp_path, *agent)
    assert len(cvat.answers) == len(prompts), log
    for number, (points, without, corners) in enumerate(prompts):
        expected = read.best(points, without, [*chain(*corners)] or None)
        shapes = cvat.answers[number].get("shapes")
        assert shapes is not None, json.dumps(cvat.answers[number]) + log
        assert len(shapes) == len(expected)
        for shape, mine in zip(shapes, expected, strict=True):
            assert shape["type"] == "mask"
            found = decode_mask(shape["points"], image_width=width, image_height=height)
            np.testing.assert_array_equal(found, mine.mask)
    assert sum(len(answer["shapes"]) for answer in cvat.answers.values()) >= 2
