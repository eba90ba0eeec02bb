"""Average Recall of a pyramid model, or of a checkpoint of its training, on labelled photos.

python benchmarks/pyramid.py MODEL ANNOTATIONS IMAGES [--every 3] [--octaves 0 -0.5]
"""

import argparse
import json
import time
from pathlib import Path

import torch

from sharpmask.coco.reader import read_coco
from sharpmask.evaluation.average_recall import AreaRange, RecallSummary
from sharpmask.evaluation.evaluator import ProposalEvaluator
from sharpmask.inference.pyramid_proposer import PyramidProposer
from sharpmask.models.pretrained import load, read_safetensors
from sharpmask.models.pyramid import SharpMaskPyramid, build_pyramid

SIZES: tuple[AreaRange, ...] = ("small", "medium", "large")


def read_model(path: Path) -> SharpMaskPyramid:
    """A model file, or the averaged weights of a checkpoint."""
    tensors, metadata = read_safetensors(path)
    if "architecture" in metadata:
        model = load(path)
        assert isinstance(model, SharpMaskPyramid)
        return model
    parts = {
        part: {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
        for part in ("model.", "average.")
    }
    checkpoint = build_pyramid()
    checkpoint.load_state_dict(parts["model."] | parts["average."])
    print(f"step {metadata['step']}")
    return checkpoint.eval()


def row(summary: RecallSummary) -> str:
    """Recall in percent: AR@10 / 100 / 1000, and small / medium / large at 100."""
    values = [summary.average_recall(count) for count in (10, 100, 1000)]
    sizes = [summary.average_recall(100, size) for size in SIZES]
    return (
        " / ".join(f"{100 * v:.1f}" for v in values)
        + "   S/M/L "
        + " / ".join(f"{100 * v:.1f}" for v in sizes)
    )


def main() -> None:
    """Print recall of boxes and masks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--every", type=int, default=1, help="Of the photos, sorted by id.")
    parser.add_argument("--only", type=Path, help="JSON list of file names.")
    parser.add_argument("--octaves", type=float, nargs="+", default=[0.0, -0.5])
    parser.add_argument("--quality", type=float, default=1.0)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--proposals", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    entries = sorted(read_coco(args.annotations).images, key=lambda entry: str(entry.id).zfill(12))
    if args.only:
        names = set(json.loads(args.only.read_text()))
        entries = [entry for entry in entries if entry.file_name in names]
    entries = [entry for entry in entries if entry.complete][:: args.every]
    proposer = PyramidProposer(
        read_model(args.model), num_proposals=args.proposals,
        num_candidates=round(1.5 * args.proposals), octaves=args.octaves,
        quality_exponent=args.quality, mask_threshold=args.threshold, image_size=args.image_size,
    )  # fmt: skip
    evaluator = ProposalEvaluator()
    start, seconds = time.perf_counter(), 0.0
    for entry in entries:
        mark = time.perf_counter()
        assert entry.file_name is not None
        assert isinstance(entry.id, int)
        records = proposer(args.images / entry.file_name).to_coco(entry.id)
        seconds += time.perf_counter() - mark
        evaluator.add(entry, records)
    result = evaluator.summarize()
    print(f"{result.images} photos, {result.objects} objects, {seconds / len(entries):.2f} s each")
    print(f"octaves {args.octaves}  quality {args.quality}  threshold {args.threshold}")
    print(f"boxes AR@10/100/1000 {row(result.boxes)}")
    assert result.masks is not None
    assert result.boundary is not None
    print(f"masks AR@10/100/1000 {row(result.masks)}")
    print(f"boundary {result.boundary.boundary_iou:.3f} of {result.boundary.matched} pairs")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
