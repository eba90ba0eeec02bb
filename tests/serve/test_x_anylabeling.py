import base64

import numpy as np
import pytest
from PIL import Image, ImageDraw
from starlette.testclient import TestClient

from serve.conftest import SQUARES, make_photo, png, square

URI = "data:image/png;base64," + base64.b64encode(png(make_photo())).decode()


@pytest.fixture
def client(app):
    return TestClient(app, base_url="http://localhost")


def predict(client, **params):
    question = {"model": "sharpmask", "image": URI, "params": params}
    answer = client.post("/v1/predict", json=question)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["shapes"]


def filled(shape):
    picture = Image.new("1", (320, 240))
    ImageDraw.Draw(picture).polygon([tuple(point) for point in shape["points"]], fill=1)
    return np.asarray(picture)


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def test_a_run_gives_polygons_above_the_threshold(client, proposer):
    scores = proposer(make_photo()).scores
    threshold = float(scores[4])
    shapes = predict(client, conf_threshold=threshold, iou_threshold=0.0)
    assert [shape["score"] for shape in shapes] == pytest.approx(scores[scores >= threshold])
    assert {shape["shape_type"] for shape in shapes} == {"polygon"}
    for truth in SQUARES:
        assert max(iou(filled(shape), square(*truth)) for shape in shapes) > 0.85
    assert all(shape["points"][0] == shape["points"][-1] for shape in shapes)


def test_points_and_rectangles_give_one_object_to_be_named(client):
    (top, left, _), other = SQUARES
    box = [other[1] + other[2], other[0] + other[2], other[1], other[0]]  # from the lower right
    for marks, truth in (
        ([{"type": "point", "data": [left + 20, top + 40], "label": 1}], SQUARES[0]),
        ([{"type": "rectangle", "data": box, "label": 1}], SQUARES[1]),
    ):
        (shape,) = predict(client, marks=marks)
        assert shape["label"] == "AUTOLABEL_OBJECT"
        assert iou(filled(shape), square(*truth)) > 0.85


def test_the_model_names_its_controls(client):
    (model,) = client.get("/v1/models").json()["data"].values()
    assert {"button_run", "button_add_point", "button_add_rect"} <= {
        widget["name"] for widget in model["widgets"]
    }


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "expected image"),
        ({"image": URI, "params": {"marks": [{"type": "point", "data": [1]}]}}, "data: expected 2"),
        ({"image": URI, "params": {"marks": [{"type": "point"}]}}, "marks: expected data"),
        ({"image": URI, "params": {"marks": [{"type": "point", "data": [1, 1], "label": 0}]}},
         "expected a point on the object"),
        ({"image": URI, "params": {"conf_threshold": "high"}}, "conf_threshold: expected a number"),
    ],
)  # fmt: skip
def test_a_bad_question_is_told_what_is_wrong(client, question, message):
    answer = client.post("/v1/predict", json=question)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
