"""Several ranks that train or evaluate one model: real processes, started by PyTorch's launcher, over the loopback."""

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from stages import train
from stages.lib.core.errors import UserError
from stages.lib.model import model_file, tensors
from stages.lib.model.batch_rows import BatchRows
from stages.lib.model.distributed import Group
from stages.lib.model.dropout import QuickDropout, draw_by_rows
from stages.lib.training import augmentation, checkpoint, losses
from tests.conftest import ROOT, Project, Running, artifacts
from tests.stages.test_train import TINY, choose, curves, make_data, outputs

LAUNCHER = (sys.executable, "-m", "torch.distributed.run")


@pytest.fixture
def tiny(folder: Path) -> Project:
    """Prepare a small training with every source of random numbers, and a small last batch."""
    make_data(seed=0)
    choose(
        **TINY | {"batch_size": 33, "augmentation": {"shift": 1, "erasing": 0.5}, "loss_args": {"weight": "balanced"}}
    )
    return Project(folder)


def launch(project: Project, *options: str) -> Running:
    # Without OMP_NUM_THREADS the launcher prints a warning.
    return project.start(*LAUNCHER, *options, "-m", "stages.train", PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")


def start_stage(project: Project, options: str) -> Running:
    """Start stage train, which runs the launcher with these options."""
    return project.start(sys.executable, "-m", "stages.train", TORCHRUN=options, PYTHONPATH=str(ROOT))


def train_on(project: Project, ranks: int) -> str:
    """Train with several ranks and return what is printed."""
    return project.stage("train", TORCHRUN=f"--nproc-per-node {ranks}", PYTHONPATH=str(ROOT)).stdout


def finished(running: Running) -> str:
    """Wait for a successful end and return the output."""
    assert running.process.wait(timeout=120) == 0, running.output.read_text()
    return running.output.read_text()


def rank_pids(running: Running) -> list[int]:
    """Return the process IDs of the ranks that a launcher has started."""
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 32, 33])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_row_of_a_batch_counts_on_exactly_one_rank(rows: int, size: int) -> None:
    groups = [Group(rank, size) for rank in range(size)]
    counted = [row for group in groups if group.counts(rows) for row in range(rows)[group.rows_of(rows)]]
    assert counted == list(range(rows))
    lengths = [len(range(rows)[group.rows_of(rows)]) for group in groups]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1


LAYERS: dict[str, Callable[[BatchRows], Any]] = {
    "dropout": lambda batch: QuickDropout(0.4, batch),
    "stochastic depth": lambda batch: draw_by_rows(nn.Sequential(StochasticDepth(0.4, "row")), batch),
    "rrelu": lambda batch: draw_by_rows(nn.Sequential(nn.RReLU()), batch),
    **{
        option: partial(augmentation.build, {option: 0.9}, 3)
        for option in augmentation.OPTIONS
        if option != "mixup"  # each rank mixes the whole batch
    },
}


@pytest.mark.parametrize("name", LAYERS)
def test_random_numbers_follow_from_seed_and_row(name: str) -> None:
    """Of every layer and augmentation: a rank draws for its rows what one process draws for them."""
    images, targets = torch.randn(10, 2, 9, 9), torch.arange(10) % 3

    def outputs(batch: BatchRows, rows: slice) -> Tensor:
        torch.manual_seed(0)
        layer = LAYERS[name](batch)
        changed: Tensor = layer(images[rows]) if isinstance(layer, nn.Module) else layer(images[rows], targets[rows])[0]
        return changed

    expected = outputs(BatchRows(), slice(0, 10))
    assert not torch.equal(expected, images)
    for rows in (slice(0, 3), slice(3, 4), slice(4, 10)):
        batch = BatchRows()
        batch.select(rows, 10)
        assert torch.equal(outputs(batch, rows), expected[rows])
    again = outputs(BatchRows(), slice(0, 10))
    assert torch.equal(again, expected)


def test_layers_that_draw_by_rows_are_those_of_torch_and_torchvision() -> None:
    """The same distribution, and in evaluation mode the same outputs."""
    units = torch.randn(4000, 3, 2, 2)
    for original in (StochasticDepth(0.3, "row"), nn.RReLU(0.1, 0.4)):
        replaced = draw_by_rows(nn.Sequential(original), BatchRows())
        assert type(replaced[0]) is not type(original)  # type: ignore[index]
        torch.manual_seed(0)
        ours, theirs = replaced(units), original(units)
        torch.testing.assert_close(ours.mean(), theirs.mean(), atol=0.03, rtol=0)
        torch.testing.assert_close(ours.std(), theirs.std(), atol=0.03, rtol=0)
        assert torch.equal(replaced.eval()(units), original.eval()(units))


