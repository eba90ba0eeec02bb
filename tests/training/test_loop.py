import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_run import RECIPE, Numbers, Toy, run, toy_figures, toy_loss

import sharpmask
from sharpmask.files import owned
from sharpmask.training import loop, metrics_log
from sharpmask.training.checkpoint import digest, read_checkpoint
from sharpmask.training.learner import make_optimizer, swapped
from sharpmask.training.loop import StepBatches
from sharpmask.training.signals import Stopped
from tolerances import DOUBLE

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


# --- stopping and going on ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 20 steps in one go: its folder, model and figures."""
    folder, model = tmp_path_factory.mktemp("whole"), Toy()
    return folder, model, run(folder, model)


def assert_same_run(whole, folder, model, figures):
    assert_same_bits(checkpoint(folder), checkpoint(whole[0]))
    assert_same_bits(model.state_dict(), whole[1].state_dict())
    assert metrics(folder) == metrics(whole[0])
    assert figures == whole[2]


@pytest.mark.parametrize("stops", [[10], [1], [19], [3, 4, 12]])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, whole, stops):
    done = 0
    for stop in stops:
        with pytest.raises(KeyboardInterrupt, match=f"{stop} of 20 steps are saved in .*same"):
            run(tmp_path, loss=at_step(stop - 1 - done, interrupt))
        assert steps_done(tmp_path) == stop
        done = stop
    model = Toy(seed=9)  # overwritten by the checkpoint
    assert_same_run(whole, tmp_path, model, run(tmp_path, model))


def test_momentum_goes_on_bit_for_bit(tmp_path):
    recipe = dataclasses.replace(RECIPE, optimizer="sgd")
    first, second = Toy(), Toy()
    run(tmp_path / "whole", first, recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", recipe=recipe, loss=at_step(6, interrupt))
    run(tmp_path / "parts", second, recipe=recipe)
    assert_same_bits(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))
    assert_same_bits(second.state_dict(), first.state_dict())
    assert any("momentum" in key for key in checkpoint(tmp_path / "parts"))


def environment():
    """Where a new process finds the package."""
    source = Path(sharpmask.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(source)}


@pytest.mark.reliability("training killed in a write, sync or rename: bit-identical ends")
@pytest.mark.parametrize(
    ("call", "number", "left"),
    [
        # While step 10 was being written: step 5 is still there, whole.
        ("write", 2, {"checkpoint.safetensors": 5}),
        ("fsync", 2, {"checkpoint.safetensors": 5}),
        ("replace", 2, {"checkpoint.safetensors": 5}),
        # Between the two renames there is none but the one before.
        ("replace", 3, {"checkpoint.previous.safetensors": 5}),
        ("replace", 4, {"checkpoint.safetensors": 10, "checkpoint.previous.safetensors": 5}),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, whole, call, number, left):
    child = toy_run.in_child(lambda: toy_run.killed_at(tmp_path, call, number))
    _, ending = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ending) == -signal.SIGKILL
    found = {path.name: steps_done(path) for path in tmp_path.glob("checkpoint*.safetensors")}
    assert found == left
    # What was being written lies beside them and does no harm.
    (part,) = tmp_path.glob(".*.part")
    share = part.stat().st_size / (whole[0] / "checkpoint.safetensors").stat().st_size
    assert share == pytest.approx(0.5 if call == "write" else 1, rel=0.01)
    model = Toy()
    with owned(tmp_path):
        assert not part.exists()
        assert_same_run(whole, tmp_path, model, run(tmp_path, model))


def test_ctrl_c_in_the_last_step_is_no_interruption(tmp_path, whole):
    model = Toy()
    assert_same_run(whole, tmp_path, model, run(tmp_path, model, loss=at_step(19, interrupt)))


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    seen = []

    def twice(terms, model):
        interrupt(terms, model)
        seen.append("first")
        interrupt(terms, model)
        seen.append("second")

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        run(tmp_path, loss=at_step(7, twice))
    assert seen == ["first"]
    assert steps_done(tmp_path) == 5


