import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy_run
from toy_run import (
    RECIPE,
    SPEED,
    Numbers,
    Toy,
    assert_same_bits,
    at_step,
    checkpoint,
    interrupt,
    metrics,
    run,
    toy_figures,
    toy_loss,
)

import sharpmask
from sharpmask.training import metrics_log
from sharpmask.training.learner import make_optimizer, swapped
from sharpmask.training.loop import StepBatches
from tolerances import DOUBLE

# --- what a step does ---


def slow_fit(model, recipe):
    """``fit`` by the book, parameter by parameter; returns losses and averages."""
    parameters = dict(model.named_parameters())
    average = {name: p.detach().clone() for name, p in parameters.items()}
    memory = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in parameters.items()}
    losses = []
    for step in range(recipe.steps):
        epoch, position = divmod(step, recipe.epoch_steps)
        numbers = range(position * recipe.batch_size, (position + 1) * recipe.batch_size)
        batch = torch.stack([Numbers()[epoch, k] for k in numbers])
        total = sum(toy_loss(model, batch).values())
        losses.append(total.item())
        gradients = dict(
            zip(parameters, torch.autograd.grad(total, [*parameters.values()]), strict=True)
        )
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        # torch keeps a millionth away from dividing by zero.
        shrink = min(1, recipe.clip_norm / (norm + 1e-6)) if recipe.clip_norm else 1
        if recipe.schedule == "steps":
            factor = 1.0
        else:
            factor = min(1, (step + 1) / recipe.warmup_steps)
            factor *= 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        with torch.no_grad():
            for name, p in parameters.items():
                g = gradients[name] * shrink
                rate = factor * (
                    recipe.backbone_learning_rate
                    if name.startswith("backbone")
                    else recipe.learning_rate
                )
                decay = recipe.weight_decay if name.endswith("weight") else 0
                m, v = memory[name]
                if recipe.optimizer == "sgd":
                    m.copy_(0.9 * m + g + decay * p)
                    p -= rate * m
                else:
                    m.copy_(0.9 * m + 0.1 * g)
                    v.copy_(0.999 * v + 0.001 * g**2)
                    t = step + 1
                    p *= 1 - rate * decay
                    p -= rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                d = min(recipe.ema_decay, (1 + step) / (10 + step))
                average[name] = d * average[name] + (1 - d) * p
    return losses, average


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_norm": 0.0, "ema_decay": 0.3},
        {"optimizer": "sgd", "weight_decay": 0.01},
        {"optimizer": "sgd", "schedule": "steps", "batch_size": 3, "epoch_steps": 7},
    ],
)
def test_fit_is_the_slow_loop(tmp_path, settings):
    recipe = dataclasses.replace(RECIPE, **settings)
    fast, slow, losses = Toy(dropout=0.0), Toy(dropout=0.0), []

    def noted_loss(model, batch):
        terms = toy_loss(model, batch)
        losses.append(float(sum(terms.values()).detach()))
        return terms

    figures = run(tmp_path, fast, recipe=recipe, loss=noted_loss)
    expected, average = slow_fit(slow, recipe)
    assert losses == pytest.approx(expected, rel=1e-9)
    saved = checkpoint(tmp_path)
    for name, parameter in fast.named_parameters():
        # The model holds the average; the checkpoint both.
        torch.testing.assert_close(parameter.detach(), average[name], **DOUBLE)
        torch.testing.assert_close(saved[f"average.{name}"], average[name], **DOUBLE)
        torch.testing.assert_close(
            saved[f"model.{name}"], slow.get_parameter(name).detach(), **DOUBLE
        )
    assert not fast.training
    assert figures == toy_figures(fast)


def test_without_an_average_the_model_is_the_last_one(tmp_path):
    model = Toy()
    run(tmp_path, model, recipe=dataclasses.replace(RECIPE, ema_decay=0.0))
    saved = checkpoint(tmp_path)
    assert not any(key.startswith("average.") for key in saved)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, saved[f"model.{name}"])


