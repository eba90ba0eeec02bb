"""What DeepMask and SharpMask share: being read as patches or images, being kept and published."""

import os
import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class WindowNet(nn.Module):
    """A network of windows that knows how it is built, and can be saved and published.

    Attributes:
        architecture: What ``weights.build`` makes it from.
        metadata: What its file says of it besides: recipe, data, licence, figures.
    """

    architecture: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[str, Any] = {}

    def encode(self, images: Tensor) -> Any:
        """Read images (B, 3, H, W), RGB 0..255: everything that does not depend on a cell."""
        raise NotImplementedError

    def encode_patches(self, windows: Tensor) -> Any:
        """Read windows (B, 3, window_size, window_size), each its own image of a single cell."""
        raise NotImplementedError

    def score(self, features: Any) -> Float[Tensor, "b rows columns"]:
        """Objectness logits of all cells."""
        raise NotImplementedError

    def decode(self, features: Any, cells: Int[Tensor, "n 3"]) -> Float[Tensor, "n s s"]:
        """Mask logits of the chosen cells (image, row, column)."""
        raise NotImplementedError

    def forward(
        self, images: Tensor, cells: Int[Tensor, "n 3"] | None = None
    ) -> tuple[Float[Tensor, "n s s"], Float[Tensor, "b *cells"]]:
        """Mask logits of the chosen cells, and score logits, of images (B, 3, H, W), RGB 0..255.

        Without ``cells`` the images are single windows (B, 3, window_size, window_size) and there
        is one mask and one score for each; else scores come for all cells (B, rows, columns).
        """
        if cells is not None:
            features = self.encode(images)
            return self.decode(features, cells), self.score(features)
        features = self.encode_patches(images)
        return self.decode(features, patch_cells(len(images))), self.score(features)[:, 0, 0]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``folder/model.safetensors``, which ``load`` and ``from_pretrained`` read."""
        from sharpmask.models.pretrained import save

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
        from sharpmask.models.pretrained import load
        from sharpmask.models.sources import WeightsError

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


def patch_cells(count: int) -> Int[Tensor, "count 3"]:
    """The only cell of each of ``count`` single-patch images."""
    cells = torch.zeros(count, 3, dtype=torch.long)
    cells[:, 0] = torch.arange(count)
    return cells
