import base64
import json
import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import httpx
import numpy as np
import pytest
from pycocotools.coco import COCO
from starlette.testclient import TestClient

from reference.bright_pyramid import BrightPyramid
from serve.conftest import SQUARES, head_of, make_photo, png, running, square
from sharpmask.detection.detector import Detector
from sharpmask.inference.proposer import Proposer
from sharpmask.serve.app import create_app
from sharpmask.serve.remembered import REMEMBERED, Photos
from sharpmask.serve.settings import Limits, Settings

# pycocotools and numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

PHOTO = png(make_photo())
SMALL = png(make_photo((20, 20, 25), height=64, width=64))
URI = "data:image/png;base64," + base64.b64encode(PHOTO).decode()


def client_of(app, **options):
    return TestClient(app, base_url="http://localhost", **options)


@pytest.fixture
def client(app):
    with client_of(app) as client:
        yield client


def propose(client, data=PHOTO, fields=None, **options):
    return client.post("/v1/propose", files={"image": ("a.png", data)}, data=fields, **options)


def masks_of(answer, tmp_path):
    """As pycocotools reads them."""
    path = tmp_path / "answer.json"
    path.write_text(answer.text)
    coco = COCO(str(path))
    return [coco.annToMask(each).astype(bool) for each in coco.loadAnns(coco.getAnnIds())]


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def test_objects_of_a_photo_come_as_coco(client, tmp_path, proposer):
    answer = propose(client)
    assert answer.status_code == 200
    content = answer.json()
    assert content["images"] == [{"id": 1, "file_name": "a.png", "width": 320, "height": 240}]
    masks = masks_of(answer, tmp_path)
    for truth in SQUARES:
        assert max(iou(mask, square(*truth)) for mask in masks) > 0.9
    expected = proposer(make_photo())
    assert [each["segmentation"] for each in content["annotations"]] == expected.rles()
    np.testing.assert_allclose([each["score"] for each in content["annotations"]], expected.scores)
    assert [each["area"] for each in content["annotations"]] == [mask.sum() for mask in masks]


def test_a_data_uri_is_answered_as_a_file_is(client):
    by_file = propose(client).json()
    for image in (URI, URI.partition(",")[2]):
        by_text = client.post("/v1/propose", json={"image": image}).json()
        assert by_text["annotations"] == by_file["annotations"]
        assert by_text["photo"] == by_file["photo"]


@pytest.mark.parametrize(("as_form", "count"), [(True, 3), (False, 3), (True, 20)])
def test_no_more_masks_come_than_are_asked_for(client, as_form, count):
    fields = {"count": count, "min_score": 0.1}
    if as_form:
        answer = propose(client, fields={key: json.dumps(value) for key, value in fields.items()})
    else:
        answer = client.post("/v1/propose", json={"image": URI, **fields})
    scores = [each["score"] for each in answer.json()["annotations"]]
    assert 0 < len(scores) <= count
    assert min(scores) >= 0.1


def test_without_overlap_each_pixel_has_one_owner(client, tmp_path):
    answer = propose(client, fields={"no_overlap": "true"})
    assert sum(mask.astype(int) for mask in masks_of(answer, tmp_path)).max() == 1
    assert sum(mask.astype(int) for mask in masks_of(propose(client), tmp_path)).max() > 1


def test_named_objects_come_with_their_categories(tmp_path):
    proposer = Proposer(BrightPyramid(), num_proposals=20)
    detector = Detector(head_of(proposer.engine), proposer)
    client = client_of(create_app(Photos(proposer, detector=detector), Settings(names=True)))
    answer = client.post("/v1/detect", files={"image": ("a.png", PHOTO)})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(7, "lamp"), ("x", "dark")]
    expected = detector(make_photo())
    assert len(expected)
    assert [each["segmentation"] for each in content["annotations"]] == expected.rles()
    assert {each["category_id"] for each in content["annotations"]} == {7}
    fields = {"count": "1", "min_score": "0.1"}
    one = client.post("/v1/detect", files={"image": ("a.png", PHOTO)}, data=fields).json()
    assert one["annotations"] == content["annotations"][:1]
    # A remembered photo may be asked on, as any.
    point = {"photo": content["photo"], "point": [60, 50]}
    assert client.post("/v1/prompt", json=point).status_code == 200
    assert "/v1/detect" in client.get("/openapi.json").json()["paths"]


