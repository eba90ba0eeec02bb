import pytest

from reference.bright_pyramid import BrightPyramid
from serve.conftest import make_photo
from sharpmask.inference.proposer import Proposer
from sharpmask.integrations.fiftyone import to_detections


@pytest.mark.real  # a gigabyte to import
def test_detections_of_a_sample_cover_our_masks(tmp_path):
    fiftyone = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    proposals = Proposer(BrightPyramid(), num_proposals=5)(make_photo())
    sample = fiftyone.Sample(filepath=tmp_path / "a.png")
    sample["proposals"] = to_detections(proposals, label="thing")
    detections = sample["proposals"].detections
    assert len(detections) == len(proposals)
    for detection, mask, score in zip(detections, proposals.masks(), proposals.scores, strict=True):
        assert (detection.label, detection.confidence) == ("thing", pytest.approx(score))
        # FiftyOne's own way from a detection to a picture of the whole photo.
        full = detection.to_segmentation(frame_size=(320, 240)).mask > 0
        # It rounds a box that is a share of the photo: a row or a column may be lost.
        assert (full & mask).sum() / (full | mask).sum() > 0.98
