"""The server answers as its description says, whatever it is asked: schemathesis tries."""

import pytest
from hypothesis import HealthCheck, settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from reference.bright_pyramid import BrightPyramid  # noqa: E402
from serve.conftest import head_of  # noqa: E402
from sharpmask.detection.detector import Detector  # noqa: E402
from sharpmask.inference.proposer import Proposer  # noqa: E402
from sharpmask.serve.app import create_app  # noqa: E402
from sharpmask.serve.settings import Settings  # noqa: E402

PROPOSER = Proposer(BrightPyramid(), num_proposals=3)
HEAD = head_of(PROPOSER.engine)

schema = schemathesis.openapi.from_asgi(
    "/openapi.json",
    create_app(PROPOSER, Settings(hosts=("*",)), detector=Detector(HEAD, PROPOSER)),
)

pytestmark = pytest.mark.slow  # a hundred requests


@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case):
    checks = schemathesis.checks
    # Text that the schema allows may still be no photo: 400 is right then.
    excluded = [checks.positive_data_acceptance]
    if case.media_type == "multipart/form-data":  # where a list of one item looks like the item
        excluded.append(checks.negative_data_rejection)
    case.call_and_validate(excluded_checks=excluded)
