"""Exported OpenVINO models in int8."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import sharpmask
from reference.thin_models import thin_export, thin_file, thinnest
from sharpmask.cli.main import app
from sharpmask.compress.int8 import quantise
from sharpmask.engines.export import export
from sharpmask.engines.load import load_engine
from sharpmask.images import read_image, write_image
from sharpmask.masks import rle_iou
from sharpmask.models.sources import resolve

COFFEE = resolve("sharpmask-nano").parents[1] / "assets" / "coffee.jpg"


def annotated(tmp_path, photos):
    """A COCO file with an object in the middle of each photo."""
    images, annotations = [], []
    for number, path in enumerate(sorted(photos.iterdir()), 1):
        height, width = read_image(path).shape[:2]
        x, y, w, h = width // 4, height // 4, width // 2, height // 2
        images.append({"id": number, "file_name": path.name, "height": height, "width": width})
        annotations.append({
            "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": w * h,
            "bbox": [x, y, w, h], "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        })  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": []}
    (tmp_path / "set.json").write_text(json.dumps(content))
    return str(tmp_path / "set.json")


@pytest.mark.slow  # nncf takes its time
def test_int8_model_is_smaller_and_much_alike(tmp_path, cache):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        write_image(photos / f"{number}.png", np.roll(read_image(COFFEE)[::6, ::6], 50 * number, 1))
    arguments = ["export", "--weights", str(thin_file(cache)), "--format", "openvino"]
    folders = thin_export(cache), tmp_path / "int8"
    calibrated = ["--output", str(folders[1]), "--int8", "--calibrate", str(photos)]
    calibrated += ["--annotations", annotated(tmp_path, photos), "--images", str(photos)]
    result = CliRunner().invoke(app, [*arguments, *calibrated])
    assert result.exit_code == 0, result.output
    assert "float32: mask AR@100 " in result.stdout
    assert "int8: mask AR@100 " in result.stdout
    told = float(re.search(r"with those of float32: (0\.\d+|1\.000)", result.stdout)[1])
    whole, rounded = load_engine(folders[0], "openvino"), load_engine(folders[1])
    alike = []
    for number in range(3):
        old, new = (
            sharpmask.Proposer(engine)(photos / f"{number}.png").rles()
            for engine in (whole, rounded)
        )
        alike.append(np.mean([max(rle_iou([rle], new)[0]) for rle in old]))
    assert told == pytest.approx(np.mean(alike), abs=0.0006)
    assert 0.5 < told < 1
    sizes = [(folder / "encoder.bin").stat().st_size for folder in folders]
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--int8", "--format", "onnx", "--calibrate", "."], "--int8 goes with --format openvino"),
        (["--int8", "--format", "openvino"], "--int8 goes with --format openvino"),
        (["--format", "openvino", "--calibrate", "."], "--int8 goes with --format openvino"),
        (["--annotations", "a.json", "--images", "."], "--annotations goes with --int8"),
        (
            ["--int8", "--format", "openvino", "--calibrate", "none"],
            "--calibrate: none: no such folder",
        ),
    ],
    ids=str,
)
def test_int8_without_openvino_or_photos_is_refused(tmp_path, given, message):
    result = CliRunner().invoke(app, ["export", "--output", str(tmp_path), *given])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # importing nncf takes seconds
def test_int8_sends_no_usage_data(tmp_path):
    """nncf sends usage data unless it is kept from it; under pytest it would not."""
    program = f"""
from pathlib import Path
from sharpmask.compress.int8 import quantise
try:
    quantise(Path({str(tmp_path)!r}), [], Path({str(tmp_path)!r}))
except ValueError as error:
    print(error)
from nncf.telemetry import wrapper
print(type(wrapper.telemetry).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "holds no exported model" in done.stdout
    assert done.stdout.split()[-1] == "MagicMock", done.stderr


@pytest.mark.slow  # ONNX takes seconds to export
def test_int8_of_an_onnx_model_is_refused(tmp_path):
    export(thinnest(), tmp_path / "onnx", "onnx")
    with pytest.raises(ValueError, match="is exported for onnx, expected openvino"):
        quantise(tmp_path / "onnx", [COFFEE], tmp_path)


def test_int8_without_photos_is_refused(tmp_path, cache):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    for photos in ([], [tmp_path / "broken.jpg"]):
        said = []
        with pytest.raises(ValueError, match="photos are needed to calibrate on, got none"):
            quantise(thin_export(cache), photos, tmp_path, said.append)
        assert len(said) == len(photos)
