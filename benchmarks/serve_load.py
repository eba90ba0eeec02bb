"""Many clients of ``sharpmask serve`` at once, some of whom misbehave: what health takes meanwhile.

python benchmarks/serve_load.py

A second server beside it has nothing to do: its health shows what the machine itself takes.
"""

import argparse
import io
import multiprocessing
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from machine import store

CLIENTS, PHOTOS, KINDS = 8, 500, 10
HEAD = (
    b"POST /v1/propose HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        process: Its process.
        port: Where it listens.
    """

    process: subprocess.Popen[str]
    port: int

    @property
    def address(self) -> str:
        """Where it listens, as clients name it."""
        return f"http://127.0.0.1:{self.port}"

    def resident_mb(self) -> float:
        """Memory of its processes."""
        pids, found = [self.process.pid], 0.0
        while pids:
            folder = Path(f"/proc/{pids.pop()}")
            for line in (folder / "status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    found += int(line.split()[1]) / 1024
            for task in (folder / "task").iterdir():
                with suppress(FileNotFoundError):  # a thread that has ended meanwhile
                    pids += map(int, (task / "children").read_text().split())
        return found


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A server by the command, on a free port."""
    command = [sys.executable, "-m", "sharpmask", "serve", "--port", "0", "--queue", str(CLIENTS)]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(process, int(process.stdout.readline().rpartition(":")[2]))
    finally:
        process.kill()
        process.communicate()


def photos() -> list[bytes]:
    """Small PNG files, each another."""
    files = []
    for number in range(KINDS):
        pixels = np.random.default_rng(number).integers(0, 60, (96, 128, 3), np.uint8)
        pixels[10:60, 20 : 60 + 4 * number] = 250
        files.append(io.BytesIO())
        Image.fromarray(pixels).save(files[-1], "PNG")
    return [file.getvalue() for file in files]


def watch(addresses: Mapping[str, str], stop: Event, pipe: Connection) -> None:
    """Ask each server for its health until told to stop; sends the seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in addresses}

    def ask(name: str) -> None:
        with httpx.Client(base_url=addresses[name], timeout=60) as client:
            while not stop.wait(0.1):
                start = time.monotonic()
                client.get("/health").raise_for_status()
                seconds[name].append(time.monotonic() - start)

    with ThreadPoolExecutor() as threads:
        list(threads.map(ask, addresses))
    pipe.send(seconds)


def misbehave(server: Server, photo: bytes, stop: threading.Event) -> None:
    """Announce a gigabyte, send a byte a second, leave in the middle, leave before the answer."""
    place = ("127.0.0.1", server.port)
    while not stop.is_set():
        with socket.create_connection(place) as huge:
            huge.sendall(HEAD % 10**9)
            assert huge.recv(4096)[9:12] in (b"413", b"429")
        with socket.create_connection(place) as slow:
            slow.sendall(HEAD % 1000)
            for _ in range(3):
                slow.sendall(b"{")
                stop.wait(1)
        with socket.create_connection(place) as leaving:
            leaving.sendall(HEAD % 100 + b'{"image": "')
        client = [sys.executable, "-c", CLIENT, f"{server.address}/v1/propose"]
        with subprocess.Popen(client, stdin=subprocess.PIPE) as killed:
            assert killed.stdin is not None
            killed.stdin.write(photo)
            killed.stdin.close()
            stop.wait(1.5)  # it has asked, or is about to
            killed.kill()


CLIENT = """
import sys, httpx
httpx.post(sys.argv[1], files={"image": ("a.png", sys.stdin.buffer.read())}, timeout=60)
"""


def load(count: int, options: Sequence[str]) -> dict[str, Any]:
    """Photos sent by clients side by side, and what their server did meanwhile.

    Args:
        count: How many photos.
        options: Of ``sharpmask serve``.

    Raises:
        AssertionError: An answer is missing, or differs from another to the same photo.
    """
    files = photos()
    memory: list[float] = []
    quiet = threading.Event()

    def ask(number: int) -> list[Any]:
        with httpx.Client(base_url=server.address, timeout=120) as client:
            while True:
                sent = {"image": ("a.png", files[number % KINDS])}
                answer = client.post("/v1/propose", files=sent)
                if answer.status_code != 429:
                    assert answer.status_code == 200, answer.text
                    found: list[Any] = answer.json()["annotations"]
                    memory.append(server.resident_mb())
                    return found
                time.sleep(0.05)

    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    stop = context.Event()
    with serving(*options) as server, serving(*options) as idle:
        addresses = {"idle": idle.address, "loaded": server.address}
        watching = context.Process(target=watch, args=(addresses, stop, sender))
        watching.start()
        start = time.monotonic()
        try:
            with ThreadPoolExecutor(1) as other, ThreadPoolExecutor(CLIENTS) as clients:
                bad = other.submit(misbehave, server, files[0], quiet)
                try:
                    answers = list(clients.map(ask, range(count)))
                finally:
                    quiet.set()
                bad.result()
            taken = time.monotonic() - start
            assert server.process.poll() is None
        finally:
            stop.set()
        health = {name: np.array(each) for name, each in receiver.recv().items()}
        watching.join()
    assert all(found == answers[number % KINDS] for number, found in enumerate(answers))
    assert len({str(found) for found in answers}) == KINDS
    settled = memory[len(memory) // 3 :]
    return {
        "config": f"{count} photos of 128x96, {CLIENTS} clients and one that misbehaves",
        "seconds": taken,
        "answers": len(answers),
        "health_ms": {
            name: {
                "count": len(each),
                "median": 1e3 * float(np.median(each)),
                "p99": 1e3 * float(np.quantile(each, 0.99)),
                "worst": 1e3 * float(each.max()),
            }
            for name, each in health.items()
        },
        "memory_mb": {"first": settled[0], "most": max(settled), "last": settled[-1]},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=PHOTOS)
    parser.add_argument("--engine", default="onnx")
    arguments = parser.parse_args()
    store("serve_load", load(arguments.photos, ["--engine", arguments.engine]))


if __name__ == "__main__":
    main()
