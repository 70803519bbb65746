"""Several ranks that train or evaluate one model: real processes, started by PyTorch's launcher, over the loopback."""

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from stages import train
from stages.lib.model.batch_rows import BatchRows
from stages.lib.model.distributed import Group
from stages.lib.model.dropout import QuickDropout
from stages.lib.training import checkpoint
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


def test_ranks_drop_the_units_that_one_process_drops() -> None:
    batch, units = BatchRows(), torch.ones(10, 37)
    layer = QuickDropout(0.4, batch)
    torch.manual_seed(0)
    expected = layer(units)
    for rows in (slice(0, 3), slice(3, 10)):
        batch.select(rows, 10)
        torch.manual_seed(0)
        assert torch.equal(layer(units[rows]), expected[rows])


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.torture(quick=0, long=1))])
def test_several_ranks_give_the_losses_of_one_process(tiny: Project, ranks: int) -> None:
    train.main()
    single_process = curves()
    printed = finished(launch(tiny, "--nproc-per-node", str(ranks)))
    assert len(re.findall(r"epoch +\d/4", printed)) == 4, "rank 0 prints for all"
    assert not checkpoint.STATES.exists()
    for row, several in zip(single_process, curves(), strict=True):
        assert several == pytest.approx(row, rel=2e-5)


def test_stages_start_the_launcher_themselves(project: Project) -> None:
    """dvc.lock does not depend on it, and evaluate writes the same bits."""
    project.set(epochs=2)
    assert project.repro() == ["train", "evaluate"]
    before = artifacts(project)
    project.run(
        "dvc", "repro", "--force", "--single-item", "evaluate", TORCHRUN="--nproc-per-node 2", OMP_NUM_THREADS="1"
    )
    assert artifacts(project) == before
    project.set(seed=1)
    done = project.run("dvc", "repro", TORCHRUN="--nproc-per-node 2", OMP_NUM_THREADS="1")
    assert len(re.findall(r"epoch +\d/2", done.stdout)) == 2
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
    choose(epochs=30)
    finished(launch(tiny, "--nproc-per-node", "2"))
    uninterrupted = outputs()
    running = launch(tiny, "--nproc-per-node", "2", "--max-restarts", "1")
    running.wait_for("epoch   5/30")
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
    refused = tiny.stage("train", fails=True, TORCHRUN="--nproc-per-node 2", PYTHONPATH=str(ROOT))
    assert "params.yaml: optimizer: LBFGS trains in one process only" in refused.stderr
    assert "Traceback" not in refused.stderr


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
