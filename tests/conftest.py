"""Settings of the whole test session; pytest also puts this folder on the import path."""

import signal

import pytest
import torch
from hypothesis import settings

from synthetic_coco import CocoFolder, write_coco

# Examples are the same in every run, and a busy machine is not a failure.
settings.register_profile("sharpmask", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("sharpmask")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """As in a terminal, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache folder of this test run's own, also for the processes it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory):
    """Photos and annotation files of ``synthetic_coco``; not to be written to."""
    folder = tmp_path_factory.mktemp("coco")
    train = write_coco(folder, name="train.json", photos=9, seed=1)
    val = write_coco(folder, name="val.json", photos=4, seed=2)
    return CocoFolder(train=train, val=val, images=folder / "images")
