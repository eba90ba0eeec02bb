"""Many clients at once, some that misbehave: nothing is lost, memory stays, health answers."""

import sys
from pathlib import Path

import pytest

from reference.thin_models import pyramid_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from serve_load import PHOTOS, load


@pytest.mark.real  # half a minute and more
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_nothing_is_lost_under_load_and_health_answers(tmp_path):
    weights = str(pyramid_file(tmp_path))
    found = load(PHOTOS, ["--weights", weights, "--engine", "torch", "--num-proposals", "10"])
    assert found["answers"] == PHOTOS
    memory = found["memory_mb"]
    assert memory["most"] - memory["first"] < 60, memory
    # Where cores are scarce, a server with nothing to do answers late too.
    idle, loaded = (found["health_ms"][name] for name in ("idle", "loaded"))
    assert loaded["median"] < 100, found
    assert loaded["p99"] < 100 + 2 * idle["p99"], found
    assert loaded["worst"] < 300 + 2 * idle["worst"], found
