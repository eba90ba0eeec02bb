"""What Python and every command use unless told otherwise: each number stands here alone."""

VERSION = "0.2.0"
"""Of this package. Said here, as to read it from the installation takes longer at each start."""
MODEL = "sharpmask-pyramid-nano"
"""Name of the model that runs if none is named."""
DETECTOR = "detector-coco-nano"
"""Name of the detector that gives names if none is named."""
NUM_PROPOSALS = 100
"""Maximum number of proposals per photo; ``evaluate`` asks for 1000, as Average Recall does."""
SUPPRESSION = 0.7
"""A mask whose IoU with a better one exceeds this is ranked last."""
IMAGE_SIZE = 640
"""Photos with a longer side are first reduced to it, in pixels."""
MIN_SCORE = 0.05
"""Detections with a lower score are left out."""
OVERLAY_MASKS = 10
"""Masks drawn on a photo."""
OVERLAY_SCORE = 0.15
"""Detections with at least this score are drawn on a photo."""
