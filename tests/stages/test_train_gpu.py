"""Stage train on a GPU. Without one, these tests are not collected."""

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
    """Prepare a short training on the GPU, with augmentation."""
    make_data(seed=0)
    choose(**TINY, arithmetic="native", augmentation={"shift": 1, "erasing": 0.5, "mixup": 0.2})
    monkeypatch.setenv("DEVICE", "cuda")
    return Project(folder)


def test_equal_runs_give_equal_bytes(tiny: Project) -> None:
    train.main()
    first = outputs()
    train.main()
    assert outputs() == first


@pytest.mark.parametrize("parameters", [{"memory": 256}, {"memory": 1}, {"precision": "bfloat16"}, {"compile": True}])
def test_val_loss_agrees_with_that_of_the_cpu(
    tiny: Project, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, object]
) -> None:
    choose(dropout=0.0, augmentation={}, epochs=20, **parameters)
    train.main()
    gpu_loss = json.loads(Path("reports/train.json").read_text())["val_loss"]
    monkeypatch.setenv("DEVICE", "cpu")
    choose(precision="float32", compile=False)
    train.main()
    cpu_loss = json.loads(Path("reports/train.json").read_text())["val_loss"]
    assert gpu_loss == pytest.approx(cpu_loss, rel=0.05)


def test_a_split_in_memory_is_moved_to_the_gpu(tiny: Project) -> None:
    split = tensors.on_device(tensors.read(train.TRAIN, memory=1 << 20), torch.device("cuda:0"))
    assert isinstance(split.images, torch.Tensor)
    assert split.images.device == split.targets.device == torch.device("cuda:0")


def test_ranks_on_gpus_give_the_losses_of_one_process(tiny: Project) -> None:
    """One rank per GPU, over NCCL; with a single GPU, the curves are equal."""
    train.main()
    single_process = curves()
    gpus = torch.cuda.device_count()
    tiny.stage("train", TORCHRUN=f"--nproc-per-node {gpus}", DEVICE="cuda", PYTHONPATH=str(ROOT))
    if gpus == 1:
        assert curves() == single_process
    else:
        assert curves()[-1]["val_loss"] == pytest.approx(single_process[-1]["val_loss"], rel=0.05)