def test_a_server_without_a_detector_says_so(client):
    answer = client.post("/v1/detect", files={"image": ("a.png", PHOTO)})
    assert answer.status_code == 404
    assert "the server has no detector; start it with --detector" in answer.json()["error"]
    assert "/v1/detect" not in client.get("/openapi.json").json()["paths"]


def test_a_remembered_photo_answers_points_and_boxes(client, tmp_path):
    photo = propose(client).json()["photo"]
    (top, left, _), (other_top, other_left, other_side) = SQUARES
    point = [left + 20, top + 40]
    box = [other_left, other_top, other_left + other_side, other_top + other_side]
    for question, truth in (({"point": point}, SQUARES[0]), ({"box": box}, SQUARES[1])):
        answer = client.post("/v1/prompt", json={"photo": photo, **question})
        assert answer.status_code == 200, answer.text
        masks = masks_of(answer, tmp_path)
        assert iou(masks[0], square(*truth)) > 0.9
        form = {key: json.dumps(value) for key, value in question.items()}
        again = client.post("/v1/prompt", files={"image": ("a.png", PHOTO)}, data=form)
        assert again.json()["annotations"] == answer.json()["annotations"]


def test_a_box_without_an_object_has_no_mask(client):
    box = [10.2, 12.2, 10.3, 12.3]  # between the middles of pixels
    answer = client.post("/v1/prompt", json={"image": URI, "box": box})
    assert answer.status_code == 200
    assert answer.json()["annotations"] == []


def test_a_form_gives_a_list_as_one_part_or_as_several(client):
    files = [("image", ("a.png", SMALL))]
    answers = [
        client.post("/v1/prompt", files=files, data={"box": box}).json()
        for box in ("[10, 12, 50, 50]", ["10", "12", "50", "50"])
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]["annotations"]) == 1
    twice = client.post("/v1/propose", files=files, data={"no_overlap": ["true", "true"]})
    assert twice.status_code == 400
    assert "no_overlap: expected true or false" in twice.json()["error"]


def test_a_server_that_was_ended_starts_again(app):
    for _ in range(2):
        with client_of(app) as client:
            assert propose(client, SMALL).status_code == 200


def test_only_the_last_photos_are_remembered(client):
    photos = [png(make_photo(height=64, width=64, seed=seed)) for seed in range(REMEMBERED + 1)]
    ids = [propose(client, photo).json()["photo"] for photo in photos]
    assert len(set(ids)) == len(ids)
    answers = [
        client.post("/v1/prompt", json={"photo": each, "point": [5, 5]}).status_code for each in ids
    ]
    assert answers == [404] + [200] * REMEMBERED


