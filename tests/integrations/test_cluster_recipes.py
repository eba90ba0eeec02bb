"""The commands and programs of docs/batch.md run as they stand, each on what it is for."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import dataset, parquet

from sharpmask.images import write_image
from sharpmask.integrations.arrow import Propose, schema
from synthetic_coco import write_coco

PAGE = (Path(__file__).parents[2] / "docs" / "batch.md").read_text()

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("title", "package"), [("Ray Data", "ray"), ("Daft", "daft"), ("Spark", "pyspark")]
)
def test_recipe_writes_the_rows_that_the_class_finds(tmp_path, title, package):
    if not find_spec(package) or (package == "pyspark" and not shutil.which("java")):
        pytest.skip(f"{package} is not installed")
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    for path in paths[:4]:
        write_image(path, rng.integers(0, 256, (48, 64, 3), np.uint8))
    parquet.write_table(pa.table({"path": paths}), tmp_path / "photos.parquet")
    program = re.search(rf"### {title}\n\n```python\n(.*?)```", PAGE, re.S)[1]
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYSPARK_PYTHON": sys.executable, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    # Engines store text as large text; the columns are the same.
    found = dataset.dataset(tmp_path / "found").to_table().cast(schema()).sort_by("path")
    truth = Propose()(pa.table({"path": paths}))
    for name in set(schema().names) - {"seconds"}:
        assert found[name].to_pylist() == truth[name].to_pylist()
    assert found["error"].null_count == 4


def test_commands_run_as_written(tmp_path):
    write_coco(tmp_path, name="val.json", photos=4, seed=2)
    (tmp_path / "images").rename(tmp_path / "photos")
    content = json.loads((tmp_path / "val.json").read_text())
    for image in content["images"]:
        image.pop("complete", None)  # others cannot be scored
    (tmp_path / "val.json").write_text(json.dumps(content))
    blocks = re.findall(r"^```\n(.*?)^```", PAGE, re.M | re.S)
    for line in "".join(blocks[:2]).splitlines():
        name, *arguments = shlex.split(line)
        assert name == "sharpmask"
        command = [sys.executable, "-m", name, *arguments]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "proposals.json").read_text())
    report = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert report["images"] == 4
