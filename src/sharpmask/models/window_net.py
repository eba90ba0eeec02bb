"""What networks share: being saved and published; being read as patches or as images."""

import json
import os
import tempfile
import textwrap
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from sharpmask.extras import extras_for
from sharpmask.files import fingerprint
from sharpmask.models.sources import WeightsError, resolve
from sharpmask.models.tensor_files import parsed, read_safetensors, save_atomically
from sharpmask.shapes import Float, Int


class SavedNet(nn.Module):
    """A network that knows how it is built, and can be saved and published.

    Attributes:
        kind: What its files call its class.
        architecture: What ``from_architecture`` makes such a network from, in JSON's types; empty
            if its backbone is not one of the package's.
        metadata: What its file says of it besides: recipe, data, licence, figures.
    """

    kind: ClassVar[str]
    architecture: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[str, Any] = {}

    @classmethod
    @abstractmethod
    def of_options(cls, options: dict[str, Any]) -> "SavedNet":
        """A network with random weights from its architecture, without the kind."""

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """A network of this class with random weights from its description, as files hold it.

        Raises:
            ValueError: Another class or unknown arguments.
        """
        try:
            options = dict(architecture)
            kind = options.pop("model", None)
            if kind != cls.kind:
                raise ValueError(f"architecture: expected {cls.kind}, got {kind!r}")
            model = cls.of_options(options)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"architecture: {error}") from None
        assert isinstance(model, cls)
        return model

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``folder/model.safetensors``, which ``load`` and ``from_pretrained`` read.

        Raises:
            ValueError: Its backbone is not one of the package's, so no file can describe it.
        """
        path = Path(folder) / "model.safetensors"
        save(self, path, metadata=self.metadata)
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
        return load_as(cls.from_architecture, source)

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Publish on the Hugging Face Hub; whoever is logged in there must own the repository.

        Args:
            repository: "owner/name"; made if it does not exist.
            private: Whether a new repository is private.

        Returns:
            The address of the commit.

        Raises:
            ValueError: Its backbone is not one of the package's.
            MissingExtraError: huggingface_hub is not installed.
        """
        with extras_for(repository):
            from huggingface_hub import HfApi  # slow to import

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload a sharpmask model"
            )
        return str(commit)


class WindowNet(SavedNet):
    """A network of the windows of one level: DeepMask or SharpMask."""

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
        cells = patch_cells(len(images)).to(images.device)
        return self.decode(features, cells), self.score(features)[:, 0, 0]


Net = TypeVar("Net", bound=SavedNet)


def save(
    model: SavedNet,
    path: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model file, atomically.

    Args:
        model: Any of the package's.
        path: A .safetensors file.
        metadata: Recipe, data, figures: anything JSON holds.
        dtype: Type of the stored values, e.g. float16 for half the size; theirs if None.

    Raises:
        ValueError: The model's backbone is not one of the package's.
    """
    if not model.architecture:
        raise ValueError(
            f"{path}: the model's backbone is not one of the package's, so a file cannot say how "
            "to build it; save its state_dict() instead"
        )
    texts = {"architecture": json.dumps(model.architecture)}
    texts |= {key: json.dumps(value) for key, value in (metadata or {}).items()}
    state = {
        key: value.detach().to("cpu", dtype or value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    save_atomically(state, path, texts)


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of all weights in float32, with their names: the same for a model and its files."""
    state = model.state_dict()
    tensors = (state[key].detach().float().cpu().numpy() for key in sorted(state))
    return fingerprint(" ".join(sorted(state)).encode(), *(x.tobytes() for x in tensors))


def load_as(build: Callable[[Mapping[str, Any]], Net], source: str | os.PathLike[str]) -> Net:
    """The network of a model file, in eval mode and float32.

    Args:
        build: Makes it from the architecture in the file.
        source: What ``load`` takes.

    Raises:
        WeightsError: No such name or file, not a model file, or damaged.
    """
    path = resolve(source)
    state, texts = read_safetensors(path)
    if "detector" in texts:
        raise WeightsError(f"{path}: a detector, which names objects: sharpmask detect takes it")
    if "architecture" not in texts:
        raise WeightsError(
            f"{path}: not a sharpmask model file (no architecture in its metadata); a backbone "
            "for training is given with --init"
        )
    try:
        model = build(json.loads(texts.pop("architecture")))
        model.load_state_dict({key: value.float() for key, value in state.items()})
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: {textwrap.shorten(str(error), 300)}") from None
    model.metadata = parsed(texts)
    return model.eval()


def patch_cells(count: int) -> Int[Tensor, "count 3"]:
    """The only cell of each of ``count`` single-patch images."""
    cells = torch.zeros(count, 3, dtype=torch.long)
    cells[:, 0] = torch.arange(count)
    return cells