def test_dropout_differs_from_step_to_step_and_is_off_in_validation(tmp_path):
    drawn = []

    def loss(model, batch):
        drawn.append(tuple(model.head[0](torch.ones(8, dtype=torch.float64)).tolist()))
        return toy_loss(model, batch)

    run(tmp_path, loss=loss)
    assert len(set(drawn)) > 15


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_parameters_keep_every_bit(tmp_path, optimizer):
    model, before = Toy(), Toy().state_dict()
    model.backbone.requires_grad_(False)
    run(tmp_path, model, recipe=dataclasses.replace(RECIPE, optimizer=optimizer))
    saved = checkpoint(tmp_path)
    for name, parameter in model.named_parameters():
        if name.startswith("backbone"):
            assert torch.equal(parameter, before[name])
            assert torch.equal(saved[f"model.{name}"], before[name])
            assert f"average.{name}" not in saved
        else:
            assert not torch.equal(parameter, before[name])


def test_learning_lowers_the_loss(tmp_path):
    model = Toy(dropout=0.0)
    batch = torch.stack([Numbers()[99, k] for k in range(64)])
    before = toy_loss(model, batch)["fit"].item()
    run(tmp_path, model, recipe=dataclasses.replace(RECIPE, steps=60, weight_decay=0.0))
    assert toy_loss(model, batch)["fit"].item() < before / 2


def test_groups_of_the_optimizer():
    groups = make_optimizer(dict(Toy().named_parameters()), RECIPE).param_groups
    found = {(g["lr"], g["weight_decay"]): [p.ndim for p in g["params"]] for g in groups}
    assert found == {(0.02, 0.1): [2], (0.02, 0.0): [1], (0.05, 0.1): [2], (0.05, 0.0): [1]}


def environment():
    """Where a new process finds the package."""
    source = Path(sharpmask.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(source)}


# --- several processes ---


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_processes_share_each_batch(world_size):
    recipe = dataclasses.replace(RECIPE, steps=7, epoch_steps=3)
    parts = [list(StepBatches(recipe, 2, rank, world_size)) for rank in range(world_size)]
    assert [len(part) for part in parts] == [5] * world_size
    assert len(StepBatches(recipe, 2, 0, world_size)) == 5
    for step, batches in enumerate(zip(*parts, strict=True), 2):
        assert {len(batch) for batch in batches} == {4 // world_size}
        expected = [(step // 3, 4 * (step % 3) + k) for k in range(4)]
        assert sorted(itertools.chain(*batches)) == expected


def test_batches_must_be_shared_evenly(tmp_path):
    with pytest.raises(ValueError, match="batch_size 4 cannot be shared evenly by 3 devices"):
        run(tmp_path, fabric=SimpleNamespace(world_size=3))


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        ("[gloo/transport/tcp/pair.cc:537] Connection reset by peer", ConnectionError, "process 0"),
        ("mat1 and mat2 shapes cannot be multiplied", RuntimeError, "mat1 and mat2"),
    ],
)
def test_a_lost_process_is_told_from_other_errors(tmp_path, message, kind, said):
    def fail(terms, model):
        raise RuntimeError(message)

    with pytest.raises(kind, match=said) as error:
        run(tmp_path, loss=at_step(3, fail))
    assert error.type is kind


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    for devices in (1, 2):
        command = [sys.executable, toy_run.__file__, str(devices), str(tmp_path / str(devices))]
        subprocess.run(command, env=environment(), check=True, timeout=600)
    alone = [*map(float, (tmp_path / "1" / "losses-0.txt").read_text().split())]
    halves = [
        [*map(float, (tmp_path / "2" / f"losses-{rank}.txt").read_text().split())]
        for rank in (0, 1)
    ]
    together = [(a + b) / 2 for a, b in zip(*halves, strict=True)]
    assert len(alone) == 20
    assert together == pytest.approx(alone, rel=1e-5)
    assert halves[0] != pytest.approx(halves[1], rel=1e-2)
    first, second = (checkpoint(tmp_path / name) for name in "12")
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-5, atol=1e-5)
    # What is logged is the mean over the processes too.
    for one, two in zip(metrics(tmp_path / "1"), metrics(tmp_path / "2"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)


# --- metrics ---


def test_metrics_are_one_json_object_a_line(tmp_path, monkeypatch):
    # A clock that goes on by half a second whenever it is read: once while waiting for data and
    # once while learning makes a second a step.
    ticks = itertools.count(0, 0.5)
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr(metrics_log, "time", clock)
    run(tmp_path, recipe=dataclasses.replace(RECIPE, steps=27, validate_every=10))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], *line) for line in lines] == [
        (10, "step", "val_size"),
        (20, "step", "fit", "size", *SPEED),
        (20, "step", "val_size"),
        (27, "step", "fit", "size", *SPEED),
        (27, "step", "val_size"),
    ]
    for line in (lines[1], lines[3]):
        assert line["samples_per_s"] == 4
        assert line["waiting_for_data"] == 0.5
        assert line["fit"] > 0


