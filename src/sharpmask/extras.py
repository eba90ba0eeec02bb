"""Packages that only parts of this one need, and the extra that brings each of them."""

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {
    "torch": "train",
    "lightning_fabric": "train",
    "tensorboard": "train",
    "matplotlib": "plots",
    "openvino": "openvino",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "nncf": "int8",
    "sklearn": "rcnn",
    "pyarrow": "parquet",
    "huggingface_hub": "hub",
    "starlette": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "ray": "ray",
}
"""By the name under which each is imported."""


class MissingExtraError(ImportError, ValueError):
    """A package that only some parts need is not installed; the message says how to get it."""


def how_to_get(package: str) -> str:
    """What to do about a package that is not installed."""
    return f"{package} is not installed; pip install 'sharpmask[{EXTRAS[package]}]'"


@contextmanager
def extras_for(purpose: str) -> Iterator[None]:
    """What is imported in this block need not be installed.

    Args:
        purpose: What needs it: begins the message.

    Raises:
        MissingExtraError: A package of ``EXTRAS`` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingExtraError(f"{purpose}: {how_to_get(package)}") from None
