"""Many clients at once, some that misbehave: nothing is lost, memory stays, health answers."""

import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serve.conftest import make_photo, png

SERVER = """
import socket, sys
import uvicorn
from reference.bright_pyramid import BrightPyramid
from sharpmask.inference.proposer import Proposer
from sharpmask.serve.app import create_app
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Limits, Settings

settings = Settings(threads=2, limits=Limits(queue=8, receive_s=5))
app = create_app(Photos(Proposer(BrightPyramid(), num_proposals=10)), settings)
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run([listening])
"""
CLIENTS, PHOTOS = 8, 500


def resident_mb(process):
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


@pytest.fixture
def server():
    """A process of its own, so that its memory can be seen."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        process.port = int(process.stdout.readline())
        yield process
    finally:
        process.kill()
        process.communicate()


def misbehave(port, stop):
    """Clients that announce a gigabyte, send a byte a second, and leave in the middle."""
    head = (
        b"POST /v1/propose HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    while not stop.is_set():
        with socket.create_connection(("127.0.0.1", port)) as huge:
            huge.sendall(head % 10**9)
            assert huge.recv(4096)[9:12] in (b"413", b"429")
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(head % 1000)
            for _ in range(3):
                slow.sendall(b"{")
                stop.wait(1)
        # Closed in the middle: the answer has nobody to go to.
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(head % 100 + b'{"image": "')


@pytest.mark.real  # half a minute and more
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_nothing_is_lost_under_load_and_health_answers(server):
    photos = [png(make_photo((10, 20, 30 + 4 * k), height=96, width=128)) for k in range(10)]
    address = f"http://127.0.0.1:{server.port}"
    stop = threading.Event()
    health, memory = [], []

    def watch():
        with httpx.Client(base_url=address, timeout=10) as client:
            while not stop.is_set():
                start = time.monotonic()
                assert client.get("/health").status_code == 200
                health.append(time.monotonic() - start)
                memory.append(resident_mb(server))
                stop.wait(0.2)

    def ask(number):
        with httpx.Client(base_url=address, timeout=120) as client:
            while True:
                files = {"image": ("a.png", photos[number % len(photos)])}
                answer = client.post("/v1/propose", files=files)
                if answer.status_code != 429:
                    assert answer.status_code == 200, answer.text
                    return number % len(photos), answer.json()["annotations"]
                time.sleep(0.05)

    with ThreadPoolExecutor(CLIENTS + 2) as threads:
        watching = threads.submit(watch)
        bad = threads.submit(misbehave, server.port, stop)
        answers = list(threads.map(ask, range(PHOTOS)))
        stop.set()
        watching.result(60)
        bad.result(60)
    assert len(answers) == PHOTOS
    first = dict(reversed(answers))
    assert all(found == first[photo] for photo, found in answers)
    assert len({str(found) for found in first.values()}) == len(photos)
    settled = memory[len(memory) // 3 :]
    assert max(settled) - settled[0] < 60, settled
    print(f"health: median {sorted(health)[len(health) // 2]:.3f} s, worst {max(health):.3f} s")
    # The event loop does no work: half of the answers come at once even where cores are scarce.
    assert sorted(health)[len(health) // 2] < 0.1
    assert server.poll() is None
