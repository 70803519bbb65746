"""Crash-only: after any interruption the next `dvc repro` ends with the bits of an uninterrupted run.

The tests run the real dvc in real processes; `make torture` interrupts it at many more moments.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests import prepared
from tests.conftest import STAGES, Count, Project, artifacts, environment

EPOCH = re.compile(r"^epoch +(\d+)/", re.MULTILINE)
# DVC writes these in place. A kill within those milliseconds, or a full disk, truncates them; docs/guarantees.md has
# the remedies.
WRITTEN_IN_PLACE = {"dvc.lock": ["git", "checkout", "dvc.lock"], ".dvc/tmp/rwlock": ["rm", ".dvc/tmp/rwlock"]}


@pytest.fixture(scope="session")
def seconds(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], float]:
    """A function that measures how long a stage takes, including DVC's work."""

    @cache
    def measure(stage: str) -> float:
        project = reproduced.copy(tmp_path_factory.mktemp("seconds") / "project")
        running = project.start("dvc", "repro", "--force", "--single-item", stage)
        running.wait_for(f"Running stage '{stage}'")
        start = time.monotonic()
        assert running.process.wait(timeout=120) == 0, running.output.read_text()
        return time.monotonic() - start

    return measure


def run_repro(project: Project) -> subprocess.CompletedProcess[str]:
    """Run `dvc repro`, which may fail."""
    return prepared.run(("dvc", "repro"), project.root, environment(), {}, timeout=300)


def repro(project: Project, count: Count) -> str:
    """Run `dvc repro` after a kill or a full disk, with the documented remedies if it fails, and return its stdout."""
    for _ in range(1 + len(WRITTEN_IN_PLACE)):
        done = run_repro(project)
        if done.returncode == 0:
            return done.stdout
        damaged = [path for path in WRITTEN_IN_PLACE if f"'{path}'" in done.stderr or f"'./{path}'" in done.stderr]
        assert damaged, done.stdout + done.stderr
        count(f"times that DVC truncated {damaged[0]}", 1)
        project.run(*WRITTEN_IN_PLACE[damaged[0]])
    raise AssertionError(done.stderr)


@pytest.mark.torture(quick=1, long=26 * len(STAGES))
def test_a_kill_at_any_moment_of_a_stage_does_not_change_the_result(
    project: Project, reproduced: Project, seconds: Callable[[str], float], part: int, count: Count
) -> None:
    stage = ["train", "cache", "download", "normalize", "evaluate"][part % len(STAGES)]
    whole = seconds(stage)
    project.forget(stage)
    running = project.start("dvc", "repro")
    running.wait_for(f"Running stage '{stage}'")
    time.sleep(random.Random(f"{stage} {part}").random() * 0.9 * whole)
    count(f"kills in {stage}", running.send(signal.SIGKILL))
    printed = running.output.read_text() + repro(project, count)
    assert artifacts(project) == artifacts(reproduced)
    count("artifacts compared, all equal", len(artifacts(project)))
    if stage == "train":
        epochs = Counter(EPOCH.findall(printed))
        count("epochs before and after a kill", len(epochs))
        count("epochs repeated", sum(epochs.values()) - len(epochs))
        assert max(epochs.values()) == 1, epochs


@pytest.mark.torture(quick=0, long=3)
def test_a_training_that_is_killed_every_other_epoch_finishes(
    project: Project, reproduced: Project, part: int, count: Count
) -> None:
    draw = random.Random(part)
    project.forget("train")
    printed = ""
    for _ in range(20):
        running = project.start("dvc", "repro")
        before = len(EPOCH.findall(printed))
        deadline = time.monotonic() + 60
        while running.process.poll() is None and time.monotonic() < deadline:
            if EPOCH.findall(running.output.read_text()):
                time.sleep(draw.random())  # within the next epoch or two
                break
            time.sleep(0.005)
        killed = running.send(signal.SIGKILL)
        count("kills in train", killed)
        printed += running.output.read_text()
        if not killed:
            break
        assert len(EPOCH.findall(printed)) > before, "no progress"
    repro(project, count)
    assert artifacts(project) == artifacts(reproduced)
    epochs = Counter(EPOCH.findall(printed))
    count("epochs before and after a kill", len(epochs))
    count("epochs repeated", sum(epochs.values()) - len(epochs))
    assert max(epochs.values()) == 1, epochs


CHANGES = ["a parameter", "the data", "the code"]


@pytest.mark.torture(quick=0, long=3)
def test_a_training_with_a_changed_input_starts_from_the_beginning(project: Project, tmp_path: Path, part: int) -> None:
    changed = CHANGES[part]
    project.forget("train")
    running = project.start("dvc", "repro")
    running.wait_for("epoch   2/10")
    running.send(signal.SIGKILL)
    if changed == "a parameter":
        project.set(lr=0.002)
    elif changed == "the data":
        project.set(split_seed=1)
    else:
        project.edit("stages/lib/model/networks.py", "nn.Dropout(dropout)", "nn.Dropout(dropout / 2)")
    project.set(epochs=3)
    other = project.copy(tmp_path / "uninterrupted")
    shutil.rmtree(other.root / ".state")
    printed = project.run("dvc", "repro").stdout
    assert "resuming" not in printed
    assert EPOCH.findall(printed) == ["1", "2", "3"]
    other.repro()
    assert artifacts(project) == artifacts(other)


