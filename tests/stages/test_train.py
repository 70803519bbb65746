"""Stage train on a tiny problem: what it keeps, when it stops, and that an interruption does not change the result."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from stages import train
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import load
from stages.lib.model import compute, model_file, tensors
from stages.lib.splits import shards
from stages.lib.splits.description import DataDescription
from stages.lib.training import batches, checkpoint
from tests.conftest import ROOT, environment

TINY = {"hidden": [8], "activation": "tanh", "epochs": 4, "patience": None, "lr": 0.01, "batch_size": 8}
OUTPUTS = ["models/model.json", "models/model.safetensors", "reports/train.csv", "reports/train.json"]


@pytest.fixture
def tiny(folder: Path) -> Path:
    """Make a folder with tensors of three overlapping clusters, and parameters for a short training."""
    make_data(seed=0)
    choose(**TINY)
    return folder


def make_data(*, seed: int, classes: Sequence[str] = ("a", "b", "c")) -> None:
    description = DataDescription(dataset="blobs", classes=list(classes), shape=(1, 4, 4), mean=[0.5], std=[0.25])
    random = np.random.default_rng(seed)
    centres = random.normal(size=(3, 1, 4, 4))
    for path, rows in {train.TRAIN: 200, train.VAL: 60}.items():
        targets = np.arange(rows) % 3
        images = (centres[targets] + random.normal(size=(rows, 1, 4, 4)) * 1.5).astype(np.float32)
        write(path, images, targets, description)


def write(folder: Path, images: np.ndarray, targets: np.ndarray, description: DataDescription) -> None:
    """Replace a split, in the format of cache."""
    shutil.rmtree(folder, ignore_errors=True)
    writer = shards.Writer(folder, description.shape, images.dtype)
    writer.append(images, targets, np.arange(len(images)))
    writer.finish(description, "cache")


def choose(**parameters: object) -> None:
    """Change values in params.yaml."""
    path = Path("params.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | parameters))


def outputs() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in OUTPUTS}


def curves() -> list[dict[str, float]]:
    with Path("reports/train.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_writes_model_and_curves(tiny: Path) -> None:
    train.main()
    rows = curves()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert list(rows[0]) == ["epoch", "train_loss", "train_score", "val_loss", "val_score", "lr"]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    network, description = model_file.load(model_file.MODEL)
    assert description.data == tensors.read(train.TRAIN, memory=0).description
    parameters = load(train.Parameters).model_dump()
    del parameters["threads"]  # it does not change the result
    assert description.parameters == parameters
    assert not network.training
    assert not checkpoint.STATES.exists()


@pytest.mark.parametrize("averaging", [None, 0.95])
def test_keeps_the_weights_of_the_best_epoch(tiny: Path, averaging: float | None) -> None:
    """With averaging, the average of the weights, which is what val measures."""
    choose(epochs=30, lr=0.1, averaging=averaging)  # overfits
    train.main()
    summary, rows = json.loads(Path("reports/train.json").read_text()), curves()
    best = min(rows, key=lambda row: row["val_loss"])
    assert best["epoch"] < 30
    assert summary["best_epoch"] == best["epoch"]
    network, _ = model_file.load(model_file.MODEL)
    val_loss, _ = train.validate(
        network,
        torch.nn.CrossEntropyLoss(),
        tensors.read(train.VAL, memory=0),
        torch.device("cpu"),
        arithmetic="portable",
    )
    assert val_loss == best["val_loss"] == summary["val_loss"]


def test_stops_early_without_a_lower_val_loss(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choose(epochs=200, lr=0.1, patience=3)
    train.main()
    rows = curves()
    best = min(rows, key=lambda row: row["val_loss"])
    assert len(rows) == best["epoch"] + 3 < 200
    assert "stopped early: no lower val loss for 3 epoch(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "parameters",
    [
        {"optimizer": "SGD", "momentum": 0.9, "schedule": "one_cycle", "lr": 0.1},
        {"optimizer": "LBFGS", "lr": 0.1, "optimizer_args": {"max_iter": 2}, "arithmetic": "native"},
        {"optimizer": "Adadelta", "lr": 1.0, "arithmetic": "native", "threads": 2},
        {"model": "cnn", "schedule": "cosine", "warmup": 0.2, "clip_norm": 1.0},
        {"hidden": [], "dropout": 0.0},
        {
            "optimizer": "Muon",
            "momentum": 0.9,
            "model": "cnn",
            "hidden": [16],
            "activation": "silu",
            "arithmetic": "native",
        },
        {"model": "shufflenet_v2_x0_5", "lr": 0.003, "arithmetic": "native"},
        {"precision": "bfloat16", "hidden": [16], "arithmetic": "native"},
        {"augmentation": {"shift": 1, "flip": 0.5, "erasing": 0.2}, "loss_args": {"weight": "balanced"}, "epochs": 8},
    ],
)
def test_combinations_of_parameters_lower_the_train_loss(tiny: Path, parameters: dict[str, object]) -> None:
    choose(**parameters)
    train.main()
    assert curves()[-1]["train_loss"] < curves()[0]["train_loss"]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # raised within the compiler
@pytest.mark.torture(quick=0, long=1)
def test_a_compiled_network_has_the_same_curves(tiny: Path, part: int) -> None:
    choose(dropout=0.0)
    train.main()
    expected = curves()
    choose(dropout=0.0, compile=True)
    train.main()
    for row, compiled in zip(expected, curves(), strict=True):
        assert compiled == pytest.approx(row, rel=1e-4)


def test_outputs_depend_on_the_seed_but_not_on_workers(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train.main()
    first = outputs()
    monkeypatch.setenv("LOADER_WORKERS", "2")
    train.main()
    assert outputs() == first
    monkeypatch.delenv("LOADER_WORKERS")
    choose(seed=1)
    train.main()
    assert outputs()["reports/train.csv"] != first["reports/train.csv"]


class Interrupted(Exception):
    """Stands for whatever ends the process."""


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a training that fails right after the checkpoint of an epoch."""
    save = checkpoint.save

    def save_and_stop(key: str, progress: checkpoint.Progress, *rest: object) -> None:
        save(key, progress, *rest)  # type: ignore[arg-type]
        if len(progress.rows) == epochs:
            raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(checkpoint, "save", save_and_stop)
        train.main()


