"""The class that Ray, Daft and Spark call, on Arrow tables alone."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import sharpmask
from found_masks import mask_of
from reference.thin_models import thin_file
from sharpmask.engines import threads
from sharpmask.images import write_image
from sharpmask.integrations import arrow
from sharpmask.integrations.arrow import Propose, schema
from sharpmask.models.sources import WeightsError, source_fingerprint

SIZE = (48, 64)
OPTIONS = {"num_proposals": 3, "scales": (-1.0,), "engine": "torch"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(thin_file(tmp_path_factory.mktemp("weights")))


@pytest.fixture(autouse=True)
def forgetful():
    """No model is kept from one test to the next."""
    arrow._loaded.cache_clear()
    arrow._fingerprint.cache_clear()


@pytest.fixture
def photos(tmp_path):
    """Three photos and a file that is none."""
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for path in paths[:3]:
        write_image(path, rng.integers(0, 256, (*SIZE, 3), np.uint8))
    (tmp_path / "3.png").write_bytes(b"no picture")
    return paths


def test_rows_are_what_the_proposer_finds(weights, photos):
    found = Propose(weights=weights, **OPTIONS)(pa.table({"id": [7, 8, 9], "path": photos[:3]}))
    proposer = sharpmask.Proposer(weights, num_proposals=3, scales=[-1], engine="torch")
    assert found.schema.equals(schema())
    for row, path, image_id in zip(found.to_pylist(), photos, (7, 8, 9), strict=False):
        truth = proposer(path)
        assert (row["id"], row["path"], row["error"]) == (image_id, path, None)
        assert (row["height"], row["width"]) == SIZE
        assert row["seconds"] > 0
        assert row["model"] == source_fingerprint(weights)
        assert len(row["proposals"]) == len(truth) > 0
        for proposal, mask, (x0, y0, x1, y1), score in zip(
            row["proposals"], truth.masks(), truth.boxes, truth.scores, strict=True
        ):
            np.testing.assert_array_equal(
                mask_of({"size": list(SIZE), "counts": proposal["rle"]}), mask
            )
            assert proposal["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert proposal["area"] == mask.sum()
            assert proposal["score"] == score


def test_photo_that_cannot_be_read_costs_its_own_row_alone(weights, photos, tmp_path):
    paths = [photos[3], photos[0], str(tmp_path / "missing.jpg"), None, "nowhere://x/y.jpg"]
    found = Propose(weights=weights, **OPTIONS)(pa.table({"path": paths}))
    assert found.schema.equals(schema())
    errors = found["error"].to_pylist()
    assert errors[1] is None
    for error, part in (
        (errors[0], "3.png: is not a JPEG"),
        (errors[2], "missing.jpg: no such file"),
        (errors[3], "neither path nor bytes"),
        (errors[4], "nowhere://x/y.jpg: cannot be fetched"),
    ):
        assert part in error
    rows = found.to_pylist()
    assert [len(row["proposals"]) for row in rows] == [0, 3, 0, 0, 0]
    assert rows[0]["width"] is None
    assert found["path"].to_pylist() == paths


def test_tables_of_errors_and_of_nothing_have_the_same_columns(weights, photos):
    propose = Propose(weights=weights, **OPTIONS)
    bad, empty = (
        propose(pa.table({"path": paths})) for paths in ([photos[3]], pa.array([], "str"))
    )
    good = propose(pa.table({"path": photos[:1]}))
    assert len(pa.concat_tables([bad, empty, good])) == 2


def test_bytes_are_read_like_the_file_they_are_from(weights, photos):
    propose = Propose(weights=weights, **OPTIONS)
    content = [Path(path).read_bytes() for path in photos]
    named = propose(pa.table({"path": ["a", "b", "c", "d"], "bytes": content}))
    of_files = propose(pa.table({"path": photos}))
    assert named["proposals"].equals(of_files["proposals"])
    assert named["path"].to_pylist() == ["a", "b", "c", "d"]
    assert named["error"].to_pylist()[3].startswith("d: is not a JPEG")
    nameless = propose(pa.table({"bytes": content}))
    assert nameless["proposals"].equals(of_files["proposals"])
    assert nameless["path"].null_count == 4


def test_stream_gives_the_same_rows_as_a_table(weights, photos):
    propose = Propose(weights=weights, **OPTIONS)
    table = pa.table({"path": photos})
    batches = table.to_batches(max_chunksize=3)
    streamed = pa.Table.from_batches(propose.stream(iter(batches)), schema())
    whole = propose(table)
    for name in set(schema().names) - {"seconds"}:
        assert streamed[name].to_pylist() == whole[name].to_pylist()


def test_it_travels_and_loads_the_model_once_per_process(weights, photos, monkeypatch):
    loads = []
    load = arrow.load_engine
    monkeypatch.setattr(arrow, "load_engine", lambda *a, **k: loads.append(a) or load(*a, **k))
    for _ in range(2):
        sent = pickle.loads(pickle.dumps(Propose(weights=weights, **OPTIONS)))
        sent(pa.table({"path": photos[:1]}))
        sent(pa.table({"path": photos[1:2]}))
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("given", "environment", "used"), [(3, "2", 3), (None, "2", 2), (None, "2,1", 2), (None, "", 4)]
)
def test_cores_are_those_given_or_those_of_the_scheduler(
    weights, photos, monkeypatch, given, environment, used
):
    monkeypatch.setattr(threads, "visible_cores", lambda: 4)
    monkeypatch.setattr(threads, "_quota", lambda root: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    seen = []
    load = arrow.load_engine

    def watched(*arguments, streams):
        seen.extend([threads.cores(), streams])
        return load(*arguments, streams=streams)

    monkeypatch.setattr(arrow, "load_engine", watched)
    Propose(weights=weights, cores=given, **OPTIONS)(pa.table({"path": photos[:1]}))
    assert seen == [used, used]
    assert threads.cores() == 4


def test_fingerprint_is_that_of_the_machine_where_it_is_asked(weights, tmp_path):
    here = tmp_path / "model.safetensors"
    here.write_bytes(Path(weights).read_bytes())
    sent = pickle.dumps(propose := Propose(weights=str(here)))
    assert propose.fingerprint == source_fingerprint(weights)
    here.write_bytes(b"another model")
    arrow._fingerprint.cache_clear()  # as in another process
    assert pickle.loads(sent).fingerprint == source_fingerprint(here) != source_fingerprint(weights)


def test_missing_columns_and_models_are_refused(weights, tmp_path):
    with pytest.raises(ValueError, match="expected a column path or bytes, got url"):
        Propose(weights=weights, **OPTIONS)(pa.table({"url": ["x"]}))
    absent = Propose(weights=str(tmp_path / "absent.safetensors"))
    with pytest.raises(WeightsError, match=r"absent\.safetensors: no such weights file"):
        absent(pa.table({"path": ["x"]}))


@pytest.mark.parametrize(
    ("column", "values", "read"),
    [("id", ["7"], 7), ("id", [7.0], 7), ("path", pa.array([b"x.png"]), "x.png")],
)
def test_columns_of_other_types_are_read_where_they_mean_the_same(weights, column, values, read):
    table = pa.table({"bytes": [b""]}).append_column(column, [values])
    (row,) = Propose(weights=weights, **OPTIONS)(table).to_pylist()
    assert row[column] == read


@pytest.mark.parametrize(("column", "values"), [("id", ["a"]), ("id", [1.5]), ("path", [[1]])])
def test_columns_of_other_types_are_refused_before_work_begins(weights, column, values):
    table = pa.table({"bytes": [b""]}).append_column(column, [values])
    with pytest.raises(ValueError, match=f"table: column {column}: expected "):
        Propose(weights=weights, **OPTIONS)(table)


@pytest.mark.slow
def test_exported_model_needs_no_torch(photos, tmp_path):
    from reference.thin_models import thinnest
    from sharpmask.engines.export import export

    export(thinnest(mask_channels=16, skip_channels=8), tmp_path / "model", "openvino")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import pyarrow as pa\n"
        "from sharpmask.integrations.arrow import Propose\n"
        f"found = Propose(weights={str(tmp_path / 'model')!r})(pa.table({{'path': {photos!r}}}))\n"
        "print([bool(error) for error in found['error'].to_pylist()])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "[False, False, False, True]\n", ran.stderr
