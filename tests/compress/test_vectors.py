import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sharpmask.cli.main import app
from sharpmask.compress.vectors import shorten_vector
from sharpmask.engines.torch_engine import TorchEngine
from sharpmask.images import write_image
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import build, load, read_metadata, save

RANK = 3
PHOTOS = list(np.random.default_rng(0).integers(0, 256, (2, 64, 80, 3), np.uint8))


def thin(head="c", sharp=True, **options):
    torch.manual_seed(0)
    deepmask = {"model": "deepmask", "backbone": "resnet18", "width": 8, "head": head}
    deepmask |= {"vector": 16, "bottleneck_channels": 8, "score_channels": 16, **options}
    if not sharp:
        return build(deepmask)
    return build({"model": "sharpmask", "deepmask": deepmask, "mask_channels": 16})


@torch.no_grad()
def of_rank(model, rank):
    """The model with a large linear of this rank, its two factors not told apart."""
    weight = getattr(model, "deepmask", model).head.joint.weight
    left, values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    values[rank:] = 0
    weight.copy_(((left * values) @ right).view_as(weight))
    return model


@pytest.mark.parametrize("sharp", [True, False])
def test_nothing_is_lost_where_the_vectors_lie_in_a_plane(sharp):
    model = of_rank(thin(sharp=sharp), RANK)
    shortened, kept = shorten_vector(model, PHOTOS, RANK)
    assert kept == pytest.approx(1)
    assert getattr(shortened, "deepmask", shortened).vector == RANK
    image = np.random.default_rng(1).integers(0, 256, (192, 224, 3), np.uint8)
    whole, thinner = (TorchEngine(m, torch.device("cpu")) for m in (model, shortened))
    ((expected,), features), ((scores,), same) = whole.encode(image), thinner.encode(image)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    cells = np.array([[0, 0, 0], [0, 2, 3]])
    np.testing.assert_allclose(
        thinner.decode(same, cells), whole.decode(features, cells), atol=1e-4
    )


@pytest.mark.slow
def test_a_lower_rank_keeps_the_largest_part():
    model = of_rank(thin(), RANK)
    shares = [shorten_vector(model, PHOTOS, rank)[1] for rank in (1, 2, RANK)]
    assert 0 < shares[0] < shares[1] < shares[2]


def test_one_photo_counts_its_best_cells_twice():
    # With fewer cells than are called best, both halves are the same: a plain covariance.
    model = thin()
    (photo,) = PHOTOS[:1]
    _, kept = shorten_vector(model, [photo], 2)
    engine = TorchEngine(model, torch.device("cpu"))
    levels = Proposer(engine).levels(photo)
    vectors = np.concatenate([level.features.masks[0][0].flatten(1).T.numpy() for level in levels])
    assert len(vectors) < 500
    variances = np.linalg.eigvalsh(np.cov(vectors.T))
    assert kept == pytest.approx(variances[-2:].sum() / variances.sum(), abs=1e-6)


@pytest.mark.parametrize(
    ("model", "photos", "length", "message"),
    [
        (thin("a"), PHOTOS, 2, "head c"),
        (thin("b"), PHOTOS, 2, "head c"),
        (thin(), PHOTOS, 0, "vector: expected 1 to 15, got 0"),
        (thin(), PHOTOS, 16, "vector: expected 1 to 15, got 16"),
        (thin(), [], 2, "photos: at least one is needed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_that_cannot_be_shortened_are_refused(model, photos, length, message):
    with pytest.raises(ValueError, match=message):
        shorten_vector(model, photos, length)


def test_the_command_writes_a_model_that_says_what_was_done(tmp_path):
    save(thin(), tmp_path / "whole.safetensors", metadata={"licence": "free"})
    write_image(tmp_path / "photo.png", PHOTOS[0])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    output = tmp_path / "out" / "thinner.safetensors"
    arguments = [str(tmp_path / "whole.safetensors"), str(output), "--images", str(tmp_path)]
    result = CliRunner().invoke(app, ["compress", *arguments, "--vector", "4"])
    assert result.exit_code == 0, result.output
    metadata = read_metadata(output)
    kept = metadata["compression"].pop("variance_kept")
    assert metadata["compression"] == {"vector": 4, "photos": 1}
    assert metadata["licence"] == "free"
    assert "broken.jpg: is not a JPEG" in result.stderr
    assert f"keeps {100 * kept:.1f} % of the variance over 1 photos" in result.output
    assert load(output).deepmask.vector == 4
