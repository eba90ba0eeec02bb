"""A real Label Studio server, in a virtual environment of its own: LABEL_STUDIO names its command.

python -m venv ls && ls/bin/pip install label-studio
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

COMMAND = os.environ.get("LABEL_STUDIO") or shutil.which("label-studio")
PAGE = Path(__file__).parents[2] / "docs" / "annotate.md"
CONFIG = PAGE.read_text("utf-8").partition("```xml\n")[2].partition("```")[0]
"""The labelling interface that the docs tell."""
EMAIL, PASSWORD = "a@example.com", "not-a-secret"


@contextmanager
def label_studio(folder):
    """A client, signed in, of a server with an empty database; its address is the client's.

    As it starts by default: it accepts personal access tokens, and no legacy tokens.
    """
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
    command += ["--username", EMAIL, "--password", PASSWORD]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **options}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            with httpx.Client(base_url=address, timeout=120, follow_redirects=True) as client:
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
                client.get("/user/login/")
                form = {"email": EMAIL, "password": PASSWORD,
                        "csrfmiddlewaretoken": client.cookies["csrftoken"]}  # fmt: skip
                client.post("/user/login/", data=form).raise_for_status()
                yield client
        finally:
            process.terminate()
            process.wait(30)


def made(answer):
    """What a good answer holds."""
    assert answer.status_code in (200, 201), answer.text[:2000]
    return answer.json()


def personal_token(client):
    """The one that a user may have, created as on the page Account & Settings."""
    return made(client.post("/api/token/"))["token"]


def connected_project(client, config, files, backend):
    """A project with photos and a connected model; their two ids."""
    question = {"title": "photos", "label_config": config}
    project = made(client.post("/api/projects", json=question))["id"]
    parts = {name: (name, data, "image/png") for name, data in files.items()}
    made(client.post(f"/api/projects/{project}/import", files=parts))
    model = {"url": backend, "project": project, "title": "sharpmask", "is_interactive": True}
    connected = made(client.post("/api/ml", json=model))
    assert connected["state"] == "CO", connected
    return project, connected["id"]


def act_on_all(client, project, action):
    """One of the Data Manager's actions, on all tasks."""
    question = {"id": action, "project": project}
    everything = {"selectedItems": {"all": True, "excluded": []}}
    made(client.post("/api/dm/actions", params=question, json=everything))
