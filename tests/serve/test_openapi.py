"""The server answers as its description says, whatever it is asked: schemathesis tries."""

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from reference.bright_pyramid import BrightPyramid
from serve.conftest import head_of
from sharpmask.detection.detector import Detector
from sharpmask.inference.proposer import Proposer
from sharpmask.serve.app import create_app
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import Settings


@pytest.mark.slow  # hundreds of requests
def test_answers_are_as_described():
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    checks = schemathesis.checks
    proposer = Proposer(BrightPyramid(), num_proposals=3)
    photos = Photos(proposer, detector=Detector(head_of(proposer.engine), proposer))
    app = create_app(photos, Settings(hosts=("*",), names=True))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    asked = set()

    def ask(case):
        asked.add((case.method, case.path))
        # Text that the schema allows may still be no photo: 400 is right then.
        excluded = [checks.positive_data_acceptance]
        if case.media_type == "multipart/form-data":  # where a list of one item looks like the item
            excluded.append(checks.negative_data_rejection)
        case.call_and_validate(excluded_checks=excluded)

    careful = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    for found in schema.get_all_operations():
        for mode in schemathesis.GenerationMode:
            with suppress(Unsatisfiable):  # where nothing is sent nothing wrong can be
                careful(given(found.ok().as_strategy(generation_mode=mode))(ask))()
    described = {
        (method.upper(), path)
        for path, methods in schema.raw_schema["paths"].items()
        for method in methods
    }
    assert asked == described
