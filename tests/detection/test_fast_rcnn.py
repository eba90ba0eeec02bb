import dataclasses

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from reference.small_nets import ColourTail, ColourTrunk
from sharpmask.boxes import decode_boxes, encode_boxes
from sharpmask.coco.annotations import load_coco
from sharpmask.detection.detections import Category
from sharpmask.detection.detector import Detector
from sharpmask.detection.fast_rcnn import (
    BOX_DEVIATIONS,
    FastRCNN,
    RegionBatch,
    detection_loss,
    scale_photo,
)
from sharpmask.detection.files import load_classifier, save_classifier
from sharpmask.detection.matching import Matches
from sharpmask.detection.rcnn import RCNN, RegionNet
from sharpmask.detection.region_batches import (
    RegionDataset,
    collate_regions,
    mirrored,
    sample_regions,
)
from sharpmask.detection.regions import Regions
from sharpmask.detection.training import complete_photos, fit_fast_rcnn
from sharpmask.models.backbones import BACKBONES
from sharpmask.models.pretrained import build, save
from sharpmask.models.sources import WeightsError
from sharpmask.models.tails import TAILS
from sharpmask.training.recipes import fast_rcnn

CATEGORIES = [Category(3, "disc"), Category(7, "plate"), Category(90, "roof")]


@pytest.fixture(autouse=True)
def colour_backbone(monkeypatch):
    monkeypatch.setitem(BACKBONES, "colour", ColourTrunk)
    monkeypatch.setitem(TAILS, "colour", ColourTail)


def small(backbone="colour"):
    torch.manual_seed(0)
    return FastRCNN(CATEGORIES, backbone=backbone, channels=8, hidden=32, bins=3, image_size=96)


# --- the network ---