MIXED = {"augmentation": {"mixup": 0.4}, "activation": "rrelu", "loss_args": {"weight": [0.2, 1, 3]}}


@pytest.mark.parametrize(
    ("ranks", "options"),
    [(2, {}), (2, MIXED), pytest.param(4, {}, marks=pytest.mark.torture(quick=0, long=1))],
    ids=["2", "2 mixed", "4"],
)
def test_several_ranks_give_the_losses_of_one_process(tiny: Project, ranks: int, options: dict[str, object]) -> None:
    choose(arithmetic="native", **options)
    train.main()
    single_process = curves()
    printed = train_on(tiny, ranks)
    assert len(re.findall(r"epoch +\d/4", printed)) == 4, "rank 0 prints for all"
    assert not checkpoint.STATES.exists()
    for row, several in zip(single_process, curves(), strict=True):
        assert several == pytest.approx(row, rel=2e-5)


def test_the_val_loss_of_several_ranks_is_that_of_the_saved_weights(tiny: Project) -> None:
    """Each rank normalizes batches by the statistics of its own rows, and validates a part of the rows."""
    choose(model="mnasnet0_5", augmentation={}, batch_size=40, epochs=2, arithmetic="native")
    train_on(tiny, 2)
    network, _ = model_file.load(model_file.MODEL)
    val = tensors.read(train.VAL, memory=0)
    loss = losses.build("CrossEntropyLoss", {"weight": "balanced"}, tensors.read(train.TRAIN, memory=0).targets, 3)
    val_loss, _ = train.validate(network, loss, val, torch.device("cpu"))
    assert min(row["val_loss"] for row in curves()) == pytest.approx(val_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "ranks", "step"),
    [
        (1, 1, "a step"),
        (3, 2, "a step"),
        (33, 1, ""),
        (33, 2, "the last step"),
        (100, 2, ""),
        (99, 1, ""),
        (199, 1, "the last step"),
    ],
)
def test_a_batch_that_leaves_one_image_to_a_rank_is_refused(batch_size: int, ranks: int, step: str) -> None:
    """Of 200 images, for a network with batch normalization; others take any."""
    train.refuse_batch_of_one(nn.Linear(2, 2), 200, batch_size, ranks)
    if step:
        with pytest.raises(UserError, match=f"batch_size: {batch_size} leaves one of 200 images.* for {step}"):
            train.refuse_batch_of_one(nn.Sequential(nn.BatchNorm2d(2)), 200, batch_size, ranks)
    else:
        train.refuse_batch_of_one(nn.Sequential(nn.BatchNorm2d(2)), 200, batch_size, ranks)


def test_stages_start_the_launcher_themselves(project: Project) -> None:
    """dvc.lock does not depend on it, and evaluate writes the same bits."""
    project.set(epochs=1)
    assert project.repro() == ["train", "evaluate"]
    before = artifacts(project)
    project.run("dvc", "repro", "--force", "--single-item", "evaluate", TORCHRUN="--nproc-per-node 2")
    assert artifacts(project) == before
    project.set(seed=1)
    done = project.run("dvc", "repro", TORCHRUN="--nproc-per-node 2")
    assert len(re.findall(r"epoch +\d/1", done.stdout)) == 1
    assert done.stdout.count("95 % interval") == 1
    assert project.repro() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--nproc-per-node two", "TORCHRUN: found `--nproc-per-node two`, expected options of torchrun, such as"),
        ("--processes 2", "TORCHRUN: found `--processes 2`, expected options of torchrun"),
    ],
)
def test_invalid_launcher_options_are_refused_with_one_line(tiny: Project, options: str, message: str) -> None:
    refused = tiny.stage("train", fails=True, TORCHRUN=options, PYTHONPATH=str(ROOT))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"train: error: {message}")
    assert refused.stderr.count("\n") == 1


def test_a_killed_rank_is_restarted_and_resumes_with_the_same_bits(tiny: Project) -> None:
    choose(epochs=10)
    train_on(tiny, 2)
    uninterrupted = outputs()
    running = launch(tiny, "--nproc-per-node", "2", "--max-restarts", "1")
    running.wait_for("epoch   2/10")
    os.kill(rank_pids(running)[1], signal.SIGKILL)
    printed = finished(running)
    assert re.search(r"resuming after epoch \d+, step \d+ of an interrupted run", printed)
    assert outputs() == uninterrupted