def test_ctrl_c_means_afterwards_what_it_meant_before(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    run(tmp_path / "a", recipe=dataclasses.replace(RECIPE, steps=2))
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", loss=at_step(1, interrupt))
    assert signal.getsignal(signal.SIGINT) is before


def test_where_ctrl_c_is_ignored_it_stays_so(tmp_path, whole):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model = Toy()
    assert_same_run(whole, tmp_path, model, run(tmp_path, model, loss=at_step(7, interrupt)))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_beside_the_main_thread_fit_works_too(tmp_path, whole):
    model = Toy()
    with ThreadPoolExecutor(1) as pool:
        figures = pool.submit(run, tmp_path, model).result()
    assert_same_run(whole, tmp_path, model, figures)


def test_a_finished_run_is_left_as_it_is(tmp_path, whole):
    run(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    model = Toy(seed=9)
    assert_same_run(whole, tmp_path, model, run(tmp_path, model, loss=never))
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert after == before


# Forking while TensorBoard's thread writes: newer Pythons warn.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_change_nothing(tmp_path, whole):
    model = Toy()
    assert_same_run(whole, tmp_path, model, run(tmp_path, model, workers=2))


@pytest.mark.parametrize("validate_every", [1, 3, 20])
def test_validation_frequency_changes_no_weight(tmp_path, whole, validate_every):
    model = Toy()
    run(tmp_path, model, recipe=dataclasses.replace(RECIPE, validate_every=validate_every))
    assert_same_bits(model.state_dict(), whole[1].state_dict())
    assert_same_bits(checkpoint(tmp_path), checkpoint(whole[0]))


def test_validation_frequency_may_change_on_the_way(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=at_step(6, interrupt))
    model = Toy()
    run(tmp_path, model, recipe=dataclasses.replace(RECIPE, validate_every=7))
    assert_same_bits(model.state_dict(), whole[1].state_dict())


def test_saving_by_time_changes_no_weight_and_nothing_is_lost(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_S", 0)

    def fail(terms, model):
        raise MemoryError

    with pytest.raises(MemoryError):
        run(tmp_path, loss=at_step(3, fail))
    assert steps_done(tmp_path) == 3
    model = Toy()
    assert_same_run(whole, tmp_path, model, run(tmp_path, model))


def test_the_model_is_saved_averaged_with_its_figures_and_steps(tmp_path, whole):
    saved, model = [], Toy()

    def save(figures, done):
        assert not model.training
        saved.append((done, figures, {k: v.clone() for k, v in model.state_dict().items()}))

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model, loss=at_step(6, interrupt), save=save)
    assert [(done, bool(figures)) for done, figures, _ in saved] == [(5, True), (7, False)]
    for name, value in checkpoint(tmp_path).items():
        part, _, key = name.partition(".")
        if part == "average":
            assert torch.equal(saved[-1][2][key], value)
    run(tmp_path, model, save=save)
    assert [done for done, _, _ in saved[2:]] == [10, 15, 20]
    assert_same_bits(saved[-1][2], whole[1].state_dict())
    assert saved[-1][1] == whole[2]


# --- signals ---


def test_sigterm_is_noted_however_often_it_comes(tmp_path, whole):
    """``timeout`` sends it twice: to the process and to its group."""

    def terminate(terms, model):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped by SIGTERM; 8 of 20 steps are saved") as stopped:
        run(tmp_path, loss=at_step(7, terminate))
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    model = Toy()
    assert_same_run(whole, tmp_path, model, run(tmp_path, model))


def test_ctrl_c_after_sigterm_stops_at_once(tmp_path):
    def both(terms, model):
        signal.raise_signal(signal.SIGTERM)
        interrupt(terms, model)

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        run(tmp_path, loss=at_step(7, both))


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_sigterm_stops_a_run_that_ignores_other_signals(tmp_path, ignored):
    """As under ``nohup``, and in the background of a script."""
    before = signal.signal(ignored, signal.SIG_IGN)

    def stop(terms, model):
        signal.raise_signal(ignored)
        signal.raise_signal(signal.SIGTERM)

    try:
        with pytest.raises(Stopped, match="SIGTERM; 8 of 20"):
            run(tmp_path, loss=at_step(7, stop))
        assert signal.getsignal(ignored) is signal.SIG_IGN
    finally:
        signal.signal(ignored, before)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_ends_a_run_in_order(tmp_path, whole, number):
    """A process with two workers; the signal reaches them too."""

    def train():
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run(tmp_path, workers=2, loss=at_step(7, lambda *_: os.killpg(0, number)))
        except Stopped as stopped:
            os._exit(128 + stopped.signal)

    child = toy_run.in_child(train)
    _, ending = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ending) == 128 + number
    assert steps_done(tmp_path) == 8
    model = Toy()
    assert_same_run(whole, tmp_path, model, run(tmp_path, model))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_end_with_a_run_that_fails(tmp_path):
    """Also while the error, and with it the loader, is kept."""

    def train():
        with pytest.raises(MemoryError) as kept:
            run(tmp_path, workers=1, loss=at_step(2, fail))
        assert kept.value
        for worker in multiprocessing.active_children():
            worker.terminate()
            worker.join(20)
            assert worker.exitcode is not None
        os._exit(7)

    def fail(terms, model):
        raise MemoryError

    _, ending = os.waitpid(toy_run.in_child(train), 0)
    assert os.waitstatus_to_exitcode(ending) == 7


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


# --- what can go wrong ---


@pytest.mark.reliability("loss that is no number: stops in that step, batch named, checkpoint kept")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_its_checkpoint_is_kept(tmp_path, whole, value):
    def spoil(terms, model):
        return {"fit": terms["fit"] * value}

    with pytest.raises(
        ValueError, match=r"step 7: the loss is (nan|inf), after samples 8 to 11 of epoch 1; lower"
    ):
        run(tmp_path, loss=at_step(7, spoil))
    assert steps_done(tmp_path) == 5
    model = Toy()
    assert_same_run(whole, tmp_path, model, run(tmp_path, model))


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_weights_that_are_no_numbers_are_not_saved(tmp_path, clip_norm):
    """A finite loss with a gradient that is none, in the very step that a checkpoint follows."""

    def spoil(terms, model):
        zero = model.head[1].bias - model.head[1].bias.detach()
        return {"fit": zero.abs().sqrt().sum()}

    recipe = dataclasses.replace(RECIPE, clip_norm=clip_norm)
    with pytest.raises(ValueError, match=r"step 9: .*weights.*The last checkpoint in .* is sound"):
        run(tmp_path, recipe=recipe, loss=at_step(9, spoil))
    assert steps_done(tmp_path) == 5
    assert all(torch.isfinite(value).all() for value in checkpoint(tmp_path).values())


def test_a_folder_with_another_recipe_is_refused(tmp_path):
    run(tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    other = dataclasses.replace(RECIPE, learning_rate=0.1, steps=30)
    with pytest.raises(
        ValueError, match=r"settings \(steps: 20 there, 30 now; learning_rate: 0\.05"
    ):
        run(tmp_path, recipe=other, loss=never)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_folder_with_another_model_is_refused(tmp_path):
    run(tmp_path)
    model = Toy()
    model.head[1] = torch.nn.Linear(8, 2)
    with pytest.raises(ValueError, match="another model; give another --output") as caught:
        run(tmp_path, model, loss=never)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_damaged_checkpoints_are_named(tmp_path, content):
    run(tmp_path)
    for path in tmp_path.glob("checkpoint*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with (
        pytest.warns(UserWarning, match=r"checkpoint\.safetensors: not a readable safetensors"),
        pytest.raises(ValueError, match=r"previous\.safetensors: not a readable safetensors"),
    ):
        run(tmp_path, loss=never)


def test_after_a_damaged_checkpoint_the_one_before_is_taken(tmp_path, whole):
    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    model = Toy()
    with pytest.warns(UserWarning, match=r"going on from checkpoint\.previous\.safetensors"):
        figures = run(tmp_path, model)
    assert_same_run(whole, tmp_path, model, figures)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="not a checkpoint of a training run"):
        run(tmp_path, loss=never)


def test_a_checkpoint_of_version_0_1_is_gone_on_with(tmp_path, whole):
    """It had one number for epochs and validation."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=at_step(6, interrupt))
    path = tmp_path / "checkpoint.safetensors"
    tensors, metadata = read_checkpoint(path)
    recipe = json.loads(metadata["recipe"])
    del recipe["epoch_steps"]
    metadata["recipe"] = json.dumps(recipe)
    metadata["sha256"] = digest(tensors, metadata)
    save_file(tensors, path, metadata)
    other = dataclasses.replace(RECIPE, epoch_steps=6)
    with pytest.raises(ValueError, match="epoch_steps: 5 there, 6 now"):
        run(tmp_path, recipe=other, loss=never)
    model = Toy()
    assert_same_run(whole, tmp_path, model, run(tmp_path, model))


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
