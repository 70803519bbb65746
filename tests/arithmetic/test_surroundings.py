"""Trainings in several surroundings end with equal bytes: instructions, threads and processes.

`make portable` adds emulated processors and whole pipelines.
"""

import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from stages import train
from stages.lib.training import checkpoint
from tests.conftest import ROOT, Count, Project
from tests.handover import SIMPLEST
from tests.stages.test_train import TINY, choose, make_data, outputs

pytestmark = pytest.mark.xdist_group("simplest instructions")  # one server prepares them all
EVERYTHING: dict[str, Any] = {  # every source of random numbers, a small last batch, and a sum of each kind
    "averaging": 0.9,
    "batch_size": 33,
    "clip_norm": 1.0,
    "loss_args": {"weight": "balanced", "label_smoothing": 0.1},
    "optimizer": "AdamW",
    "schedule": "one_cycle",
    "weight_decay": 0.01,
}
WARPS = {"shift": 1.5, "rotation": 20, "flip": 0.3, "elastic": 0.5, "erasing": 0.5}
TRAININGS: dict[str, dict[str, Any]] = {
    "mlp": {**EVERYTHING, "augmentation": WARPS, "epochs": 2},
    "cnn with mixup": {"model": "cnn", **EVERYTHING, "augmentation": {"shift": 1, "mixup": 0.4}, "epochs": 1},
    "batch normalization": {
        "model": "shufflenet_v2_x0_5",
        **EVERYTHING,
        "batch_size": 196,  # the fewer steps, the quicker: ranks exchange sums for every layer
        "epochs": 1,
        "optimizer": "SGD",
        "momentum": 0.9,
    },
    "resnet18": {"model": "resnet18", **EVERYTHING, "epochs": 1, "optimizer": "SGD", "momentum": 0.9},
    "efficientnet_b0": {"model": "efficientnet_b0", "batch_size": 50, "epochs": 1},
}
SURROUNDINGS: dict[str, dict[str, str]] = {
    "the simplest instructions": SIMPLEST,
    "two processes": {"TORCHRUN": "--nproc-per-node 2"},
    "three processes of the simplest instructions": {"TORCHRUN": "--nproc-per-node 3", **SIMPLEST},
}


@pytest.fixture
def tiny(folder: Path) -> Project:
    make_data(seed=0)
    choose(**TINY)
    return Project(folder)


def trained(project: Project, **variables: str) -> dict[str, bytes]:
    """Train in a new process and return the bytes of every output."""
    project.run(sys.executable, "-W", "error", "-m", "stages.train", **{"PYTHONPATH": str(ROOT), **variables})  # type: ignore[arg-type]
    return outputs()


def trained_here() -> dict[str, bytes]:
    """Train in this process and return the bytes of every output."""
    train.main()
    return outputs()


SLOW = pytest.mark.torture(quick=0, long=1)


@pytest.mark.parametrize("training", [pytest.param(name, marks=SLOW if "net" in name else ()) for name in TRAININGS])
def test_equal_bytes_in_other_surroundings(tiny: Project, training: str) -> None:
    """Those of the most differences for all trainings, each by itself for the quickest."""
    choose(**TRAININGS[training])
    expected = trained_here()
    for name, variables in [*SURROUNDINGS.items()][0 if training == "mlp" else -1 :]:
        assert trained(tiny, **variables) == expected, name


def test_equal_bytes_with_more_threads(tiny: Project) -> None:
    choose(**TRAININGS["cnn with mixup"])
    expected = trained_here()
    for threads in (2, 8):
        choose(threads=threads)
        assert trained(tiny) == expected


def test_more_processes_than_rows_in_the_last_batch(tiny: Project) -> None:
    choose(**TRAININGS["mlp"] | {"batch_size": 22, "epochs": 1})  # the last batch has two rows
    expected = trained_here()
    assert trained(tiny, TORCHRUN="--nproc-per-node 4") == expected


def test_a_training_goes_on_in_other_surroundings(tiny: Project) -> None:
    """Two processes start it, one of the simplest instructions goes on, two threads end it."""
    choose(**TRAININGS["mlp"] | {"epochs": 20})
    for variables in ({"TORCHRUN": "--nproc-per-node 2"}, SURROUNDINGS["the simplest instructions"]):
        running = tiny.start(sys.executable, "-m", "stages.train", PYTHONPATH=str(ROOT), **variables)
        running.wait_for("epoch   2/20" if "TORCHRUN" in variables else "resuming after epoch")
        assert running.send(signal.SIGTERM)
        assert len([*checkpoint.STATES.glob("*.pt")]) == 1, running.output.read_text()
    choose(threads=2)
    resumed = tiny.stage("train", PYTHONPATH=str(ROOT))
    assert "resuming after epoch" in resumed.stdout
    interrupted = outputs()
    shutil.rmtree(checkpoint.STATES, ignore_errors=True)
    choose(threads=1)
    assert trained_here() == interrupted


@pytest.mark.torture(quick=0, long=1)
def test_make_portable_finds_no_difference(fresh: Project, part: int, count: Count) -> None:
    started = fresh.start(sys.executable, "-m", "experiments.portable")
    assert started.process.wait(timeout=3 * 3600) == 0, started.output.read_text()
    last = started.output.read_text().splitlines()[-1]
    assert last.endswith("differing bytes: 0")
    surroundings, _, artifacts = re.findall(r"([\d,]+) \w+", last)[:3]
    count("surroundings of portable arithmetic", int(surroundings))
    count("artifacts of them compared, all equal", int(artifacts.replace(",", "")))


def test_native_arithmetic_records_what_its_bits_depend_on(tiny: Project) -> None:
    train.main()
    portable = outputs()
    choose(arithmetic="native", threads=2)
    train.main()
    native = outputs()
    assert b'"processor"' in native["reports/train.json"]
    assert b'"threads":2' in native["models/model.json"].replace(b" ", b"")
    for name in ("models/model.json", "reports/train.json"):
        for word in (b"processor", b"threads", b'environment": {'):
            assert word not in portable[name].replace(b'environment": null', b"")
    assert os.environ.get("TORCHRUN") is None
