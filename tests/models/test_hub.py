import hashlib
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors import safe_open

import sharpmask
from sharpmask import DeepMask, SharpMask, SharpMaskPyramid, WeightsError
from sharpmask.models.pretrained import build, load, read_metadata
from sharpmask.models.sources import names, resolve, shipped

THIN = {
    "model": "deepmask", "backbone": "resnet18", "width": 4, "bottleneck_channels": 3,
    "vector": 5, "score_channels": 6, "head": "c", "padding": "symmetric",
}  # fmt: skip
NETS = {DeepMask: THIN, SharpMask: {"model": "sharpmask", "deepmask": THIN}}
METADATA = {"licence": "Apache-2.0", "data": {"photos": 3}}


@pytest.mark.parametrize("kind", NETS)
def test_a_folder_holds_all_of_a_network(tmp_path, kind):
    model = build(NETS[kind])
    model.metadata = METADATA
    written = model.save_pretrained(tmp_path / "net")
    assert written == tmp_path / "net" / "model.safetensors"
    for again in (kind.from_pretrained(tmp_path / "net"), load(tmp_path / "net")):
        assert type(again) is kind
        assert not again.training
        assert again.architecture == model.architecture
        assert again.architecture.items() >= NETS[kind].items()
        assert again.metadata == METADATA
        for key, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[key], value)


def test_a_network_of_the_other_class_is_refused(tmp_path):
    build(THIN).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"expected sharpmask, got 'deepmask'"):
        SharpMask.from_pretrained(tmp_path)


def test_publishing(tmp_path, monkeypatch):
    """What would go to the hub is a folder that can be loaded."""
    calls = []
    monkeypatch.setattr(HfApi, "create_repo", lambda _, repo, **kw: calls.append((repo, kw)))

    def upload(_, *, repo_id, folder_path, commit_message):
        assert calls == [("me/net", {"private": True, "exist_ok": True})]
        assert repo_id == "me/net"
        (file,) = Path(folder_path).iterdir()
        file.rename(tmp_path / file.name)
        return "https://example.org/commit"

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = build(THIN)
    assert model.push_to_hub("me/net", private=True) == "https://example.org/commit"
    again = DeepMask.from_pretrained(tmp_path)
    assert torch.equal(again.mask_head.weight, model.mask_head.weight)


# --- what the package ships ---


def test_the_package_ships_these():
    kinds = {
        "deepmask-nano": DeepMask,
        "sharpmask-nano": SharpMask,
        "sharpmask-pyramid-nano": SharpMaskPyramid,
    }
    assert set(names()) == kinds.keys()
    for name, kind in kinds.items():
        assert type(sharpmask.load(name)) is kind
        assert resolve(name).stat().st_size < 20e6


@pytest.mark.parametrize("kind", ["deepmask", "sharpmask"])
def test_names_of_0_1_lead_to_what_took_their_places(kind):
    with pytest.warns(FutureWarning, match=f"{kind}-mobilenetv2 is now {kind}-nano"):
        assert resolve(f"{kind}-mobilenetv2") == resolve(f"{kind}-nano")


@pytest.mark.parametrize("name", names())
def test_hash_and_size_of_shipped_files(name):
    path = resolve(name)
    sums = dict(
        reversed(line.split()) for line in (path.parent / "SHA256SUMS").read_text().splitlines()
    )
    assert sums.keys() == {f"{name}.safetensors" for name in shipped()}
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[path.name]
    metadata = read_metadata(name)
    with safe_open(path, framework="np") as file:
        stored = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118
        assert {part.get_dtype() for part in stored} == {"F16"}
        count = sum(int(torch.tensor(part.get_shape()).prod()) for part in stored)
    assert count == sum(p.numel() for p in load(name).parameters()) == metadata["parameters"]
    assert metadata["licence"].startswith("Apache-2.0")
    assert re.search(r"train2017", metadata["data"]["source"])
    assert metadata["figures"]["mask_AR"]["AR@100"] > 0
