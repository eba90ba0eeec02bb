"""What a process of Ray checks before it begins; whole runs are in tests/cli/test_batch_command."""

import json
import sys

import pyarrow as pa
import pytest

from sharpmask.integrations.arrow import Propose, schema
from sharpmask.integrations.on_ray import connected, write_if_equal, write_parts
from sharpmask.integrations.parts import Run, failures, settings_of


class Fixed(Propose):
    """In place of a model: every second photo fails."""

    fingerprint = "0123"

    def __call__(self, table):
        rows = [
            row | {"proposals": [], "error": "is odd" if row["id"] % 2 else None}
            for row in table.to_pylist()
        ]
        return pa.Table.from_pylist(rows, schema())


def test_part_is_written_and_counted(tmp_path):
    run = Run(str(tmp_path), Fixed(), 5)
    run.add(pa.table({"path": [f"{number}.jpg" for number in range(5)]}))
    (part,) = run.parts()
    assert write_if_equal(run.folder, part, Fixed(), settings_of(Fixed())) == (5, 2)
    assert [name for name, _ in failures(run.folder)] == [part.name] * 2


@pytest.mark.parametrize("name", ["model", "version"])
def test_machine_with_another_model_or_version_is_refused(tmp_path, name):
    settings = json.loads(json.dumps(settings_of(Fixed()))) | {name: "other"}
    with pytest.raises(ValueError, match=f"a machine of the cluster has {name} .*, the run other"):
        write_if_equal(str(tmp_path), None, Fixed(), settings)


@pytest.mark.slow  # starts Ray
def test_machines_that_leave_the_cluster_do_not_end_the_run(tmp_path, monkeypatch):
    run = Run(str(tmp_path), Fixed(), 1)
    run.add(pa.table({"path": [f"{number}.jpg" for number in range(8)]}))
    with connected(None):
        import ray

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        cores = iter([4, *[1] * 20])
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": next(cores)})
        assert len([*write_parts(run.left(), run.folder, Fixed())]) == 8
    assert run.left() == []
