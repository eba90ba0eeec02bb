"""``sharpmask detect``: named objects in photos."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from sharpmask.cli.console import clear_errors
from sharpmask.cli.photos import overlay_paths, records_by, settings_of, write_records
from sharpmask.detection.detector import Detector
from sharpmask.detection.files import load_classifier
from sharpmask.engines.load import EngineName, load_engine
from sharpmask.images import list_images
from sharpmask.inference.batch import streams_for
from sharpmask.inference.proposer import Proposer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def detect(
    context: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    detector: Annotated[str, typer.Option(help="Run, file, or Hugging Face repository.")],
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("detections"),
    weights: Annotated[
        str | None, typer.Option(help="Model that proposes; the one it was trained with.")
    ] = None,
    min_score: Annotated[float, typer.Option(help="Detections below are left out.")] = 0.05,
    overlay: Annotated[bool, typer.Option(help="Draw the objects on the photo.")] = True,
    overlay_score: Annotated[float, typer.Option(help="Objects drawn score as much.")] = 0.2,
    engine: Annotated[EngineName, typer.Option(help="What runs the proposer.")] = "auto",
    device: Annotated[str, typer.Option(help="Of the proposer: auto, cpu or cuda.")] = "auto",
) -> None:
    """Find and name objects: writes detections.json (COCO results, boxes and masks) and pictures.

    A photo that cannot be read is reported and passed over; the exit status is then 1.
    """
    with clear_errors():
        classifier = load_classifier(detector)
        trained_with = classifier.metadata.get("proposals", {})
        source = weights or trained_with.get("weights")
        if source is None:
            raise ValueError(
                "--weights: this detector was trained on the proposals of a file; name the model "
                "that is to propose"
            )
        paths = list_images(images)
        streams = streams_for(len(paths))
        threads = torch.get_num_threads()
        proposer = Proposer(
            load_engine(source, engine, device, streams=streams),
            num_proposals=trained_with.get("num_proposals", 200),
            scales=trained_with.get("scales", "default"),
        )
        # Each stream reads the regions of its photo with its share of the cores.
        torch.set_num_threads(max(1, threads // streams))
        find = Detector(classifier, proposer, min_score=min_score)
        settings = settings_of(context, proposer.engine, detector, source)
        pictures = overlay_paths(paths, output) if overlay else {}

        found_in = records_by(find, lambda found: found.plot(overlay_score), pictures)
        write_records(
            paths, found_in, output / "detections.json", settings=settings, streams=streams
        )
