"""Keeping a network in a folder or on the Hugging Face Hub."""

import os
import tempfile
from pathlib import Path
from typing import Any, Self

from torch import nn


class Pretrained(nn.Module):
    """A network that knows how it is built, and can be saved and published.

    Attributes:
        architecture: What ``weights.build`` makes it from.
        metadata: What its file says of it besides: recipe, data, licence, figures.
    """

    architecture: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[str, Any] = {}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``folder/model.safetensors``, which ``load`` and ``from_pretrained`` read."""
        from sharpmask.models.weights import save

        path = Path(folder) / "model.safetensors"
        save(self, path, metadata=self.metadata)  # type: ignore[arg-type]
        return path

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> Self:
        """Load a network of this class, in eval mode.

        Args:
            source: What ``load`` takes: a name in the package, a file, a folder, or a Hugging Face
                repository "owner/name".

        Raises:
            WeightsError: There is none, or it is of another class.
        """
        from sharpmask.models.weights import WeightsError, load

        model = load(source)
        if not isinstance(model, cls):
            raise WeightsError(
                f"{source}: holds a {type(model).__name__}, not a {cls.__name__}; "
                f"use {type(model).__name__}.from_pretrained or sharpmask.load"
            )
        return model

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Publish on the Hugging Face Hub; whoever is logged in there must own the repository.

        Args:
            repository: "owner/name"; made if it does not exist.
            private: Whether a new repository is private.

        Returns:
            The address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload a sharpmask model"
            )
        return str(commit)