@torch.inference_mode()
@pytest.mark.parametrize("backbone", ["colour", "mobilenet_v2"])
def test_regions_of_a_batch_are_those_of_single_photos(backbone):
    model = small(backbone).eval()
    images = torch.rand(2, 3, 96, 128) * 255
    boxes = torch.tensor([[0.0, 0, 50, 60], [30, 20, 100, 90], [5, 5, 20, 90]])
    logits, deltas = model(images, boxes, torch.tensor([1, 0, 1]))
    assert logits.shape == (3, 4)
    assert deltas.shape == (3, 3, 4)
    for row, image in enumerate((1, 0, 1)):
        alone = model(images[image][None], boxes[row][None], torch.zeros(1).long())
        torch.testing.assert_close(alone[0][0], logits[row], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(alone[1][0], deltas[row], rtol=1e-4, atol=1e-6)


def test_classify_brings_boxes_to_the_photo_and_back():
    model = small().eval()
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    boxes = np.array([[4.0, 6, 30, 40], [0, 0, 64, 48]])
    scores, moved = model.classify(photo, boxes)
    scaled, scale = scale_photo(Image.fromarray(photo), 96)
    assert scaled.shape == (72, 96, 3)
    np.testing.assert_allclose(scale, 1.5)
    with torch.inference_mode():
        logits, deltas = model(
            torch.from_numpy(scaled).permute(2, 0, 1)[None].float(),
            torch.from_numpy(boxes * 1.5).float(),
            torch.zeros(2).long(),
        )
    np.testing.assert_allclose(scores, logits.softmax(1)[:, :3], atol=1e-6)
    expected = decode_boxes((boxes * 1.5)[:, None], deltas.numpy() * BOX_DEVIATIONS, (72, 96))
    np.testing.assert_allclose(moved, expected / 1.5, atol=1e-4)


# --- what it learns ---


def test_the_loss_is_the_formula():
    rng = np.random.default_rng(0)
    logits, deltas = (
        torch.from_numpy(rng.normal(size=(5, 4))),
        torch.from_numpy(rng.normal(size=(5, 3, 4)) * 2),
    )
    labels, targets = torch.tensor([0, 3, 2, 3, 1]), torch.from_numpy(rng.normal(size=(5, 4)))
    batch = RegionBatch(torch.zeros(1, 3, 2, 2), torch.zeros(5, 4), torch.zeros(5), labels, targets)
    found = detection_loss(lambda *_: (logits, deltas), batch)
    classes = boxes = 0.0
    for row, label in enumerate(labels.tolist()):
        z = np.exp(logits[row].numpy())
        classes -= np.log(z[label] / z.sum()) / 5
        if label < 3:
            for error in (deltas[row, label] - targets[row]).abs().tolist():
                boxes += (error**2 / 2 if error < 1 else error - 0.5) / 5
    assert found["class_loss"].item() == pytest.approx(classes, rel=1e-5)
    assert found["box_loss"].item() == pytest.approx(boxes, rel=1e-5)


def test_background_teaches_no_box():
    model = small()
    batch = RegionBatch(
        torch.rand(1, 3, 64, 64), torch.tensor([[0.0, 0, 30, 30]]), torch.zeros(1).long(),
        torch.tensor([3]), torch.rand(1, 4),
    )  # fmt: skip
    sum(detection_loss(model, batch).values()).backward()
    assert not model.boxes.weight.grad.any()
    assert model.scores.weight.grad.any()


def test_a_quarter_of_the_regions_shows_objects():
    overlaps = np.zeros((500, 2))
    overlaps[:100, 0], overlaps[100:150, 1], overlaps[150:200, 0] = 0.5, 0.9, 0.49
    unsure = np.zeros(500, bool)
    unsure[200:450] = True
    matches = Matches(overlaps, np.zeros((500, 4)), unsure)
    rows, labels = sample_regions(matches, np.random.default_rng(0))
    assert len(set(rows.tolist())) == len(rows) == 64
    assert (labels < 2).sum() == 16
    for row, label in zip(rows, labels, strict=True):
        assert label == (0 if row < 100 else 1 if row < 150 else 2)
        assert not 200 <= row < 450
    few = Matches(overlaps[98:103], np.zeros((5, 4)), np.zeros(5, bool))
    assert sample_regions(few, np.random.default_rng(0))[1].tolist().count(2) == 0


def toy_data(coco_folder, jitter=0.0):
    data = complete_photos(load_coco(coco_folder.train, coco_folder.images))
    rng = np.random.default_rng(0)
    regions = []
    for image in data.images:
        near = np.repeat(image.boxes, 6, 0) + rng.normal(0, 3, (6 * len(image.boxes), 4))
        corners = rng.uniform(0, 60, (20, 2))
        boxes = np.vstack([near, np.hstack([corners, corners + rng.uniform(10, 40, (20, 2))])])
        regions.append(Regions(boxes, None, np.ones(len(boxes))))
    numbers = {
        k: CATEGORIES.index(Category(data.category_ids[k], data.categories[k])) for k in range(3)
    }
    dataset = RegionDataset(data, regions, numbers, seed=0, image_size=96, colour_jitter=jitter)
    return data, regions, numbers, dataset


def test_partly_labelled_photos_teach_no_background(coco_folder):
    data = load_coco(coco_folder.train, coco_folder.images)
    complete = complete_photos(data)
    assert len(complete.images) == len(data.images) - 1
    partly = dataclasses.replace(data, images=(data.images[1],))
    with pytest.raises(ValueError, match="no photo is completely labelled"):
        complete_photos(partly)


def test_samples_are_pure_and_every_photo_comes_once(coco_folder):
    _, _, _, dataset = toy_data(coco_folder, jitter=0.4)
    for one, other in zip(dataset[1, 3], dataset[1, 3], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(dataset[0, 3][1], dataset[1, 3][1])
    sizes = len(dataset.useful)
    drawn = []
    dataset.photo = lambda k: drawn.append(k) or Image.new("RGB", (120, 100))
    for number in range(2 * sizes):
        dataset[0, number]
    assert sorted(drawn[:sizes]) == sorted(drawn[sizes:]) == sorted(dataset.useful)
    assert drawn[:sizes] != drawn[sizes:]


def test_targets_are_where_the_objects_are(coco_folder):
    _, _, numbers, dataset = toy_data(coco_folder)
    for number in range(12):
        pixels, boxes, labels, deltas = dataset[0, number]
        shown = labels < 3
        moved = decode_boxes(
            boxes[shown].double().numpy(),
            deltas[shown].double().numpy() * BOX_DEVIATIONS,
            tuple(pixels.shape[1:]),
        )
        for (left, top, right, bottom), label in zip(moved, labels[shown].tolist(), strict=True):
            row, column = int((top + bottom) / 2), int((left + right) / 2)
            colour = pixels[:, row, column].int()
            # Discs are red, plates green, roofs blue.
            assert colour.argmax() == label
    assert numbers == {0: 0, 1: 1, 2: 2}
    assert encode_boxes(np.ones((0, 4)), np.ones((0, 4))).shape == (0, 4)


def test_a_mirror_mirrors_boxes():
    found = mirrored(np.array([[1.0, 2, 5, 9]]), 20)
    assert found.tolist() == [[15, 2, 19, 9]]


def test_photos_are_padded_to_the_largest(coco_folder):
    _, _, _, dataset = toy_data(coco_folder)
    items = [dataset[0, number] for number in range(3)]
    batch = collate_regions(items)
    assert batch.images.shape[2:] == tuple(
        max(item[0].shape[axis] for item in items) for axis in (1, 2)
    )
    assert batch.numbers.tolist() == [k for k, item in enumerate(items) for _ in item[1]]
    for k, (pixels, boxes, labels, deltas) in enumerate(items):
        height, width = pixels.shape[1:]
        torch.testing.assert_close(batch.images[k, :, :height, :width], pixels)
        assert not batch.images[k, :, height:].any()
        for name, part in (("boxes", boxes), ("labels", labels), ("deltas", deltas)):
            torch.testing.assert_close(getattr(batch, name)[batch.numbers == k], part)


def train_small(coco_folder, folder, *, steps, validate=None):
    data, regions, numbers, _ = toy_data(coco_folder)
    recipe = dataclasses.replace(
        fast_rcnn(), steps=steps, batch_size=2, validate_every=2, warmup_steps=3, frozen_stride=0,
        learning_rate=1e-2, backbone_learning_rate=1e-2, ema_decay=0.9, colour_jitter=0.0,
    )  # fmt: skip
    model = small()
    figures = fit_fast_rcnn(
        model, list(zip(data.images, regions, strict=True)), data, numbers, recipe=recipe,
        output=folder, metadata={"proposals": {"file": "toy"}}, workers=0,
        fabric=Fabric(accelerator="cpu", devices=1), validate=validate,
    )  # fmt: skip
    return model, figures


def test_a_stopped_run_goes_on_bit_for_bit(coco_folder, tmp_path):
    asked = []

    def stop_once(detector):
        asked.append(detector)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return {"AP": len(asked)}

    with pytest.raises(KeyboardInterrupt):
        train_small(coco_folder, tmp_path / "stopped", steps=4, validate=stop_once)
    resumed, figures = train_small(coco_folder, tmp_path / "stopped", steps=4, validate=stop_once)
    assert figures == {"AP": 2}
    calm, _ = train_small(coco_folder, tmp_path / "calm", steps=4)
    for key, value in calm.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.slow
def test_it_learns(coco_folder, tmp_path):
    _, figures = train_small(coco_folder, tmp_path, steps=300)
    assert figures == {}
    assert '"class_loss"' in (tmp_path / "metrics.jsonl").read_text()
    loaded = load_classifier(tmp_path)
    assert loaded.categories == tuple(CATEGORIES)
    assert loaded.metadata["proposals"] == {"file": "toy"}
    assert loaded.metadata["recipe"]["steps"] == 300
    data, _, numbers, _ = toy_data(coco_folder)
    right = total = 0
    for image in data.images:
        if image.instances:
            scores, _ = loaded.classify(image.read(), image.boxes)
            labels = [numbers[instance.category] for instance in image.instances]
            right += (scores.argmax(1) == labels).sum()
            total += len(labels)
    assert right / total > 0.9


# --- files ---


def test_detectors_come_back_from_their_files(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    boxes = np.array([[4.0, 6, 30, 40], [0, 0, 64, 48]])
    rng = np.random.default_rng(1)
    rcnn = RCNN(
        RegionNet("resnet18", warped_size=32),
        CATEGORIES,
        {
            "svm": rng.normal(0, 0.1, (3, 512)).astype(np.float32),
            "svm_bias": rng.normal(size=3).astype(np.float32),
            "boxes": rng.normal(0, 0.01, (3, 4, 512)).astype(np.float32),
            "boxes_bias": rng.normal(0, 0.1, (3, 4)).astype(np.float32),
        },
    )
    for name, classifier in (("rcnn", rcnn), ("fast", small().eval())):
        path = tmp_path / name / "model.safetensors"
        save_classifier(classifier, path, metadata={"proposals": {"weights": "w"}})
        loaded = load_classifier(path.parent)
        assert loaded.categories == tuple(CATEGORIES)
        assert loaded.metadata == {"proposals": {"weights": "w"}}
        for found, expected in zip(
            loaded.classify(photo, boxes), classifier.classify(photo, boxes), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)


def test_other_files_are_refused_as_detectors(tmp_path):
    save(
        build({"model": "deepmask", "backbone": "resnet18", "width": 8}), tmp_path / "a.safetensors"
    )
    with pytest.raises(WeightsError, match=r"a\.safetensors: not a detector"):
        load_classifier(tmp_path / "a.safetensors")
    model = small()
    model.options["bins"] = 4
    save_classifier(model, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"b\.safetensors: not a sound detector"):
        load_classifier(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="backbone: expected"):
        FastRCNN(CATEGORIES, backbone="lenet")
    assert Detector(model).classifier is model
