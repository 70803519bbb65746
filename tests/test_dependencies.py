"""dvc.yaml names exactly what a stage reads: its modules, followed by import, and its parameters."""

import ast
import importlib
import tomllib
from pathlib import Path

import pytest
import yaml

from stages.lib import model_file
from tests.conftest import ROOT, STAGES

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def modules_reached(script: Path) -> set[str]:
    """The files of this project that a script imports, directly or not, wherever the import stands."""
    reached, waiting = set(), [script]
    while waiting:
        path = waiting.pop()
        if str(path.relative_to(ROOT)) in reached:
            continue
        reached.add(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: import by full name"
                names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            for name in names:
                parts = name.split(".")
                for end in range(1, len(parts) + 1):
                    base = ROOT.joinpath(*parts[:end])
                    waiting += [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.exists()]
    return reached


def test_the_stages_are_the_five_in_order() -> None:
    assert list(PIPELINE) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_reached(stage: str) -> None:
    declared = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("stages/")]
    assert len(declared) == len(set(declared))
    assert set(declared) == modules_reached(ROOT / f"stages/{stage}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_fields_of_the_model(stage: str) -> None:
    model = importlib.import_module(f"stages.{stage}").Parameters
    assert sorted(PIPELINE[stage]["params"]) == sorted(model.model_fields)


def test_each_parameter_belongs_to_one_stage() -> None:
    keys = [key for stage in PIPELINE.values() for key in stage["params"]]
    assert len(keys) == len(set(keys))


def test_the_version_is_that_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == model_file.VERSION


def test_the_lock_file_pins_what_the_project_asks_for() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (ROOT / "requirements.lock").read_text()
    for requirement in asked:
        assert f"\n{requirement} \\\n" in f"\n{lock}", f"{requirement}: run `make lock`"
    assert "://" not in lock
