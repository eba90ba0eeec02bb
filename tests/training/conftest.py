"""A finished run that others are compared with."""

import pytest
from toy_run import Toy, run


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run of 20 steps in one go: its folder, model and figures."""
    folder, model = tmp_path_factory.mktemp("whole"), Toy()
    return folder, model, run(folder, model)