@pytest.mark.torture(quick=1, long=2)
def test_dvc_does_not_record_an_interrupted_training(project: Project, reproduced: Project, part: int) -> None:
    sent = [signal.SIGINT, signal.SIGTERM][part]
    lock = (project.root / "dvc.lock").read_bytes()
    project.forget("train")
    running = project.start("dvc", "repro")
    running.wait_for("epoch   2/10")
    assert running.send(sent)
    assert running.process.returncode != 0
    printed = running.output.read_text()
    assert "train: interrupted" in printed
    assert "Traceback" not in printed
    if sent == signal.SIGINT:  # SIGTERM ends DVC itself as well
        # The code is that of DVC's shell: bash executes the stage in its place, dash waits and is killed by the signal.
        assert re.search(r"exited with (130|-2)$", printed, re.M)
    assert (project.root / "dvc.lock").read_bytes() == lock
    assert not list((project.root / "models").glob("*.json"))
    again = project.run("dvc", "repro").stdout
    assert re.search(r"resuming after epoch [2-9], step \d+ of an interrupted run", again)
    assert max(Counter(EPOCH.findall(printed + again)).values()) == 1
    assert artifacts(project) == artifacts(reproduced)


def test_a_second_run_at_the_same_time_is_refused(project: Project, reproduced: Project) -> None:
    """By DVC's lock; and by the stage's lock if DVC was killed and its stage still runs."""
    project.forget("train")
    running = project.start("dvc", "repro")
    running.wait_for("epoch   1/10")
    os.killpg(running.process.pid, signal.SIGSTOP)  # it must not finish meanwhile
    refused = project.run("dvc", "repro", fails=True)
    assert re.search(r"is busy, it is being blocked by:\s+\(PID \d+\): .*dvc repro", refused.stderr)
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()  # the training still runs
    refused = project.run("dvc", "repro", fails=True)
    assert re.search(
        r"train: error: .state/train.lock: process \d+ runs this stage in this folder; wait for it, or end it",
        refused.stderr,
    )
    os.killpg(running.process.pid, signal.SIGCONT)
    running.send(signal.SIGTERM)
    again = project.run("dvc", "repro").stdout
    assert "resuming after epoch" in again
    assert artifacts(project) == artifacts(reproduced)


@pytest.mark.torture(quick=1, long=2)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_cannot_write_changes_no_output(
    project: Project, reproduced: Project, stage: str, part: int
) -> None:
    """A limit on the size of files stands for a full disk: the same writes fail."""
    limit = [4, 0][part]  # blocks of 1024 bytes
    refused = project.run("bash", "-c", f"ulimit -f {limit}; exec python -m stages.{stage}", fails=True)
    assert refused.returncode == 1
    assert re.fullmatch(rf"{stage}: error: \S+: .*too large.*; free some space and run it again\n", refused.stderr), (
        refused.stderr
    )
    assert artifacts(project) == artifacts(reproduced)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of this size in memory; only root on Linux can."""
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small disk: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.torture(quick=0, long=3)
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_does_not_change_the_result(
    project: Project, reproduced: Project, tmp_path: Path, stage: str, part: int, count: Count
) -> None:
    """Run dvc on a disk with a little less or a little more free space than the stage needs."""
    with small_disk(tmp_path / "disk", 400) as disk:
        full = project.copy(disk / "project")
        full.forget(stage)
        free = shutil.disk_usage(disk).free
        left = [16_384, 200_000, 1_200_000][part]
        with (disk / "filler").open("wb") as filler:
            filler.write(bytes(free - left))
        done = run_repro(full)
        assert "Traceback" not in done.stderr
        assert done.returncode or part, "16 KiB are too little for every stage"
        if done.returncode:
            assert re.search(r"No space left on device|free some space", done.stdout + done.stderr), done.stderr
            count("full disks", 1)
        (disk / "filler").unlink()
        repro(full, count)
        assert artifacts(full) == artifacts(reproduced)


@pytest.mark.torture(quick=0, long=2)
def test_links_into_the_cache_are_replaced_and_never_written_through(
    project: Project, reproduced: Project, part: int
) -> None:
    kind = ["symlink", "hardlink"][part]
    project.run("dvc", "config", "cache.type", kind)
    project.run("dvc", "checkout", "--relink")
    weights = project.root / "models/model.safetensors"
    assert weights.is_symlink() if kind == "symlink" else weights.stat().st_nlink > 1
    assert not weights.stat().st_mode & 0o222
    defaults = (project.root / "params.yaml").read_text()
    project.set(split_seed=1, epochs=1)
    for stage in STAGES:
        project.stage(stage)
    by_hand = artifacts(project)
    assert project.repro() == STAGES[1:]
    assert {**artifacts(project), "dvc.lock": ""} == {**by_hand, "dvc.lock": ""}
    for file in (project.root / ".dvc/cache/files/md5").glob("??/*"):
        if file.suffix != ".dir":
            assert hashlib.md5(file.read_bytes()).hexdigest() == file.parent.name + file.name
    (project.root / "params.yaml").write_text(defaults)
    assert project.repro() == []
    assert artifacts(project) == artifacts(reproduced)