def test_the_last_losses_are_logged(tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=1, ema_decay=0.0)
    model = Toy(dropout=0.0)
    expected = toy_loss(model, torch.stack([Numbers()[0, k] for k in range(4)]))
    run(tmp_path, model, recipe=recipe, validate=None)
    (line,) = metrics(tmp_path)
    assert line == {"step": 1} | {
        name: pytest.approx(term.item(), rel=1e-12) for name, term in expected.items()
    }


def test_metrics_beyond_the_checkpoint_are_cut_off(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=at_step(11, interrupt))
    path = tmp_path / "metrics.jsonl"
    # Steps that were done after the checkpoint, and a line that the power failure cut short.
    path.write_text(path.read_text() + '{"step": 12, "kept": 1}\n{"step": 13, "lost": 1}\n{"st')
    run(tmp_path)
    steps = [line["step"] for line in metrics(tmp_path)]
    assert steps == [5, 10, 12, 15, 20, 20]
    assert [line for line in metrics(tmp_path) if line["step"] != 12] == metrics(whole[0])


def test_a_new_run_begins_new_metrics(tmp_path, whole):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "old": 1}\n')
    run(tmp_path)
    assert metrics(tmp_path) == metrics(whole[0])


def test_tensorboard_has_the_figures_too(tmp_path):
    run(tmp_path)
    (events,) = tmp_path.glob("events.out.tfevents.*")
    content = events.read_bytes()
    assert all(name in content for name in (b"fit", b"val_size", b"samples_per_s"))


def test_each_step_is_told_with_its_loss(tmp_path):
    told = []
    run(tmp_path, on_step=lambda done, loss: told.append((done, loss)))
    assert [done for done, _ in told] == list(range(1, 21))
    last = [line for line in metrics(tmp_path) if "fit" in line][-1]
    assert told[-1][1] == pytest.approx(last["fit"] + last["size"], rel=1e-12)


def test_tensorboard_is_closed_in_the_end(tmp_path):
    threads = threading.active_count()
    run(tmp_path)
    assert threading.active_count() == threads
    if Path("/proc/self/fd").exists():
        names = {os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()}
        assert not [name for name in names if "tfevents" in name]


def test_averaged_weights_are_there_for_a_while():
    model = Toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    average = {name: torch.full_like(p, 7.0) for name, p in before.items() if "weight" in name}
    with swapped(dict(model.named_parameters()), average):
        for name, p in model.named_parameters():
            assert torch.all(p == 7) if "weight" in name else torch.equal(p, before[name])
    assert_same_bits(dict(model.named_parameters()), before)
    assert all(torch.all(value == 7) for value in average.values())
