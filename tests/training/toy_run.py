"""A net of a few numbers for ``fit``; run as a script, a process of its own for it."""

import dataclasses
import io
import itertools
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

from sharpmask.training.loop import fit
from sharpmask.training.recipes import deepmask

RECIPE = dataclasses.replace(
    deepmask(), steps=20, batch_size=4, learning_rate=0.05, backbone_learning_rate=0.02,
    weight_decay=0.1, warmup_steps=4, clip_norm=0.5, ema_decay=0.9, epoch_steps=5, validate_every=5,
    seed=3,
)  # fmt: skip


class Toy(nn.Module):
    """Reads six numbers."""

    def __init__(self, dropout=0.5, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8, 1))
        self.double()

    def forward(self, x):
        return self.head(self.backbone(x))[:, 0]


class Numbers(Dataset):
    """Six numbers and what is to be made of them, by (epoch, number)."""

    def __getitem__(self, index):
        epoch, number = index
        x = torch.randn(
            6, generator=torch.Generator().manual_seed(1000 * epoch + number), dtype=torch.float64
        )
        return torch.cat([x, (x[:3].sum() - x[3:].prod())[None]])


def toy_loss(model, batch):
    output = model(batch[:, :6])
    return {"fit": ((output - batch[:, 6]) ** 2).mean(), "size": 0.01 * (output**2).mean()}


def toy_figures(model):
    assert not model.training
    return {"size": sum(float(p.detach().abs().sum()) for p in model.parameters())}


def run(output, model=None, **options):
    """``fit`` on the toy; whatever is not given is the usual."""
    if "fabric" not in options:
        options["fabric"] = Fabric(accelerator="cpu", devices=1)
        options["fabric"].launch()
    usual = {
        "dataset": Numbers(),
        "collate": torch.stack,
        "loss": toy_loss,
        "validate": toy_figures,
        "recipe": RECIPE,
        "workers": 0,
    }
    return fit(Toy() if model is None else model, output=output, **{**usual, **options})


SPEED = ("samples_per_s", "waiting_for_data")


def checkpoint(folder):
    return load_file(folder / "checkpoint.safetensors")


def steps_done(path):
    path = path / "checkpoint.safetensors" if path.is_dir() else path
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["step"])


def metrics(folder):
    """Lines of metrics.jsonl without the speed, which differs from run to run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in SPEED} for line in lines]


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def at_step(number, action):
    """The usual loss, with something happening in the given step of this run."""
    steps = itertools.count()

    def loss(model, batch):
        terms = toy_loss(model, batch)
        return action(terms, model) or terms if next(steps) == number else terms

    return loss


def interrupt(terms, model):
    signal.raise_signal(signal.SIGINT)


def never(model, batch):
    raise AssertionError("nothing is left to learn")


def assert_same_run(whole, folder, model, figures):
    assert_same_bits(checkpoint(folder), checkpoint(whole[0]))
    assert_same_bits(model.state_dict(), whole[1].state_dict())
    assert metrics(folder) == metrics(whole[0])
    assert figures == whole[2]


class HalfWritten(io.FileIO):
    """A file that the process does not live to fill."""

    def write(self, data):
        super().write(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


def in_child(function):
    """Start a function in a process that is a copy of this one."""
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    return child


def killed_at(output, call, number):
    """Let the system kill this process in a write, or before an fsync or replace: the n-th."""
    owners = {"write": (Path, "open"), "fsync": (os, "fsync"), "replace": (Path, "replace")}
    owner, name = owners[call]
    original, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments, **options):
        if (call != "write" or "xb" in arguments) and next(calls) == number:
            if call == "write":
                return HalfWritten(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, counted)
    run(output)


def golden():
    """The losses of 200 steps."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = dataclasses.replace(RECIPE, steps=200, epoch_steps=50, validate_every=50)
        run(Path(folder), Toy(), recipe=recipe)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    return [[line["step"], line["fit"], line["size"]] for line in logged if "fit" in line]


def shared(output, devices, killed_rank=None):
    """Train on several processes; each notes its losses; one may be killed in its eighth step."""
    strategy = "ddp_find_unused_parameters_true" if devices > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=devices, strategy=strategy)
    fabric.launch()
    losses = []

    def noted_loss(model, batch):
        terms = toy_loss(model, batch)
        losses.append(float(sum(terms.values()).detach()))
        if len(losses) == 8 and fabric.global_rank == killed_rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return terms

    run(output, Toy(dropout=0.0), fabric=fabric, loss=noted_loss)
    path = output / f"losses-{fabric.global_rank}.txt"
    path.write_text("\n".join(map(str, losses)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[2])
    if sys.argv[1] == "golden":  # records anew what a deliberate change of learning changed
        folder.write_text(json.dumps(golden(), indent=1))
    else:
        shared(folder, int(sys.argv[1]), *map(int, sys.argv[3:]))
