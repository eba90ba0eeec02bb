"""Photos in a process of their own: the same answers, and a server that outlives that process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from reference.bright_pyramid import BrightPyramid
from serve.conftest import make_photo, png
from sharpmask.images import ImageError
from sharpmask.inference.proposer import Proposer
from sharpmask.selection import Selection
from sharpmask.serve.answers import all_objects
from sharpmask.serve.apart import NICENESS, PhotosApart, ProcessEndedError
from sharpmask.serve.app import create_app
from sharpmask.serve.remembered import Photos

pytestmark = pytest.mark.slow  # starts processes

DEADLY = make_photo()
DEADLY[:20, :20] = 77


class Mortal(BrightPyramid):
    """Ends its process at some photos, as the system does where memory is short."""

    def encode(self, image):
        if image[0, 0, 0] == 77:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(image)


def open_photos(num_proposals):
    proposer = Proposer(Mortal(), num_proposals=num_proposals, scales="0")
    return Photos(proposer)


def refuse():
    raise ImageError("a.bin: is not a model")


def process_id(_):
    return os.getpid()


def niceness(_):
    return os.nice(0)


@pytest.fixture(scope="module")
def apart():
    photos = PhotosApart(open_photos, 5)
    yield photos
    photos.close()


def test_answers_are_those_of_photos_here(apart):
    here = open_photos(5)
    assert apart.run(process_id) != os.getpid()
    question = all_objects, png(make_photo()), "a.png", Selection(top=3)
    assert apart.run(*question) == here.run(*question)


def test_errors_come_as_they_are(apart):
    with pytest.raises(ImageError, match="no photo: is not a JPEG"):
        apart.run(all_objects, b"no photo at all", "no photo", Selection())
    with pytest.raises(ImageError, match=r"a\.bin: is not a model"):
        PhotosApart(refuse)


@pytest.mark.skipif(not hasattr(os, "nice"), reason="a notion of POSIX")
def test_the_process_stands_back_for_the_one_that_answers(apart):
    assert apart.run(niceness) == min(os.nice(0) + NICENESS, 19)


def test_a_photo_that_ends_the_process_costs_itself_alone(apart):
    before = apart.run(process_id)
    client = TestClient(create_app(apart), base_url="http://localhost")
    ask = [client.post("/v1/propose", files={"image": ("a.png", png(DEADLY))})]
    ask.append(client.post("/v1/propose", files={"image": ("a.png", png(make_photo()))}))
    assert [answer.status_code for answer in ask] == [503, 200]
    assert "has ended" in ask[0].json()["error"]
    assert apart.run(process_id) != before
    os.kill(apart.run(process_id), signal.SIGKILL)
    with pytest.raises(ProcessEndedError):
        apart.run(process_id)
    assert apart.run(process_id)


def test_the_process_ends_with_its_parent_however_that_ends():
    program = (
        "import time; from serve.test_apart import PhotosApart, open_photos, process_id\n"
        "photos = PhotosApart(open_photos, 5); print(photos.run(process_id), flush=True)\n"
        "time.sleep(60)"
    )
    tests = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tests, stdout=subprocess.PIPE, text=True
    ) as parent:
        child = Path("/proc", parent.stdout.readline().strip())
        assert child.exists()
        parent.kill()
    end = time.monotonic() + 30
    while child.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not child.exists()
