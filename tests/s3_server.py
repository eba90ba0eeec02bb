"""An object store of this machine for tests: ``faulty_store.py`` in a process of its own."""

import json
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from faulty_store import BUCKET
from sharpmask import stores

ADDRESS = f"s3://{BUCKET}"


class Store:
    """The process."""

    def __init__(self, process):
        self.process = process

    def counts(self):
        """Requests so far by their method, and faults by their kind."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Counter(json.loads(self.process.stdout.readline()))


@contextmanager
def s3_server(seed=0, faults=0.0):
    """A store with an empty bucket, which this process and its children reach by ``ADDRESS``."""
    command = [sys.executable, str(Path(__file__).with_name("faulty_store.py"))]
    with (
        subprocess.Popen(
            [*command, str(seed), str(faults)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as process,
        pytest.MonkeyPatch.context() as patch,
    ):  # fmt: skip
        endpoint = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        environment = {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "any", "AWS_REGION": "us-east-1",
            "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        for name, value in environment.items():
            patch.setenv(name, value)
        stores._opened.cache_clear()  # what another server's bucket of that name was reached by
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.close()
        try:
            yield Store(process)
        finally:
            process.stdin.close()
            process.wait()
