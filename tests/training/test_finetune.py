import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from toy_run import assert_same_bits, checkpoint

from reference.thin_models import pyramid_file, thinnest
from sharpmask.coco.annotations import dataset_of
from sharpmask.coco.labels import read_labels
from sharpmask.coco.problems import TEXT_ID, Problem
from sharpmask.coco.reader import read_coco
from sharpmask.data.level_scenes import LevelSceneDataset
from sharpmask.inference.proposer import Proposer
from sharpmask.models.pretrained import build, load, save
from sharpmask.pyramid_geometry import READINGS as DEFAULT_READINGS
from sharpmask.training import finetune as module
from sharpmask.training import tuning as timing
from sharpmask.training.before_after import Measure, proposals_for
from sharpmask.training.finetune import finetune, sound_labels
from sharpmask.training.signals import Stopped
from sharpmask.training.tuning import fitted, limit_of, measured, split, tuning
from synthetic_cells import write_cells

PHOTOS = 5
READINGS = (2.0, 1.0)
"""Sides of 12 to 16 px ask for so many octaves to have the finest level's 46 px."""


def small(steps=2, **changes):
    """A recipe of few small steps; without ``steps`` the time decides."""
    usual = {"batch_size": 1, "scene_size": 64, "copy_paste": 0.0, "validate_every": 1, **changes}
    return lambda given: replace(tuning(steps or given), **usual)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Small pictures of cells."""
    folder = tmp_path_factory.mktemp("cells")
    options = {"size": (64, 96), "count": 8, "sides": (12, 16)}
    write_cells(folder, name="train.json", photos=PHOTOS, seed=1, **options)
    write_cells(folder, name="val.json", photos=1, seed=2, **options)
    return folder


def run(cells, output, *, labels="train.json", **options):
    usual = {
        "images": cells / "images", "output": output, "source": pyramid_file(cells),
        "recipe": small(), "fabric": Fabric(accelerator="cpu", devices=1), "workers": 0,
        "minutes": 0.1,
    }  # fmt: skip
    return finetune(cells / labels, **{**usual, **options})


@pytest.fixture(scope="module")
def tuned(cells, tmp_path_factory):
    """A whole run: its folder, what it returned, and what it said."""
    output, said = tmp_path_factory.mktemp("run"), []
    return output, run(cells, output, report=said.append), said


def test_a_run_leaves_a_model_that_reads_photos_at_the_sizes_of_the_data(tuned, cells):
    output, result, said = tuned
    assert load(output).geometry.readings == READINGS
    assert Proposer(str(output / "model.safetensors"), engine="torch").octaves == READINGS
    assert result.steps == 2
    assert result.photos == 1  # a fifth of five
    assert [m.name for m in result.measures] == [
        "before, at its own sizes", "before, at the sizes of the data", "after"
    ]  # fmt: skip
    assert [m.readings for m in result.measures] == [DEFAULT_READINGS, READINGS, READINGS]
    assert any("2 steps of " in line for line in said)
    with Image.open(output / "before_after.png") as picture:
        assert picture.width == 2 * 96 + 8


def test_the_same_call_finds_nothing_left_to_do(tuned, cells, monkeypatch):
    output, result, _ = tuned
    before = (output / "model.safetensors").read_bytes()
    monkeypatch.setattr(module, "fit_pyramid", None)
    assert run(cells, output) == result
    assert (output / "model.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match="learned from something else"):
        run(cells, output, min_size=9)
    with pytest.raises(ValueError, match=r"val.json: 1 of its photos are in .*val.json too, e.g. "):
        run(cells, output, labels="val.json", val=cells / "val.json")


def scored(scores):
    """A stand-in for ``measure``: the given scores, one after the other."""
    left = iter(scores)

    def measure(name, model, truth, folder, **_):
        return Measure(name, model.geometry.readings, {10: 0.0, 100: next(left)}, 0.0, 1e-3)

    return measure


@pytest.fixture
def hurried(monkeypatch):
    """Neither the speed is measured nor a picture drawn."""
    monkeypatch.setattr(module, "step_seconds", lambda *_: 2.0)
    monkeypatch.setattr(module, "picture", lambda *_: np.zeros((1, 1, 3), np.uint8))


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("own", "fitting", "checks", "after", "improved", "readings"),
    [
        (0.1, 0.2, [0.2, 0.3, 0.4], 0.5, True, READINGS),
        (0.1, 0.2, [0.2, 0.3, 0.4], 0.1, False, READINGS),  # better on a few photos only
        (0.1, 0.2, [0.2, 0.1, 0.1], 0.3, False, READINGS),  # no better on the way: not kept
        (0.4, 0.2, [0.2, 0.3, 0.3], 0.3, False, DEFAULT_READINGS),  # it was best as it came
    ],
)
def test_the_better_model_is_kept(
    cells, tmp_path, monkeypatch, own, fitting, checks, after, improved, readings
):
    monkeypatch.setattr(module, "measure", scored([own, fitting, *checks, after]))
    said = []
    result = run(cells, tmp_path / "run", report=said.append)
    assert result.improved == improved
    kept, start = load(tmp_path / "run"), load(pyramid_file(cells))
    assert kept.geometry.readings == readings
    is_start = torch.equal(kept.predict.weight, start.predict.weight)
    assert is_start == (not improved)
    assert any("the model before is kept" in line for line in said) == (not improved)


@pytest.mark.usefixtures("hurried")
def test_it_stops_when_nothing_gets_better_and_keeps_the_best(cells, tmp_path, monkeypatch):
    checks = [0.2, 0.4, 0.3, 0.3, 0.3]  # of the start, then after each step
    monkeypatch.setattr(module, "measure", scored([0.1, 0.2, *checks, 0.4]))
    said = []
    result = run(cells, tmp_path / "run", recipe=small(steps=9), report=said.append)
    assert result.steps == 4
    assert result.improved
    assert load(tmp_path / "run").metadata["steps"] == {"done": 1, "of": 9}
    assert "stopped after 4 of 9 steps: it no longer improves" in said


@pytest.mark.slow
@pytest.mark.usefixtures("hurried")
def test_a_run_that_is_stopped_has_a_model_and_goes_on(cells, tmp_path, tuned):
    def stop(done, loss):
        if done == 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match="1 of 2 steps are saved"):
        run(cells, tmp_path / "run", on_recipe=lambda _: stop)
    assert load(tmp_path / "run").geometry.readings == READINGS
    result = run(cells, tmp_path / "run")
    whole_folder, whole, _ = tuned
    assert [m.recall for m in result.measures] == [m.recall for m in whole.measures]
    assert_same_bits(checkpoint(tmp_path / "run"), checkpoint(whole_folder))


def test_a_run_that_is_stopped_while_steps_are_timed_names_no_folder(cells, monkeypatch):
    """They are learned by a copy of the model, in a folder that is gone then."""

    def stop():
        signal.raise_signal(signal.SIGTERM)
        return 0.0

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=stop))
    data = dataset_of([read_labels(cells / "train.json", cells / "images")], cells / "images")
    with pytest.raises(Stopped, match="stopped while steps were timed, before the first was kept"):
        timing.step_seconds(
            load(pyramid_file(cells)),
            data,
            READINGS,
            small(),
            Fabric(accelerator="cpu", devices=1),
            0,
        )


@pytest.mark.usefixtures("hurried")
def test_time_decides_on_the_steps(cells, tmp_path):
    told = []

    def on_recipe(recipe):
        told.append(recipe)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(cells, tmp_path / "run", recipe=small(steps=None), minutes=10, on_recipe=on_recipe)
    (recipe,) = told
    assert 200 < recipe.steps <= 300  # of ten minutes some go to measuring
    assert recipe.warmup_steps == recipe.steps // 10


def test_another_kind_of_model_is_refused(cells, tmp_path):
    save(thinnest(), tmp_path / "deepmask.safetensors")
    with pytest.raises(ValueError, match="only models on a feature pyramid are tuned"):
        run(cells, tmp_path / "run", source=tmp_path / "deepmask.safetensors")
    assert not (tmp_path / "run").exists()


def test_one_photo_is_too_few_and_a_thousand_objects_are_enough(cells):
    file = read_coco(cells / "train.json")
    with pytest.raises(ValueError, match="one photo has objects and sound labels"):
        split(replace(file, images=file.images[:1]), seed=0)
    many = replace(file, images=tuple(
        replace(image, id=k, file_name=f"{k}.png", annotations=300 * image.annotations[:1])
        for k, image in enumerate(20 * file.images)
    ))  # fmt: skip
    rest, held_back = split(many, seed=0)
    assert len(held_back.images) == 5  # not a fifth of 100
    names = [image.file_name for image in (*rest.images, *held_back.images)]
    assert sorted(names) == sorted(image.file_name for image in many.images)


@pytest.mark.slow
@pytest.mark.usefixtures("hurried")
def test_a_damaged_photo_costs_itself(cells, tmp_path, monkeypatch):
    content = json.loads((cells / "train.json").read_text())
    (tmp_path / "labels.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    for image in content["images"]:
        data = (cells / "images" / image["file_name"]).read_bytes()
        (tmp_path / "images" / image["file_name"]).write_bytes(data)
    first, *others = [tmp_path / "images" / image["file_name"] for image in content["images"]]
    first.write_bytes(b"no picture")
    monkeypatch.setattr(module, "measure", scored([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    said = []
    usual = {"images": tmp_path / "images", "report": said.append}
    result = run(tmp_path, tmp_path / "run", labels="labels.json", **usual)
    assert result.improved
    assert any("labels.json: 1 of 5 photos left out, e.g. " in line for line in said)
    for photo in others:
        photo.unlink()
    with pytest.raises(ValueError, match=r"labels\.json: none of 5 photos can be used"):
        run(tmp_path, tmp_path / "other", labels="labels.json", **usual)


@pytest.mark.parametrize("lost", range(PHOTOS))
def test_only_photos_that_are_there_are_held_back(cells, tmp_path, lost):
    file = read_coco(cells / "train.json")
    (tmp_path / "images").mkdir()
    left = [image.file_name for k, image in enumerate(file.images) if k not in (lost, lost - 1)]
    for name in left:
        (tmp_path / "images" / name).symlink_to(cells / "images" / name)
    found = sound_labels(cells / "train.json", tmp_path / "images", print)
    rest, held_back = split(found, seed=0)
    assert len(held_back.images) == 1
    assert sorted(i.file_name for i in (*rest.images, *held_back.images)) == sorted(left)


def test_why_no_photo_can_be_measured_on_is_said(cells):
    file = read_coco(cells / "train.json")
    problem = Problem("image a", TEXT_ID, "has an id, 'a', that is not an integer")
    odd = replace(file, images=tuple(replace(i, problems=(problem,)) for i in file.images))
    with pytest.raises(ValueError, match=r"sound labels to measure on, e\.g\. image a: has an id"):
        measured(odd)


def test_objects_below_the_limit_are_not_learned_and_not_background(cells):
    """At two octaves a cell of 3 px is read at 12."""
    file = read_labels(cells / "train.json", cells / "images")
    sides = [
        max(a.where[2] - a.where[0], a.where[3] - a.where[1]) for a in file.images[0].annotations
    ]
    limit = 4 * float(np.median(sides))
    data = dataset_of([file], cells / "images", below_limit=limit_of(limit, READINGS))
    learned = sum(4 * side >= limit for side in sides)
    assert 0 < learned < len(sides)
    assert len(data.images[0].instances) == learned
    assert len(data.images[0].crowds) == len(sides) - learned
    everything = dataset_of([file], cells / "images", below_limit=limit_of(0, READINGS))
    assert len(everything.images[0].instances) == len(sides)


def test_scenes_are_cut_near_the_readings(cells):
    data = dataset_of([read_coco(cells / "train.json")], cells / "images")
    model = load(pyramid_file(cells))
    scenes = LevelSceneDataset(
        data, model.geometry, seed=0, scene_size=64, windows=4, readings=(3.0, 1.0)
    )
    rng = np.random.default_rng(0)
    octaves = [np.log2(scenes._scale(0, scenes._octave(rng))) for _ in range(200)]
    near = np.abs(np.array(octaves)[:, None] - [3.0, 1.0]).min(axis=1)
    assert near.max() <= 0.4
    assert min(octaves) < 1 < 3 < max(octaves)


def test_proposals_suit_the_most_crowded_photo(cells):
    image = read_coco(cells / "train.json").images[0]
    for count, wanted in ((8, 100), (90, 180), (900, 1000)):
        crowded = replace(image, annotations=count * image.annotations[:1])
        assert proposals_for([image, crowded]) == wanted


def test_other_readings_change_no_weight(cells):
    model = load(pyramid_file(cells))
    other = fitted(model, (1.0, 0.0), most_objects=150)
    assert other.geometry.readings == (1.0, 0.0)
    assert Proposer(other).num_candidates == 300
    again = build(other.architecture)
    assert again.geometry == other.geometry
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert fitted(model, (1.0, 0.0), most_objects=3).geometry.num_candidates == 120


@pytest.mark.real
def test_the_shipped_model_learns_cells_in_a_minute(tmp_path):
    """Hundreds of touching round things on a dark field: twice as many are found."""
    options = {"size": (160, 224), "count": 60, "sides": (10, 24)}
    write_cells(tmp_path, name="train.json", photos=16, seed=1, **options)
    write_cells(tmp_path, name="val.json", photos=3, seed=2, **options)
    result = finetune(
        tmp_path / "train.json", images=tmp_path / "images", output=tmp_path / "run",
        val=tmp_path / "val.json", recipe=lambda _: replace(
            tuning(48), batch_size=3, scene_size=320, validate_every=16,
        ),
        fabric=Fabric(accelerator="cpu", devices=1), minutes=1,
    )  # fmt: skip
    before, after = result.measures[0], result.measures[-1]
    assert result.improved
    assert after.score > 2 * before.score
