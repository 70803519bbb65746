"""The workflows in .github/: permissions, and the commands of each job, run on branches of a bare repository.

The tests replace GitHub's checkout, artifacts and `gh`.
"""

import hashlib
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests import prepared
from tests.conftest import ROOT, Project, environment
from tests.datasets.test_folder import album, photo
from tests.handover import SIMPLEST

WORKFLOWS = ROOT / ".github/workflows"
VERIFIED = "verified: a run from nothing gives the same results, to the last bit"


def workflow(name: str) -> dict[str, Any]:
    """Read a workflow. YAML 1.1 parses the key `on` as true."""
    values = yaml.safe_load((WORKFLOWS / f"{name}.yaml").read_text())
    return {"on": values.pop(True), **values}


def commands(name: str, job: str) -> list[str]:
    """The commands of a job, step by step."""
    return [step["run"] for step in workflow(name)["jobs"][job]["steps"] if "run" in step]


def test_the_workflows_have_no_more_permissions_than_they_need() -> None:
    checking, commenting = workflow("pull-request"), workflow("pull-request-comment")
    assert list(checking["on"]) == ["pull_request"]
    assert checking["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in checking["jobs"].values())
    assert "{{ secrets" not in (WORKFLOWS / "pull-request.yaml").read_text()
    assert commenting["permissions"] == {}
    assert commenting["jobs"]["comment"]["permissions"] == {"actions": "read", "pull-requests": "write"}
    used = [step.get("uses", "") for step in commenting["jobs"]["comment"]["steps"]]
    assert not any("checkout" in action for action in used), "expected no access to the code of the pull request"
    assert commenting["on"]["workflow_run"]["workflows"] == [checking["name"]]


def test_actions_are_pinned_and_steps_are_short() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in WORKFLOWS.glob("*.yaml"):
        for job in workflow(path.stem)["jobs"].values():
            assert job["timeout-minutes"] <= 60
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
                    continue
                assert len(step["run"].splitlines()) == 1
                assert "${{" not in step["run"], "an expression could inject a branch name into the command"
                if step["run"].startswith("make "):
                    assert step["run"].removeprefix("make ") in targets


@pytest.mark.parametrize("command", ["report", "plots"])
def test_a_revision_name_is_never_executed(tmp_path: Path, command: str) -> None:
    """Neither make nor the shell expands BASE, whether from the environment or from the command line."""
    for name in ("python", "dvc"):  # stubs that print the last argument
        (tmp_path / name).write_text('#!/bin/sh\nfor last; do :; done; printf "%s" "$last"\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "experiments").mkdir()
    for name in ("requirements.lock", "experiments/plots.py", "installed", "template"):  # targets newer than sources
        (tmp_path / name).touch()
    options = ("--silent", f"--file={ROOT}/Makefile", "INSTALLED=installed", "TEMPLATE=template", f"BIN={tmp_path}")
    before = sorted(tmp_path.iterdir())
    for name in ("$(shell touch injected)", "a; touch injected", "$(touch injected)", "`touch injected`"):
        for arguments, variables in (([], {"BASE": name}), ([f"BASE={name}"], {})):
            done = subprocess.run(
                ["make", *options, command, *arguments],
                cwd=tmp_path,
                env=environment() | variables,
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stdout == name
            assert sorted(tmp_path.iterdir()) == before


def test_the_checks_job_runs_make_check_and_make_test() -> None:
    assert commands("pull-request", "checks") == ["make check", "make test"]


def test_results_are_verified_on_two_kinds_of_processors() -> None:
    assert workflow("pull-request")["jobs"]["verify"]["strategy"]["matrix"]["runner"] == [
        "ubuntu-24.04",
        "ubuntu-24.04-arm",
    ]
    assert commands("pull-request", "verify") == ["make verify"]


class PullRequest:
    """A checkout of a pushed branch, on which the steps of the job `results` have run until one failed."""

    def __init__(self, origin: Path, branch: str, root: Path, venv: Path) -> None:
        self.project = Project(root)
        subprocess.run(["git", "clone", "--quiet", "--branch", branch, origin, root], check=True, env=environment())
        (root / ".venv").symlink_to(venv)
        self.installed = root.parent / "installed"
        self.installed.touch()  # newer than requirements.lock, so make installs nothing
        self.summary = root.parent / f"{branch}.summary.md"
        self.printed = ""
        self.failed: str | None = None
        self.run([*commands("pull-request", "results"), *commands("pull-request", "verify")])

    def run(self, steps: list[str]) -> None:
        """Run steps of a workflow until one fails."""
        variables = {
            "BASE": "main",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "MAKEFLAGS": f"INSTALLED={self.installed}",
        }
        for command in steps:
            if self.failed is None:
                done = subprocess.run(
                    ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", command],
                    cwd=self.project.root,
                    env=environment() | variables,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                self.printed += done.stdout + done.stderr
                self.failed = command if done.returncode else None

    @property
    def report(self) -> str:
        """The text of the comment."""
        text = (self.project.root / "report.md").read_text()
        assert self.summary.read_text() == text
        return text


@pytest.fixture
def propose(project: Project, tmp_path: Path) -> Any:
    """A function that commits the working tree to a new branch, pushes it, and runs the workflow on it."""
    origin = tmp_path / "origin.git"
    project.run("git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin))
    project.run("git", "push", "--quiet", str(origin), "main")

    def open_pull_request(branch: str, venv: Path | None = None) -> PullRequest:
        project.run("git", "switch", "--quiet", "--create", branch)
        project.commit(branch)
        project.run("git", "push", "--quiet", str(origin), branch)
        return PullRequest(origin, branch, tmp_path / branch, venv or prepared.venv())

    return open_pull_request


def test_a_changed_learning_rate_is_reported_and_verified(project: Project, propose: Any) -> None:
    project.command("card")
    project.set(lr=0.003, epochs=2)
    project.repro()
    pull_request = propose("better-lr", Path(sys.prefix))  # processes as those of a user; the other tests prepare them
    assert pull_request.failed is None, pull_request.printed
    assert "| `lr` | `0.001` | `0.003` | train, evaluate |" in pull_request.report
    assert "Out of date" not in pull_request.report
    assert "`reports/model_card.md` describes other results" in pull_request.report
    assert VERIFIED in pull_request.printed
    assert pull_request.printed.endswith("reports/model_card.md describes other results; `make card` updates it\n")


def regression_from_a_table(project: Project) -> None:
    """Train a regression on the images of a table."""
    (project.root / "lamps").mkdir()
    rows = ["path,target"]
    for number in range(60):
        level = 20 + 3 * number
        photo((level, level, level), seed=number, size=(8, 8)).save(project.root / f"lamps/{number}.png")
        rows.append(f"{number}.png,{level / 2}")
    (project.root / "lamps/table.csv").write_text("\n".join(rows) + "\n")
    project.set(
        task="regression", dataset="csv", source="lamps", image_size=8, loss="HuberLoss", hidden=[8, 8], epochs=2
    )
    project.repro()


def images_in_folders(project: Project) -> None:
    """Train a cnn on a folder of images tracked with `dvc add`."""
    album(project.root / "photos")
    project.run("dvc", "add", "photos")
    project.run("git", "add", ".gitignore", "photos.dvc")
    settings = ["dataset=folder", "source=photos", "image_size=8", "model=cnn", "hidden=[16]", "activation=relu"]
    project.run("dvc", "exp", "run", *(part for setting in settings for part in ("-S", setting)), "-S", "epochs=1")


def changed_numbers(project: Project) -> None:
    """Change numbers with `dvc exp run -S`."""
    project.run("dvc", "exp", "run", "-S", "lr=0.002", "-S", "augmentation.shift=1", "-S", "epochs=1")


@pytest.mark.torture(quick=1, long=3)
def test_the_checks_pass_for_any_valid_parameters(project: Project, propose: Any, part: int, torture: bool) -> None:
    """`make torture` runs all steps of the workflow, `make test` only those that parameters and results can fail."""
    change = [regression_from_a_table, images_in_folders, changed_numbers][part]
    project.run("dvc", "remote", "add", "--default", "storage", "../storage")
    change(project)
    project.run("dvc", "push")
    pull_request = propose(change.__name__)
    assert pull_request.failed is None, pull_request.printed
    pull_request.project.run("cp", "-r", str(project.root / ".dvc/cache"), ".dvc/cache")
    marked = [path for path in sorted(Path("tests").rglob("test_*.py")) if "mark.committed" in path.read_text()]
    checks = [f"pytest --numprocesses=0 -m committed {' '.join(map(str, marked))}"]
    if torture:
        checks = commands("pull-request", "checks")
    pull_request.run(checks)
    assert pull_request.failed is None, pull_request.printed
    assert "Out of date" not in pull_request.report
    assert VERIFIED in pull_request.printed


def test_a_change_outside_the_pipeline_is_verified(project: Project, propose: Any) -> None:
    (project.root / "README.md").write_text("# Changed\n")
    pull_request = propose("readme")
    assert pull_request.failed is None, pull_request.printed
    assert "No parameter changed." in pull_request.report
    assert "inputs or outputs changed: none." in pull_request.report
    assert pull_request.printed.rstrip().endswith(VERIFIED)


def test_outdated_results_are_refused(project: Project, propose: Any) -> None:
    project.set(lr=0.003)
    pull_request = propose("outdated")
    assert pull_request.failed == "make verify"
    assert "> **Out of date:** these results were measured before the last change of train: lr." in pull_request.report
    assert (
        "verify: error: dvc.lock and reports/ are out of date, changed since: train: lr; "
        "run `make repro`, then commit dvc.lock and reports/ together with the change"
    ) in pull_request.printed
    assert "Running stage" not in pull_request.printed, "expected to fail before running any stage"


def test_forged_results_are_refused(project: Project, propose: Any) -> None:
    """reports/metrics.json claims a higher accuracy, and dvc.lock has the matching md5."""
    path, lock = project.root / "reports/metrics.json", project.root / "dvc.lock"
    text = path.read_text()
    path.write_text(text.replace('"accuracy": 0.9', '"accuracy": 0.99'))
    forged = path.read_text()
    assert forged != text
    before, after = (hashlib.md5(content.encode()).hexdigest() for content in (text, forged))
    lock.write_text(lock.read_text().replace(before, after).replace(f"size: {len(text)}\n", f"size: {len(forged)}\n"))
    pull_request = propose("forged")
    assert pull_request.failed == "make verify"
    assert "verify: error: reports/ are inconsistent: reports/metrics.json accuracy is 0.99" in pull_request.printed
    assert "Running stage" not in pull_request.printed, "expected to fail before running any stage"


@pytest.mark.xdist_group("simplest instructions")  # one server prepares them all
def test_native_results_from_a_different_processor_are_verified_within_rounding(
    project: Project, propose: Any, tmp_path: Path
) -> None:
    """At this learning rate, rounding changes the accuracy by percentage points, which `make verify` accepts."""
    project.set(arithmetic="native", epochs=2)
    project.repro()
    project.commit("native results of this processor")
    project.run("git", "push", "--quiet", str(tmp_path / "origin.git"), "main")
    project.set(lr=0.01)
    project.run("dvc", "repro", **SIMPLEST)  # type: ignore[arg-type]
    pull_request = propose("other-processor")
    assert pull_request.failed is None, pull_request.printed
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT" and VERIFIED in pull_request.printed:
        return  # this processor rounds the same way
    assert "> **Different processors:** the results of `main` are from " in pull_request.report
    assert (
        "verified: not to the last bit, but no metric differs by more than rounding explains: accuracy 0."
        in pull_request.printed
    )


@pytest.mark.xdist_group("simplest instructions")  # one server prepares them all
def test_portable_results_from_a_different_processor_are_verified_to_the_last_bit(
    project: Project, propose: Any
) -> None:
    project.set(lr=0.01, epochs=2)
    project.run("dvc", "repro", **SIMPLEST)  # type: ignore[arg-type]
    pull_request = propose("other-processor")
    assert pull_request.failed is None, pull_request.printed
    assert VERIFIED in pull_request.printed
    assert "Different processors" not in pull_request.report


def test_an_invalid_parameter_is_refused(project: Project, propose: Any) -> None:
    project.set(lr=-1)
    pull_request = propose("invalid")
    assert pull_request.failed == "make verify"
    assert "verify: error: params.yaml: lr: found -1, expected a number above 0" in pull_request.printed
    assert "Traceback" not in pull_request.printed


def test_the_report_is_posted_as_a_comment(tmp_path: Path) -> None:
    """`gh` receives any branch name as one argument, and the report as a file."""
    (command,) = commands("pull-request-comment", "comment")
    gh = tmp_path / "gh"
    gh.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\n')
    gh.chmod(gh.stat().st_mode | stat.S_IXUSR)
    variables = {"PULL_REQUEST": "user:a $(touch injected) branch", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["bash", "-e", "-c", command], cwd=tmp_path, env=variables, check=True)
    options = ["--body-file", "report.md", "--edit-last", "--create-if-none"]
    assert (tmp_path / "arguments").read_text().splitlines() == ["pr", "comment", variables["PULL_REQUEST"], *options]
    assert not (tmp_path / "injected").exists()
