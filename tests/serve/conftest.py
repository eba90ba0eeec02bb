import io
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import uvicorn
from PIL import Image

from reference.bright_pyramid import BrightPyramid
from sharpmask.detection.detections import Category
from sharpmask.detection.heads import RegionHead
from sharpmask.detection.region_vectors import describe
from sharpmask.inference.proposer import Proposer
from sharpmask.serve.app import create_app
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings

SQUARES = ((30, 40, 60), (110, 150, 90))
"""Top, left, side of what is bright."""


def make_photo(*squares, height=240, width=320, seed=0):
    photo = np.random.default_rng(seed).integers(0, 60, (height, width, 3), np.uint8)
    for top, left, side in squares or SQUARES:
        photo[top : top + side, left : left + side] = 250
    return photo


def png(photo):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    return file.getvalue()


def square(top, left, side, height=240, width=320):
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@contextmanager
def running(app):
    """A server of its own, on a free port, in a thread; gives its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def head_of(engine):
    """A detector that names what is brighter than its surroundings on the finest level."""
    photo = Proposer(engine).read(make_photo())
    channels = describe(photo, np.array([[0.0, 0, 320, 240]])).shape[1]
    scores = np.zeros((2, channels))
    scores[0, 0] = 10
    arrays = {
        "scores": scores, "scores_bias": np.array([-5.0, -9]),
        "boxes": np.zeros((8, channels)), "boxes_bias": np.zeros(8),
    }  # fmt: skip
    return RegionHead("rcnn", (Category(7, "lamp"), Category("x", "dark")), arrays)


@pytest.fixture(scope="session")
def proposer():
    return Proposer(BrightPyramid(), num_proposals=20)


@pytest.fixture
def app(proposer):
    return create_app(Photos(proposer), Settings())
