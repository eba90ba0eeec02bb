"""X-AnyLabeling's own client, in an environment of its own: X_ANYLABELING names its Python.

python -m venv xany && xany/bin/pip install 'x-anylabeling-cvhub[cpu]'
X_ANYLABELING=xany/bin/python pytest -m real tests/serve/test_real_x_anylabeling.py
"""

import json
import os
import subprocess

import pytest

from serve.conftest import SQUARES, make_photo, png, running
from sharpmask.serve.app import create_app
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings

PYTHON = os.environ.get("X_ANYLABELING")
CLIENT = """
import json, sys
import anylabeling.config
from PyQt6.QtGui import QImage
from PyQt6.QtWidgets import QApplication
from anylabeling.services.auto_labeling.remote_server import RemoteServer

photo, config, threshold, *points = sys.argv[1:]
anylabeling.config.current_config_file = config
app = QApplication([])
complaints = []
model = RemoteServer(
    {
        "type": "remote_server", "name": "r", "display_name": "R", "provider": "",
        "config_file": "",
    },
    complaints.append,
)
models = model.get_available_models()
model.set_model_id(next(iter(models)))
model.set_auto_labeling_conf(float(threshold))
image = QImage(photo)

def shapes():
    found = model.predict_shapes(image, photo)
    return [
        {"label": s.label, "type": s.shape_type, "points": [[p.x(), p.y()] for p in s.points],
         "score": s.score}
        for s in found.shapes
    ]

everything = shapes()
model.set_auto_labeling_marks(
    [{"type": "point", "data": [int(points[0]), int(points[1])], "label": 1}]
)
answer = {"all": everything, "point": shapes(), "complaints": complaints,
          "batch": model.get_batch_processing_mode()}
print("ANSWER" + json.dumps(answer))
"""


@pytest.mark.real  # Qt starts
@pytest.mark.skipif(not PYTHON, reason="X-AnyLabeling is not installed; X_ANYLABELING names it")
def test_its_own_client_gets_polygons_for_a_photo_and_for_a_point(proposer, tmp_path):
    photo, config = tmp_path / "a.png", tmp_path / "config.yaml"
    photo.write_bytes(png(make_photo()))
    scores = proposer(make_photo()).scores
    top, left, side = SQUARES[0]
    with running(create_app(Photos(proposer), Settings(token="a secret"))) as address:
        server = {"server_url": address, "api_key": "a secret"}
        config.write_text(json.dumps({"remote_server_settings": server}))  # YAML too
        command = [PYTHON, "-c", CLIENT, str(photo), str(config)]
        ran = subprocess.run(
            [*command, str(scores[4]), str(left + side // 2), str(top + side // 2)],
            env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": "",
                 "HOME": str(tmp_path)},
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    answer = json.loads(ran.stdout.partition("ANSWER")[2])
    assert answer["complaints"] == []
    assert answer["batch"] == "default"
    assert [each["score"] for each in answer["all"]] == pytest.approx(
        scores[scores >= scores[4]].tolist()
    )
    (shape,) = answer["point"]
    assert (shape["label"], shape["type"]) == ("AUTOLABEL_OBJECT", "polygon")
    xs, ys = zip(*shape["points"], strict=True)
    box = min(xs), min(ys), max(xs), max(ys)
    assert box == pytest.approx((left, top, left + side, top + side), abs=4)
