"""Runs that are stopped, killed or spoiled, and go on."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import toy_run
from safetensors.torch import save_file
from toy_run import (
    RECIPE,
    Toy,
    assert_same_bits,
    assert_same_run,
    at_step,
    checkpoint,
    interrupt,
    never,
    run,
    steps_done,
)

from sharpmask.files import owned
from sharpmask.training import loop
from sharpmask.training.checkpoint import digest, read_checkpoint
from sharpmask.training.signals import Stopped

# --- stopping and going on ---


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

    def save(known):
        assert not model.training
        assert known["recipe"]["steps"] == known["steps"]["of"] == 20
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        saved.append((known["steps"]["done"], known["validation"], weights))

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