def test_without_restarts_the_lost_rank_is_named(tiny: Project) -> None:
    choose(epochs=500)
    running = start_stage(tiny, "--nproc-per-node 2")
    running.wait_for("epoch   2/500")
    os.kill(rank_pids(running)[1], signal.SIGKILL)
    assert running.process.wait(timeout=120) == 1
    assert "train: error: rank 1 of this train ended with SIGKILL" in running.output.read_text()
    assert "Traceback" not in running.output.read_text()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_all_ranks_with_their_exit_code(tiny: Project, sent: int, code: int) -> None:
    choose(epochs=500)
    running = start_stage(tiny, "--nproc-per-node 2")
    running.wait_for("epoch   2/500")
    running.send(sent)
    assert running.process.returncode == code, running.output.read_text()
    assert "Traceback" not in running.output.read_text()
    assert len(list(checkpoint.STATES.glob("*.pt"))) == 1


def wait_for_listener(port: int) -> None:
    """Wait until a process listens at a port."""
    end = time.monotonic() + 60
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < end, f"no listener at port {port}"
        time.sleep(0.02)


def rendezvous_options() -> str:
    """Return options for two launchers that meet at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return (
        f"--nnodes 2 --rdzv-backend c10d --rdzv-id test --rdzv-endpoint localhost:{port} --local-addr 127.0.0.1 "
        "--rdzv-conf join_timeout=20,close_timeout=5"
    )


def test_two_machines_with_a_shared_folder(tiny: Project) -> None:
    """As in docs/slurm.sbatch."""
    train.main()
    single_process = curves()
    options = rendezvous_options()
    machines = []
    for name in ("first", "second"):
        machine = start_stage(tiny, options)
        machine.output = machine.output.rename(machine.output.with_name(name))  # start writes to the same file
        machines.append(machine)
    printed = [finished(machine) for machine in machines]
    assert sum("epoch   4/4" in text for text in printed) == 1
    for row, several in zip(single_process, curves(), strict=True):
        assert several == pytest.approx(row, rel=2e-5)


@pytest.mark.torture(quick=1, long=2)
def test_a_lost_machine_ends_the_training_with_a_message(
    tiny: Project, tmp_path_factory: pytest.TempPathFactory, part: int
) -> None:
    """Lose the second machine; in the long run also the first, which hosts the rendezvous."""
    choose(epochs=100_000)
    lost = 1 - part
    options = rendezvous_options()
    folders = [tiny, tiny.copy(tmp_path_factory.mktemp("two") / "machine")]
    machines = [start_stage(folders[0], options)]
    wait_for_listener(int(options.split("localhost:")[1].split()[0]))  # so that the first one hosts the rendezvous
    machines.append(start_stage(folders[1], options))
    end = time.monotonic() + 120
    while not any("epoch   2/" in machine.output.read_text() for machine in machines):
        assert all(machine.process.poll() is None for machine in machines)
        assert time.monotonic() < end, "no second epoch after two minutes"
        time.sleep(0.05)
    os.kill(machines[lost].process.pid, signal.SIGKILL)  # only the launcher: its ranks have to notice
    remaining = machines[1 - lost]
    assert remaining.process.wait(timeout=90) != 0
    printed = remaining.output.read_text()
    assert re.search(r"train: error: (rank \d of 2 lost the others|TORCHRUN: the machines did not meet)", printed)
    assert "Traceback" not in printed
    printed = machines[lost].output.read_text()
    assert "train: error: the launcher of this process is gone" in printed or "lost the others" in printed


def test_several_ranks_refuse_lbfgs(tiny: Project) -> None:
    choose(optimizer="LBFGS")
    refused = start_stage(tiny, "--nproc-per-node 2")
    assert refused.process.wait(timeout=120) == 1
    assert "params.yaml: optimizer: LBFGS trains in one process only" in refused.output.read_text()
    assert "Traceback" not in refused.output.read_text()


def test_bad_parameters_are_refused_before_the_launcher_starts(tiny: Project) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(values | {"lr": -1}))
    refused = tiny.stage("train", fails=True, TORCHRUN="--nproc-per-node 2", PYTHONPATH=str(ROOT))
    assert refused.stderr.count("\n") == 1
    assert "params.yaml: lr: Input should be greater than 0" in refused.stderr


def test_dvc_commit_records_stages_that_were_run_by_hand(project: Project) -> None:
    """As at the end of docs/slurm.sbatch."""
    project.set(epochs=1)
    for stage in ("train", "evaluate"):
        project.stage(stage, TORCHRUN="--nproc-per-node 1")
    project.run("dvc", "commit", "--force", "train", "evaluate")
    assert project.repro() == []
    assert project.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
