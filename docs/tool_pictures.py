"""The pictures of label tools that show our masks: the real windows, after the steps of the page.

LABEL_STUDIO=ls/bin/label-studio X_ANYLABELING=xany/bin/python python docs/tool_pictures.py

Needs Chromium, the development tools, and both programs, each in an environment of its own:
tests/serve/studio.py and tests/serve/test_real_x_anylabeling.py tell how.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import sharpmask  # noqa: E402
from serve.browser import chromium  # noqa: E402
from serve.conftest import running  # noqa: E402
from serve.studio import (  # noqa: E402
    CONFIG,
    act_on_all,
    connected_project,
    label_studio,
    made,
    personal_token,
)
from sharpmask.selection import Selection  # noqa: E402
from sharpmask.serve.app import create_app  # noqa: E402
from sharpmask.serve.remembered import Photos  # noqa: E402
from sharpmask.serve.settings import Settings  # noqa: E402

COFFEE = ROOT / "src" / "sharpmask" / "assets" / "coffee.jpg"
WIDTH = 1000
WINDOW = """
import os, sys
from PyQt6.QtCore import QTimer
from PyQt6.QtWidgets import QApplication, QMainWindow
from anylabeling import app

address, folder, picture = sys.argv[1:]

def steps():
    program = QApplication.instance()
    (window,) = (w for w in program.topLevelWidgets() if isinstance(w, QMainWindow))
    window.showNormal()
    window.resize(1200, 740)
    view = window.labeling_widget.view
    panel = view.auto_labeling_widget
    view.toggle_auto_labeling_widget()
    yield 500

    def answer():
        dialog = program.activeModalWidget()
        dialog.url_input.setText(address)
        dialog.accept()

    QTimer.singleShot(500, answer)
    (name,) = (name for name in panel.model_info if "remote_server" in name)
    panel.on_model_selected("CVHub", name)
    while not panel.button_run.isVisible():
        yield 200
    panel.button_run.click()
    while not view.canvas.shapes:
        yield 200
    yield 1000
    window.grab().save(picture)
    os._exit(0)  # its threads would complain

def go_on(rest):
    wait = next(rest, None)
    if wait is not None:
        QTimer.singleShot(wait, lambda: go_on(rest))

run = QApplication.exec

def run_with_steps():
    QTimer.singleShot(1000, lambda: go_on(steps()))
    return run()

QApplication.exec = staticmethod(run_with_steps)
sys.argv[1:] = ["--no-auto-update-check", "--filename", folder, "--work-dir", folder + "/../work"]
app.main()
"""


def main() -> None:
    """Write ``label-studio-model.jpg``, ``label-studio.jpg`` and ``x-anylabeling.jpg``."""
    photos = Photos(sharpmask.Proposer())
    with tempfile.TemporaryDirectory() as folder:
        picture_x_anylabeling(photos, Path(folder))
        picture_label_studio(photos, Path(folder))


def picture_label_studio(photos: Photos, folder: Path) -> None:
    """The model's settings, and a task whose masks are there before its annotator."""
    with label_studio(folder) as client, chromium() as browser:
        host = str(client.base_url).rstrip("/")
        settings = Settings(
            label_studio=host,
            label_studio_token=personal_token(client),
            labels=Selection(min_score=0.3),
        )
        page = browser.new_page(viewport={"width": 1440, "height": 860})
        page.context.add_cookies(
            [{"name": name, "value": value, "url": host} for name, value in client.cookies.items()]
        )
        with running(create_app(photos, settings)) as backend:
            files = {COFFEE.name: COFFEE.read_bytes()}
            project, _ = connected_project(client, CONFIG, files, backend)
            act_on_all(client, project, "retrieve_tasks_predictions")
            (task,) = made(client.get("/api/tasks", params={"project": project}))["tasks"]
            page.goto(f"{host}/projects/{project}/settings/ml", timeout=120_000)
            page.get_by_text("Connected", exact=True).wait_for(timeout=120_000)
            page.wait_for_timeout(3000)  # fonts and icons
            save(page.screenshot(clip={"x": 0, "y": 0, "width": 1000, "height": 420}),
                 "label-studio-model.jpg")  # fmt: skip
            page.goto(f"{host}/projects/{project}/data?task={task['id']}", timeout=120_000)
            page.get_by_text("Auto-Annotation").click(timeout=120_000)
            page.wait_for_timeout(10_000)  # masks are drawn one by one
            save(page.screenshot(timeout=120_000), "label-studio.jpg")


def picture_x_anylabeling(photos: Photos, folder: Path) -> None:
    """The window, with polygons that the remote server gave."""
    (folder / "photos").mkdir()
    (folder / "work").mkdir()
    shutil.copy(COFFEE, folder / "photos")
    picture = folder / "window.png"
    with running(create_app(photos, Settings())) as address:
        subprocess.run(
            [os.environ["X_ANYLABELING"], "-c", WINDOW, address, folder / "photos", picture],
            env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": "",
                 "HOME": str(folder)},
            check=True, timeout=600,
        )  # fmt: skip
    save(picture.read_bytes(), "x-anylabeling.jpg")


def save(png: bytes, name: str) -> None:
    """Write a picture of the docs."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    height = round(picture.height * WIDTH / picture.width)
    picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    picture.save(ROOT / "docs" / name, quality=60, optimize=True)


if __name__ == "__main__":
    main()
