"""Training on a GPU; collected only if there is one."""

import json
from pathlib import Path

import pytest
import torch

from stages import train
from stages.lib.model import tensors
from tests.conftest import ROOT, Project
from tests.stages.test_train import TINY, choose, curves, make_data, outputs

pytestmark = pytest.mark.gpu


@pytest.fixture
def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    make_data(seed=0)
    choose(**TINY, augmentation={"shift": 1, "erasing": 0.5})
    monkeypatch.setenv("DEVICE", "cuda")
    return Project(folder)


def test_equal_runs_give_equal_bytes(tiny: Project) -> None:
    train.main()
    first = outputs()
    train.main()
    assert outputs() == first


@pytest.mark.parametrize("parameters", [{"memory": 256}, {"memory": 1}, {"precision": "bfloat16"}, {"compile": True}])
def test_it_learns_as_on_the_cpu(tiny: Project, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, object]) -> None:
    choose(dropout=0.0, augmentation={}, epochs=20, **parameters)
    train.main()
    on_gpu = json.loads(Path("reports/train.json").read_text())["val_loss"]
    monkeypatch.setenv("DEVICE", "cpu")
    choose(precision="float32", compile=False)
    train.main()
    assert on_gpu == pytest.approx(json.loads(Path("reports/train.json").read_text())["val_loss"], rel=0.05)


def test_images_that_fit_into_memory_are_on_the_gpu(tiny: Project) -> None:
    split = tensors.on_device(tensors.read(train.TRAIN, memory=1 << 20), torch.device("cuda:0"))
    assert isinstance(split.images, torch.Tensor)
    assert split.images.device == split.targets.device == torch.device("cuda:0")


def test_several_processes_communicate_by_nccl(tiny: Project) -> None:
    """As many processes as GPUs, even if that is one."""
    train.main()
    alone = curves()
    number = torch.cuda.device_count()
    tiny.stage("train", TORCHRUN=f"--nproc-per-node {number}", DEVICE="cuda", PYTHONPATH=str(ROOT))
    if number == 1:
        assert curves() == alone
    else:
        assert curves()[-1]["val_loss"] == pytest.approx(alone[-1]["val_loss"], rel=0.05)