@pytest.mark.parametrize(
    "parameters",
    [{}, {"optimizer": "SGD", "momentum": 0.9, "schedule": "one_cycle"}, {"averaging": 0.9, "arithmetic": "native"}],
)
def test_resumes_with_the_same_bits(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], parameters: dict[str, object]
) -> None:
    choose(**parameters)
    train.main()
    uninterrupted = outputs()
    interrupt_after(2, monkeypatch)
    left = outputs()
    assert left.pop("reports/train.csv") == b"".join(uninterrupted["reports/train.csv"].splitlines(True)[:2])
    assert left.items() < uninterrupted.items(), "an interrupted run leaves the previous results unchanged"
    for name in OUTPUTS:
        Path(name).unlink()
    capsys.readouterr()
    train.main()
    printed = capsys.readouterr().out
    assert "resuming after epoch 2" in printed
    assert "epoch   1/4" not in printed
    assert "epoch   3/4" in printed
    assert outputs() == uninterrupted


def test_running_statistics_of_batch_normalization_are_saved(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the weights and in the checkpoint."""
    choose(model="shufflenet_v2_x0_5", epochs=2, arithmetic="native")  # test_surroundings.py has portable
    train.main()
    uninterrupted = outputs()
    network, _ = model_file.load(model_file.MODEL)
    assert 25 <= int(network.state_dict()["conv1.1.num_batches_tracked"]) <= 50
    steps, train_step = 0, train.train_step

    def step(*arguments: Any) -> tuple[float, torch.Tensor]:
        nonlocal steps
        steps += 1
        if steps == 31:
            raise SystemExit(130)
        return train_step(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(train, "train_step", step)
        train.main()
    train.main()
    assert outputs() == uninterrupted


def test_batch_normalization_needs_two_images(tiny: Path) -> None:
    choose(model="resnet18", batch_size=199)
    with pytest.raises(UserError, match="batch_size: 199 leaves one of 200 images for the last step, and the model's"):
        train.main()


@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [*product(["Adam", "SGD"], [1, 7, 24, 25, 26, 99, 100]), ("Muon", 26), ("LBFGS", 26)],  # LBFGS takes seconds
)
def test_resumes_in_the_middle_of_an_epoch_with_the_same_bits(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], steps: int, optimizer: str
) -> None:
    """End it after some steps, of 25 per epoch; after the last step of an epoch, during validation."""
    augmentation = {"shift": 1, "erasing": 0.5, "mixup": 0.2} if optimizer == "SGD" else {}
    arithmetic = "portable" if optimizer == "Adam" else "native"
    choose(optimizer=optimizer, lr=0.1, schedule="one_cycle", augmentation=augmentation, arithmetic=arithmetic)
    train.main()
    uninterrupted = outputs()
    done, stop_after = 0, steps

    def step(*arguments: Any) -> tuple[float, torch.Tensor]:
        nonlocal done
        if done == stop_after:
            raise SystemExit(130)
        done += 1
        return train_step(*arguments)

    def check(*arguments: Any) -> tuple[float, float]:
        if done == stop_after:
            raise SystemExit(130)
        return validate(*arguments)

    train_step, validate = train.train_step, train.validate
    monkeypatch.setattr(train, "train_step", step)
    monkeypatch.setattr(train, "validate", check)
    with pytest.raises(SystemExit):
        train.main()
    capsys.readouterr()
    stop_after = -1
    train.main()
    epoch, within = divmod(steps - 1, 25)
    assert f"resuming after epoch {epoch}, step {within + 1} of" in capsys.readouterr().out
    assert done == 100, "no step was done twice"
    assert outputs() == uninterrupted


SIGNALS_WITHIN_A_STEP = """
import os, signal, sys
from stages import train
from stages.lib.core import process

def step(*arguments):
    global steps
    result = train_step(*arguments)  # the weights have changed, the step is not counted yet
    steps += 1
    if steps == 30:
        for _ in range(int(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGINT)
    return result

steps, train_step, train.train_step = 0, train.train_step, step
signal.signal(signal.SIGINT, process._stop)
process.run(train.main)
"""


@pytest.mark.parametrize(("times", "saved"), [(1, "epoch 1, step 5"), (2, "epoch 1, step 0")])
def test_a_signal_is_deferred_until_the_step_has_finished(tiny: Path, times: int, saved: str) -> None:
    """Then a checkpoint is saved; a second signal ends the process at once, with the previous checkpoint."""
    train.main()
    uninterrupted = outputs()

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        variables = environment() | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, *command], env=variables, capture_output=True, text=True, timeout=60)

    ended = run("-c", SIGNALS_WITHIN_A_STEP, str(times))
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
    assert f"resuming after {saved} of an interrupted run" in run("-m", "stages.train").stdout
    assert outputs() == uninterrupted


def test_a_checkpoint_is_saved_although_stderr_is_closed(tiny: Path) -> None:
    """As after Ctrl-C in `dvc repro 2>&1 | tee log`, which ends tee as well."""
    choose(epochs=500)
    command = [sys.executable, "-m", "stages.train"]
    variables = environment() | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith("portable arithmetic: ")
        assert running.stdout.readline().startswith("epoch   1/500")
        running.stderr.close()
        running.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, running.pid, os.WSTOPPED)  # until then it may save another checkpoint
        (saved_after_epoch,) = checkpoint.STATES.glob("*.pt")
        saved_after_epoch.unlink()
        running.send_signal(signal.SIGINT)  # delivered once it continues
        running.send_signal(signal.SIGCONT)
        running.stdout.read()
        assert running.wait(timeout=60) == 130
    assert saved_after_epoch.exists()


def test_checkpoints_are_saved_within_an_epoch(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """End without saving, as SIGKILL does, after the timer has saved one."""
    train.main()
    uninterrupted = outputs()
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    save, saved = checkpoint.save, 0

    def save_and_stop(*arguments: Any) -> None:
        nonlocal saved
        if (saved := saved + 1) > 40:
            raise Interrupted
        save(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(checkpoint, "save", save_and_stop)
        train.main()
    capsys.readouterr()
    train.main()
    assert "resuming after epoch 1, step 14 of" in capsys.readouterr().out  # 25 steps, the epoch's end, 14 steps
    assert outputs() == uninterrupted


def test_a_finished_training_is_not_repeated_until_dvc_has_recorded_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    train.main()
    uninterrupted = outputs()
    for name in OUTPUTS:
        Path(name).unlink()
    capsys.readouterr()
    train.main()
    assert capsys.readouterr().out == "resuming after epoch 4, step 0 of an interrupted run\n"
    assert outputs() == uninterrupted
    (state,) = checkpoint.STATES.iterdir()
    checkpoint.DVC_LOCK.touch()
    os.utime(checkpoint.DVC_LOCK, ns=(0, state.stat().st_mtime_ns + 1))
    train.main()
    printed = capsys.readouterr().out
    assert "resuming" not in printed
    assert "epoch   1/4" in printed
    assert outputs() == uninterrupted


def test_a_training_that_finishes_leaves_the_checkpoint_of_another(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted one goes on after trainings with other parameters, unless there were many."""
    train.main()
    uninterrupted = outputs()
    interrupt_after(2, monkeypatch)
    for seed in (1, 2):
        choose(seed=seed)
        train.main()
    choose(seed=0)
    capsys.readouterr()
    train.main()
    assert capsys.readouterr().out.startswith("resuming after epoch 2, step 0 of an interrupted run\n")
    assert outputs() == uninterrupted
    assert not checkpoint.STATES.exists()
    checkpoint.STATES.mkdir()
    (checkpoint.STATES / ".a.pt.tmp").write_bytes(b"of a killed process")
    train.main()
    assert not checkpoint.STATES.exists()
    for seed in range(1, 9):
        choose(seed=seed)
        interrupt_after(1, monkeypatch)
    choose(seed=0)
    train.main()
    assert len([*checkpoint.STATES.glob("*.pt")]) == checkpoint.KEPT


@pytest.mark.parametrize("arithmetic", ["portable", "native"])
def test_the_train_loss_is_a_mean_like_the_val_loss(tiny: Path, arithmetic: str) -> None:
    """Over rows, each by the weight of its class, and not over batches: of the same rows, hardly trained, the same."""
    shutil.rmtree(train.VAL)
    shutil.copytree(train.TRAIN, train.VAL)
    choose(arithmetic=arithmetic, lr=1e-12, dropout=0, epochs=1, batch_size=33, loss_args={"weight": [0.1, 1, 9]})
    train.main()
    (row,) = curves()
    assert row["train_loss"] == pytest.approx(row["val_loss"], rel=1e-6)


def test_batches_of_classes_without_weight_do_not_stop_a_training(tiny: Path) -> None:
    """A batch of one image of such a class has no loss, and changes nothing."""
    choose(batch_size=1, epochs=1, loss_args={"weight": [0, 1, 1]})
    train.main()
    assert 0 < curves()[0]["train_loss"] < 2


def test_float32_is_float32_on_every_device() -> None:
    compute.prepare(1, "native")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("changed", ["a parameter", "the data", "the classes", "the code"])
def test_starts_over_after_a_change(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    interrupt_after(2, monkeypatch)
    if changed == "a parameter":
        choose(lr=0.02)
    elif changed == "the data":
        make_data(seed=1)
    elif changed == "the classes":
        make_data(seed=0, classes=["a", "b", "c", "d"])
    else:
        edited = tiny / "batches.py"
        edited.write_text(Path(batches.__file__).read_text() + "\n# another line\n")
        monkeypatch.setattr(batches, "__file__", str(edited))
    train.main()
    assert "resuming" not in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_stage_with_their_exit_code(tiny: Path, sent: int, code: int, workers: str) -> None:
    choose(epochs=500, lr=0.001)
    command = [sys.executable, "-m", "stages.train"]
    variables = environment() | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "LOADER_WORKERS": workers}
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("portable arithmetic: ")
        assert running.stdout.readline().startswith("epoch   1/500")
        os.killpg(running.pid, sent)  # like Ctrl-C: data loader workers receive it too
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in stderr
    assert not Path("models").exists()
    assert len(list(checkpoint.STATES.glob("*.pt"))) == 1


def test_a_loss_that_is_not_finite_stops_the_training(tiny: Path) -> None:
    choose(optimizer="SGD", lr=1e38)
    with pytest.raises(UserError, match=r"the training loss became (nan|inf) in epoch 1, step \d+.* lower lr"):
        train.main()
    assert not Path("models").exists()


def test_weights_that_are_not_finite_are_never_kept(tiny: Path) -> None:
    """The loss before the last step of an epoch may be finite, and the weights after it not."""
    choose(optimizer="SGD", lr=3e38, weight_decay=1e10, batch_size=1000, epochs=1)
    with pytest.raises(UserError, match=r"the val loss became (nan|inf) after epoch 1, at lr 3e\+38"):
        train.main()
    assert not Path("models").exists()


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"", lambda _: b"x" * 999])
def test_a_damaged_checkpoint_is_not_used(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    train.main()
    uninterrupted = outputs()
    interrupt_after(2, monkeypatch)
    (state,) = checkpoint.STATES.iterdir()
    state.write_bytes(damage(state.read_bytes()))
    train.main()
    assert "damaged; starting from the beginning" in capsys.readouterr().out
    assert outputs() == uninterrupted
    assert not checkpoint.STATES.exists()


def test_a_network_too_large_for_the_machine_is_refused(tiny: Path) -> None:
    choose(hidden=[10**6, 10**6], activation="relu")
    with pytest.raises(UserError, match="params.yaml: hidden: this network does not fit into memory"):
        train.main()


def test_lbfgs_reports_loss_and_accuracy_of_the_same_weights() -> None:
    torch.manual_seed(0)
    images, targets = torch.randn(32, 4), torch.arange(32) % 3
    network = torch.nn.Linear(4, 3)
    before = network(images).detach()
    optimizer = torch.optim.LBFGS(network.parameters(), lr=1.0)
    loss, logits = train.train_step(network, torch.nn.CrossEntropyLoss(), optimizer, images, targets, clip_norm=None)
    assert torch.equal(logits, before)
    assert loss == float(torch.nn.functional.cross_entropy(before, targets))
    assert not torch.equal(network(images), before)


def test_an_unknown_device_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(arithmetic="native")
    for device in ("cuda:99", "toaster", "meta"):
        monkeypatch.setenv("DEVICE", device)
        with pytest.raises(UserError, match=f"DEVICE: cannot compute on `{device}`"):
            train.main()


def test_validation_turns_dropout_off(tiny: Path) -> None:
    choose(dropout=0.9)
    train.main()
    network, _ = model_file.load(model_file.MODEL)
    network.train()  # as the training loop leaves it
    val = tensors.read(train.VAL, memory=0)
    first, again = (train.validate(network, torch.nn.CrossEntropyLoss(), val, torch.device("cpu")) for _ in range(2))
    assert first == again
