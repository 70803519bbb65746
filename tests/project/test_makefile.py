"""Makefile targets, without running any recipe."""

import re
import subprocess

from tests.conftest import ROOT, environment


def make(*arguments: str) -> str:
    """Run make in the project root and return its stdout."""
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    ).stdout


def test_help_lists_every_target() -> None:
    listed = re.findall(r"^  make (\w+)  +\S", make("help"), re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert sorted(listed) == sorted(phony[1].split())


def test_the_default_target_runs_the_pipeline() -> None:
    assert make("--dry-run").splitlines()[-1] == ".venv/bin/dvc repro"
