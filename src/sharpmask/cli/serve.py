"""``sharpmask serve``: the page and the interface for label tools."""

import logging
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from sharpmask import defaults
from sharpmask.cli.console import clear_errors, err, out
from sharpmask.cli.model_options import Device, EngineChoice, NumProposals, Scales, Weights
from sharpmask.detection.detector import Detector
from sharpmask.detection.files import load_head
from sharpmask.detection.proposing import check_engine, proposer_source
from sharpmask.engines.load import EngineName, load_engine
from sharpmask.extras import extras_for
from sharpmask.inference.batch import MAX_STREAMS, streams_for
from sharpmask.inference.proposer import Proposer
from sharpmask.models.sources import source_fingerprint
from sharpmask.selection import Selection
from sharpmask.serve.remembered import Photos
from sharpmask.serve.settings import LOOPBACK, Limits, Settings

TOOLS = "Label tools"
LIMITS = "Limits"

if TYPE_CHECKING:
    from starlette.applications import Starlette

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8008,
    token: Annotated[
        str,
        typer.Option(
            envvar="SHARPMASK_TOKEN",
            show_envvar=True,
            help="Secret word that each client must send.",
        ),
    ] = "",
    weights: Weights = defaults.MODEL,
    detector: Annotated[
        str,
        typer.Option(
            help="Detector for /v1/detect, trained with the model of --weights: a name, folder, "
            "file or repository. Default: the one that belongs to the default model."
        ),
    ] = "",
    num_proposals: NumProposals = defaults.NUM_PROPOSALS,
    scales: Scales = "default",
    engine: EngineChoice = "auto",
    device: Device = "auto",
    origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Other web page that may ask, as https://example.org; may be given several times."
        ),
    ] = None,
    label_studio: Annotated[
        str,
        typer.Option(
            help="Address of the Label Studio whose photos may be fetched: http://localhost:8080.",
            rich_help_panel=TOOLS,
        ),
    ] = "",
    label_studio_token: Annotated[
        str,
        typer.Option(
            envvar="LABEL_STUDIO_API_KEY",
            show_envvar=True,
            help="Label Studio's access token. Default: the one that Label Studio sends.",
            rich_help_panel=TOOLS,
        ),
    ] = "",
    min_score: Annotated[
        float,
        typer.Option(help="Leave out masks with a lower score (0 to 1).", rich_help_panel=TOOLS),
    ] = Selection.min_score,
    top: Annotated[
        int, typer.Option(min=1, help="Maximum number of masks per photo.", rich_help_panel=TOOLS)
    ] = 50,
    max_megabytes: Annotated[
        float, typer.Option(min=0.1, help="Largest request, in megabytes.", rich_help_panel=LIMITS)
    ] = 32,
    max_megapixels: Annotated[
        float, typer.Option(min=0.1, help="Largest photo, in megapixels.", rich_help_panel=LIMITS)
    ] = 50,
    queue: Annotated[
        int,
        typer.Option(
            min=1,
            help="Requests that may wait or run; others are told to come back later (429).",
            rich_help_panel=LIMITS,
        ),
    ] = 16,
    time_limit: Annotated[
        float,
        typer.Option(
            min=1,
            help="Seconds for an answer; what takes longer is given up (503).",
            rich_help_panel=LIMITS,
        ),
    ] = 60,
) -> None:
    """Serve a page in which people pick masks, and the interfaces of label tools.

    Label Studio and X-AnyLabeling take the printed address as their backend. Needs
    sharpmask[serve].
    """
    with clear_errors():
        with extras_for("serve"):
            import uvicorn  # noqa: F401

            from sharpmask.serve.apart import PhotosApart
            from sharpmask.serve.app import create_app
        if host not in LOOPBACK and not token:
            raise ValueError(
                f"--host {host}: others than this machine could ask; give --token, any long secret"
            )
        threads = streams_for(MAX_STREAMS)
        named = detector or (defaults.DETECTOR if weights == defaults.MODEL else "")
        settings = Settings(
            limits=Limits(
                max_bytes=int(max_megabytes * 1e6), max_pixels=int(max_megapixels * 1e6),
                max_count=num_proposals, queue=queue, answer_s=time_limit,
            ),
            threads=threads,
            token=token,
            hosts=LOOPBACK if host in LOOPBACK else ("*",),
            origins=origin or (),
            label_studio=label_studio,
            label_studio_token=label_studio_token,
            labels=Selection(min_score=min_score, top=top),
            names=bool(named),
        )  # fmt: skip
        # Bound before the model is loaded: a port that is taken is told at once.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
        photos = PhotosApart(
            open_photos, weights, named, engine, device, threads, num_proposals, scales,
            settings.limits,
        )  # fmt: skip
        shown = f"[{host}]" if ":" in host else host
        # Without a last slash: label tools append theirs to it.
        address = f"http://{shown}:{listening.getsockname()[1]}"
        out.print(f"{address}{f'/#token={token}' if token else ''}", markup=False)
        err.print("sharpmask: Ctrl-C ends it", markup=False)
        try:
            answer(create_app(photos, settings), listening)
        finally:
            photos.close()


def open_photos(
    weights: str,
    detector: str,
    engine: EngineName,
    device: str,
    threads: int,
    num_proposals: int,
    scales: str,
    limits: Limits,
) -> Photos:
    """What the process of the photos holds."""
    proposer = Proposer(
        load_engine(weights, engine, device, streams=threads),
        num_proposals=num_proposals,
        scales=scales,
    )
    named = detector_for(proposer, detector, weights) if detector else None
    return Photos(proposer, limits, detector=named)


def detector_for(proposer: Proposer, name: str, weights: str) -> Detector:
    """A detector on the proposer that is there.

    Raises:
        ValueError: It was trained with another model.
    """
    head = load_head(name)
    trained_with = proposer_source(head.metadata, name)
    if source_fingerprint(trained_with) != source_fingerprint(weights):
        raise ValueError(
            f"--detector {name}: was trained with {trained_with}; serve that with --weights"
        )
    check_engine(proposer.engine, weights)
    return Detector(head, proposer)


def answer(app: "Starlette", listening: socket.socket) -> None:
    """Answer requests until Ctrl-C."""
    import uvicorn

    logging.basicConfig(format="sharpmask: %(message)s", level=logging.WARNING)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listening])
