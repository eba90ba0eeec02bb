"""What a process of Ray checks before it begins; whole runs are in tests/cli/test_batch_command."""

import json

import pyarrow as pa
import pytest

from sharpmask.integrations.arrow import Propose, schema
from sharpmask.integrations.on_ray import write_if_equal
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
