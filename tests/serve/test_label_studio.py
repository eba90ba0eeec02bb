import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from starlette.testclient import TestClient

from serve.conftest import SQUARES, make_photo, png, square
from sharpmask.selection import Selection
from sharpmask.serve.app import create_app
from sharpmask.serve.label_studio import Interface
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings
from writers.test_labelstudio import brush_of

PHOTO = png(make_photo())
BRUSH = """<View><Image name="img" value="$photo"/>
<BrushLabels name="mask" toName="img"><Label value="thing"/></BrushLabels>
<KeyPointLabels name="point" toName="img" smart="true"><Label value="cup"/></KeyPointLabels>
<RectangleLabels name="box" toName="img" smart="true"><Label value="dog"/></RectangleLabels>
</View>"""
POLYGON = BRUSH.replace("BrushLabels", "PolygonLabels")
RECTANGLE = """<View><Image name="img" value="$photo"/>
<RectangleLabels name="box" toName="img"><Label value="dog"/></RectangleLabels></View>"""


@pytest.fixture(scope="module")
def host():
    """A web server in Label Studio's place: it hands out photos to who knows its token."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            allowed = self.headers.get("Authorization") in ("Token known", "Bearer short")
            if self.path == "/data/away":
                self.send_response(302)
                self.send_header("Location", "http://localhost:1/elsewhere")
            else:
                self.send_response(200 if allowed else 401)
            self.end_headers()
            if allowed:
                self.wfile.write(b"x" * 40_000_000 if self.path == "/data/huge" else PHOTO)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"access": "short"}')

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.seen = seen
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    server.server_close()


def client_of(proposer, address, token="known", **options):
    settings = Settings(label_studio=address, label_studio_token=token, **options)
    return TestClient(create_app(Photos(proposer), settings), base_url="http://localhost")


@pytest.fixture
def client(proposer, host):
    return client_of(proposer, host.address)


def predict(client, tasks, config=BRUSH, marks=None):
    context = {"result": marks} if marks else None
    question = {"tasks": tasks, "label_config": config, "params": {"context": context}}
    answer = client.post("/predict", json=question)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


TASK = {"id": 1, "data": {"photo": "/data/upload/1/a.png"}}


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def test_brushes_of_all_masks_decode_to_them(client, proposer):
    (result,) = predict(client, [TASK])
    masks = [brush_of(region["value"]["rle"], (240, 320)) for region in result["result"]]
    expected = proposer(make_photo())
    assert len(masks) == len(expected)
    for mask, other in zip(masks, expected.masks(), strict=True):
        np.testing.assert_array_equal(mask, other)
    for region in result["result"]:
        assert (region["from_name"], region["to_name"]) == ("mask", "img")
        assert region["value"]["brushlabels"] == ["thing"]
        assert (region["original_width"], region["original_height"]) == (320, 240)
    assert len({region["id"] for region in result["result"]}) == len(masks)
    assert result["score"] == pytest.approx(expected.scores.mean())


def test_the_labelling_interface_decides_between_brush_polygon_and_rectangle(client, proposer):
    (polygons,) = predict(client, [TASK], POLYGON)
    (rectangles,) = predict(client, [TASK], RECTANGLE)
    expected = proposer(make_photo())
    for polygon, rectangle, box, ring in zip(
        polygons["result"], rectangles["result"], expected.boxes, expected.polygons(), strict=True
    ):
        assert polygon["type"] == "polygonlabels"
        np.testing.assert_allclose(
            np.array(polygon["value"]["points"]) * [3.2, 2.4], ring[0], atol=1e-9
        )
        sides = [rectangle["value"][key] for key in ("x", "y", "width", "height")]
        x, y, width, height = np.array(sides) * [3.2, 2.4, 3.2, 2.4]
        np.testing.assert_allclose([x, y, x + width, y + height], box, atol=1e-9)


def test_a_key_point_and_a_rectangle_are_answered_by_one_mask(client):
    (top, left, _), (other_top, other_left, other_side) = SQUARES
    point = {
        "type": "keypointlabels",
        "value": {
            "x": (left + 20) / 3.2, "y": (top + 40) / 2.4, "width": 0.5, "keypointlabels": ["cup"],
        },
    }  # fmt: skip
    box = {
        "type": "rectanglelabels",
        "value": {
            "x": other_left / 3.2, "y": other_top / 2.4, "width": other_side / 3.2,
            "height": other_side / 2.4, "rectanglelabels": ["dog"],
        },
    }  # fmt: skip
    for mark, truth, label in ((point, SQUARES[0], "cup"), (box, SQUARES[1], "dog")):
        (result,) = predict(client, [TASK], marks=[mark])
        (region,) = result["result"]
        assert region["value"]["brushlabels"] == [label]
        assert iou(brush_of(region["value"]["rle"], (240, 320)), square(*truth)) > 0.9


def test_no_region_takes_the_place_of_another_one(client):
    """Label Studio replaces a region by one with the same id: a click would cost a mask."""
    (top, left, _), _ = SQUARES
    click = {"type": "keypointlabels", "value": {"x": (left + 20) / 3.2, "y": (top + 20) / 2.4}}
    answers = [predict(client, [TASK], marks=marks) for marks in (None, [click], [click])]
    ids = [region["id"] for (result,) in answers for region in result["result"]]
    assert len(ids) == len(set(ids)) > 2


def test_a_negative_key_point_is_in_no_answer(client):
    (top, left, _), _ = SQUARES
    marks = [
        {"type": "keypointlabels", "value": {"x": (left + 20) / 3.2, "y": (top + 20) / 2.4}},
        {
            "type": "keypointlabels",
            "is_positive": 0,
            "value": {"x": (left + 25) / 3.2, "y": (top + 25) / 2.4},
        },
    ]
    (result,) = predict(client, [TASK], marks=marks)
    for region in result["result"]:
        assert not brush_of(region["value"]["rle"], (240, 320))[top + 25, left + 25]


def test_a_task_that_cannot_be_read_costs_itself_alone(client):
    tasks = [
        {"id": 1, "data": {"photo": "data:image/png;base64,QUJD"}},
        {"id": 2, "data": {}},
        {"id": 3},
        "four",
        TASK,
    ]
    results = predict(client, tasks)
    assert [bool(result["result"]) for result in results] == [False] * 4 + [True]


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/a.png",
        "https://{host}/data/upload/1/a.png",
        "file:///etc/hostname",
        "//evil.example/a.png",
        "http://{host}@evil.example/a.png",
        "/data/away",
        "/data/huge",
        "ftp://{host}/a",
    ],
)
def test_photos_come_from_label_studio_alone(client, host, address):
    before = len(host.seen)
    task = {"data": {"photo": address.format(host=host.address.removeprefix("http://"))}}
    (result,) = predict(client, [task])
    assert result["result"] == []
    assert len(host.seen) - before == address.startswith("/data")


def test_without_label_studios_address_only_data_uris_are_read(proposer, host):
    client = client_of(proposer, "")
    uri = "data:image/png;base64," + base64.b64encode(PHOTO).decode()
    results = predict(client, [{"data": {"photo": host.address}}, {"data": {"photo": uri}}])
    assert [bool(result["result"]) for result in results] == [False, True]


def test_the_token_that_label_studio_sends_opens_its_photos(proposer, host):
    client = client_of(proposer, host.address, token="")
    assert predict(client, [TASK])[0]["result"] == []
    for hostname, token in (("http://evil.example", "known"), (host.address, "known")):
        setup = {"project": "1.1", "schema": BRUSH, "hostname": hostname, "access_token": token}
        assert "sharpmask" in client.post("/setup", json=setup).json()["model_version"]
        assert bool(predict(client, [TASK])[0]["result"]) == (hostname == host.address)


def test_a_personal_access_token_is_exchanged(proposer, host):
    client = client_of(proposer, host.address, token="a.b.c")
    assert predict(client, [TASK])[0]["result"]
    assert ("/api/token/refresh", {"refresh": "a.b.c"}) in host.seen
    assert host.seen[-1] == ("/data/upload/1/a.png", "Bearer short")


def test_a_token_that_is_refused_is_told_with_the_remedy(proposer, host, caplog):
    client = client_of(proposer, host.address, token="unknown")
    assert predict(client, [{**TASK, "id": 5}])[0]["result"] == []
    assert "task 5: " in caplog.text
    assert "--label-studio-token" in caplog.text


def test_only_the_wanted_masks_come(proposer, host):
    client = client_of(proposer, host.address, labels=Selection(top=2))
    assert len(predict(client, [TASK])[0]["result"]) == 2


def test_a_webhook_is_answered(client):
    assert client.post("/webhook", json={"action": "PROJECT_UPDATED"}).status_code == 200


@pytest.mark.parametrize(
    "question",
    [{}, {"tasks": 1, "label_config": BRUSH}, {"tasks": [], "label_config": "<View"},
     {"tasks": [], "label_config": "<View><Image name='a'/></View>"},
     {"tasks": [], "label_config": BRUSH, "params": [1]}],
)  # fmt: skip
def test_what_label_studio_would_not_send_is_refused(client, question):
    assert client.post("/predict", json=question).status_code == 400


def test_the_first_control_of_the_best_kind_is_taken():
    interface = Interface.of(RECTANGLE.replace("</View>", "") + BRUSH.partition("\n")[2])
    assert interface == Interface("mask", "brushlabels", "img", "photo", "thing")