@pytest.mark.parametrize(
    ("path", "question", "status", "message"),
    [
        ("/v1/propose", {}, 400, "image: is missing"),
        ("/v1/propose", {"image": 5}, 400, "image: expected a text, got 5"),
        ("/v1/propose", {"image": "data:text/plain,abc"}, 400, "image: expected data:image"),
        ("/v1/propose", {"image": "!!!"}, 400, "image: is not base64"),
        ("/v1/propose", {"image": "QUJD"}, 400, "is not a JPEG, PNG"),
        ("/v1/propose", {"image": URI[:-400]}, 400, "image: cannot be decoded"),
        ("/v1/propose", {"image": URI, "count": 0}, 400, "count: expected 1 to 100, got 0"),
        ("/v1/propose", {"image": URI, "count": 101}, 400, "count: expected 1 to 100"),
        ("/v1/propose", {"image": URI, "count": 1.5}, 400, "count: expected a whole number"),
        ("/v1/propose", {"image": URI, "count": True}, 400, "count: expected a number"),
        ("/v1/propose", {"image": URI, "min_score": 2}, 400, "min_score: expected 0 to 1"),
        ("/v1/propose", {"image": URI, "no_overlap": 1}, 400, "no_overlap: expected true"),
        ("/v1/propose", {"image": URI, "path": "/etc/passwd"}, 400, "path: unknown; there are"),
        ("/v1/prompt", {"image": URI}, 400, "give either point"),
        ("/v1/prompt", {"image": URI, "point": [1, 1], "box": [1, 1, 2, 2]}, 400, "give either"),
        ("/v1/prompt", {"image": URI, "point": [1]}, 400, "point: expected 2 numbers, got [1]"),
        ("/v1/prompt", {"image": URI, "point": [1, 1e999]}, 400, "Infinity is not JSON"),
        ("/v1/prompt", {"image": URI, "point": [1, 10**400]}, 400, "point: expected 2 numbers"),
        ("/v1/prompt", {"image": URI, "point": [-1, 1]}, 400, "expected a point on the photo"),
        ("/v1/prompt", {"image": URI, "box": [5, 5, 5, 9]}, 400, "box: expected x0, y0"),
        ("/v1/prompt", {"point": [1, 1]}, 400, "give either image, or photo"),
        ("/v1/prompt", {"point": [1, 1], "photo": "0" * 32}, 404, "not remembered any more"),
    ],
)
def test_a_bad_question_is_told_what_is_wrong(client, path, question, status, message):
    answer = client.post(
        path, content=json.dumps(question), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert client.get("/health").json()["status"] == "UP"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"x", "text/plain", 415),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=a", 400),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(client, content, kind, status):
    answer = client.post("/v1/propose", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_photo_with_too_many_pixels_is_refused(proposer):
    app = create_app(Photos(proposer, Limits(max_pixels=240 * 320 - 1)))
    answer = propose(client_of(app))
    assert answer.status_code == 400
    assert "more than the 76,799 allowed" in answer.json()["error"]


def test_what_is_not_an_address_of_the_server_is_not_found(client):
    paths = ("/etc/passwd", "/../app.py", "/%2e%2e/app.py", "/..%2f..%2fapp.py", "//etc/passwd")
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "root:" not in answer.text
    assert client.get("/v1/propose").status_code == 405


def test_the_error_of_one_photo_is_not_the_servers():
    class Failing(BrightPyramid):
        def encode(self, image):
            if image[0, 0, 0] == 77:
                raise RuntimeError("secret")
            return super().encode(image)

    app = create_app(Photos(Proposer(Failing(), num_proposals=5)), Settings())
    bad = make_photo()
    bad[:20, :20] = 77
    client = client_of(app, raise_server_exceptions=False)
    answer = propose(client, png(bad))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert propose(client).status_code == 200


def test_a_token_opens_what_is_closed(proposer):
    client = client_of(create_app(Photos(proposer), Settings(token="a secret")))
    assert client.get("/health").status_code == 200
    assert client.get("/config.json").json()["token"] is True
    answer = propose(client)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/models").status_code == 401
    assert client.post("/predict", json={}).status_code == 401
    basic = base64.b64encode(b"anybody:a secret").decode()
    for header in (
        {"Authorization": "Bearer a secret"},
        {"Authorization": "Token a secret"},
        {"Authorization": f"Basic {basic}"},
        {"Token": "a secret"},
    ):
        assert propose(client, SMALL, headers=header).status_code == 200, header
    for header in (
        {"Authorization": "Bearer another"},
        {"Authorization": "Basic ###"},
        {"Authorization": "Bearer"},
        {"Token": ""},
        {"Token": "a secre"},
    ):
        assert propose(client, SMALL, headers=header).status_code == 401, header


def test_another_name_of_this_machine_is_refused(app):
    """A page whose name is turned to 127.0.0.1 (DNS rebinding) gets nothing."""
    client = TestClient(app, base_url="http://rebound.example")
    assert client.get("/health").status_code == 400
    assert propose(client).status_code == 400


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("origins", [(), ("http://labels.example",)])
def test_other_origins_are_told_to_go_unless_named(proposer, origins, slash):
    named = [origin + slash for origin in origins]  # as an address bar shows it
    client = client_of(create_app(Photos(proposer), Settings(origins=named)))
    for origin in ("http://labels.example", "http://evil.example"):
        answer = propose(client, SMALL, headers={"Origin": origin})
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == (origin if origin in origins else None)


class Waiting(BrightPyramid):
    """Reads a photo when it is told to."""

    def __init__(self):
        self.go = threading.Event()

    def encode(self, image):
        assert self.go.wait(20)
        return super().encode(image)


def test_a_full_queue_sends_the_next_client_away_and_loses_none():
    engine = Waiting()
    app = create_app(Photos(Proposer(engine, num_proposals=5)), Settings(limits=Limits(queue=3)))
    with running(app) as address, httpx.Client(base_url=address, timeout=30) as client:

        def ask(_):
            answer = propose(client, SMALL)
            answers.put(answer)
            return answer.status_code

        answers = queue.Queue()
        with ThreadPoolExecutor(4) as threads:
            statuses = threads.map(ask, range(4))
            first = answers.get(timeout=20)  # the others wait
            assert first.status_code == 429
            assert first.headers["retry-after"] == "1"
            assert client.get("/health").status_code == 200
            engine.go.set()
            assert sorted(statuses) == [200, 200, 200, 429]
        assert propose(client, SMALL).status_code == 200


def test_an_answer_that_takes_too_long_is_not_waited_for():
    engine = Waiting()
    app = create_app(
        Photos(Proposer(engine, num_proposals=5)), Settings(limits=Limits(answer_s=0.1))
    )
    client = client_of(app)
    answer = propose(client)
    assert answer.status_code == 503
    assert "no answer within" in answer.json()["error"]
    engine.go.set()


def raw(address, head, body=b"", wait=5):
    """What a server answers to bytes, and how long it takes."""
    host, port = address.removeprefix("http://").split(":")
    start = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        lines = [b"POST /v1/propose HTTP/1.1", b"Host: localhost", *head, b"", b""]
        connection.sendall(b"\r\n".join(lines) + body)
        return connection.recv(65536).split(b"\r\n")[0], time.monotonic() - start


def test_a_body_that_is_only_announced_is_refused_at_once(proposer):
    with running(create_app(Photos(proposer), Settings())) as address:
        head = [b"Content-Type: application/json", b"Content-Length: 1000000000"]
        status, _ = raw(address, head)
        assert status.startswith(b"HTTP/1.1 413")


def test_a_body_that_grows_too_large_is_refused_on_the_way(proposer):
    with running(create_app(Photos(proposer), Settings(limits=Limits(max_bytes=1000)))) as address:
        head = [b"Content-Type: application/json", b"Transfer-Encoding: chunked"]
        status, _ = raw(address, head, b"400\r\n" + b"x" * 0x400 + b"\r\n")
        assert status.startswith(b"HTTP/1.1 413")
        assert httpx.get(f"{address}/health").status_code == 200


def test_a_body_that_comes_too_slowly_gives_its_place_back(proposer):
    limits = Limits(receive_s=0.2, queue=1)
    with running(create_app(Photos(proposer), Settings(limits=limits))) as address:
        head = [b"Content-Type: application/json", b"Content-Length: 100"]
        status, _ = raw(address, head, b"{")
        assert status.startswith(b"HTTP/1.1 408")
        with httpx.Client(base_url=address) as client:
            assert propose(client, SMALL).status_code == 200


def test_the_description_tells_the_servers_own_limits(proposer):
    client = client_of(
        create_app(Photos(proposer), Settings(limits=Limits(max_count=7), token="t"))
    )
    content = client.get("/openapi.json").json()
    assert content["info"]["version"] == version("sharpmask")
    schema = content["paths"]["/v1/propose"]["post"]["requestBody"]["content"]["application/json"]
    assert schema["schema"]["properties"]["count"]["maximum"] == 7
    assert content["security"] == [{"token": []}]
