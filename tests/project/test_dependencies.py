"""dvc.yaml lists exactly what a stage depends on, code, parameters and data: DVC reruns what it must, and no more."""

import ast
import importlib
import json
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml

from stages.lib.model import model_file
from tests.conftest import ROOT, STAGES, Project, artifacts, outs

PIPELINE = yaml.safe_load(
    (ROOT / "dvc.yaml").read_text().replace("${source}", "data/source").replace("${task}", "classification")
)["stages"]
MODULES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "stages").rglob("*.py"))
PACKAGES = sorted({str(Path(module).parent) for module in MODULES if module.startswith("stages/lib/")})
READERS = ("load", "read", "parameters.load", "parameters.read")  # functions of stages/lib/core/parameters.py
# A value other than the default for every parameter.
CHANGED = {
    "dataset": "mnist",
    "source": "photos",
    "task": "classification",  # regression would need other values of other stages
    "image_size": 14,
    "max_pixel_value": 4095,
    "val_fraction": 0.2,
    "test_fraction": 0.3,
    "split_seed": 9,
    "drop_duplicates": "true",
    "unreadable_allowed": 7,
    "storage_dtype": "float16",
    "model": "cnn",
    "weights": "{file: a.pth, sha256: b}",
    "hidden": [7],
    "activation": "relu",
    "dropout": 0.4,
    "augmentation": "{shift: 2}",
    "loss": "MultiMarginLoss",
    "loss_args": "{margin: 0.5}",
    "optimizer": "SGD",
    "lr": 0.5,
    "weight_decay": 0.1,
    "momentum": 0.5,
    "optimizer_args": "{nesterov: true}",
    "schedule": "cosine",
    "warmup": 0.5,
    "batch_size": 7,
    "memory": 1,
    "epochs": 3,
    "patience": 1,
    "clip_norm": 2.0,
    "averaging": 0.9,
    "seed": 4,
    "arithmetic": "native",
    "precision": "bfloat16",
    "compile": "true",
    "threads": 2,
    "calibration_bins": 3,
    "mistakes_shown": 1,
}


def modules_reached(script: Path, root: Path = ROOT) -> set[str]:
    """Return the files below `root` that a script imports, directly or not, at the top of a module or in a function."""
    reached: set[str] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if str(path.relative_to(root)) in reached:
            continue
        reached.add(str(path.relative_to(root)))
        package = path.relative_to(root).parent.parts
        names = [".".join(package)]  # importing a module runs the __init__ of its packages first
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else ()
                base = ".".join(filter(None, [*above, node.module or ""]))
                names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("__import__", "importlib.import_module", "import_module"), f"{path}: {called}"
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                base_path = root.joinpath(*parts[:end])
                waiting += [file for file in (base_path.with_suffix(".py"), base_path / "__init__.py") if file.exists()]
    return reached


def test_every_kind_of_import_is_followed(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/script.py": "from . import one\nfrom .b import two as other\ndef later():\n    import a.b.three\n",
        "a/one.py": "import os\nif os:\n    from a.b import four\n",
        "a/b/__init__.py": "from .. import five\n",
        "a/b/two.py": "from ..six import name\n",
        "a/b/three.py": "import a.script\n",
        "a/b/four.py": "",
        "a/five.py": "",
        "a/six.py": "class name: pass\n",
        "a/not_reached.py": "",
        "not_reached.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert modules_reached(tmp_path / "a/script.py", tmp_path) == {name for name in files if "not" not in name}


def test_the_stages_are_in_order() -> None:
    assert list(PIPELINE) == ["check", *STAGES]
    assert "params" not in PIPELINE["check"], "it reads all of params.yaml"


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_lists_the_packages_that_it_imports_and_imports_all_of_each(stage: str) -> None:
    code = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("stages/")]
    assert code[0] == f"stages/{stage}.py"
    assert code[1:] == sorted(set(code[1:])), "in alphabetical order, each once"
    assert set(code[1:]) <= set(PACKAGES)
    listed = {module for module in MODULES if str(Path(module).parent) in code[1:]}
    assert modules_reached(ROOT / f"stages/{stage}.py") == {code[0]} | listed


def test_every_module_belongs_to_a_stage() -> None:
    scripts = {f"stages/{stage}.py" for stage in PIPELINE}
    assert set(MODULES) == scripts | {module for module in MODULES if str(Path(module).parent) in PACKAGES}
    assert set(PACKAGES) <= {dep for stage in PIPELINE.values() for dep in stage["deps"]}
    assert all(Path(package).parent == Path("stages/lib") for package in PACKAGES), "packages are not nested"


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_fields_of_the_model_and_each_is_read(stage: str) -> None:
    fields = importlib.import_module(f"stages.{stage}").Parameters.model_fields
    assert sorted(PIPELINE[stage]["params"]) == sorted(fields)
    read = {
        node.attr
        for node in ast.walk(ast.parse((ROOT / f"stages/{stage}.py").read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "parameters"
    }
    if stage == "train":  # passed on by the names of the model's fields
        read |= set(model_file.Architecture.model_fields)
    assert set(fields) <= read


def test_one_module_reads_params_yaml() -> None:
    """The scripts call it once each: check reads all keys, every other stage those of its model."""
    calls = []
    for name in [*MODULES, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "commands").rglob("*.py"))]:
        if name in ("stages/lib/core/parameters.py", "commands/schema.py"):
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not any(module.split(".")[0] in ("yaml", "dvc", "ruamel") for module in modules), name
            if isinstance(node, ast.Constant):
                assert node.value not in ("params.yaml", "dvc.yaml"), name
            if isinstance(node, ast.Call) and ast.unparse(node.func) in READERS:
                calls.append((name, ast.unparse(node)))
    expected = [("stages/check.py", "read(PARAMETERS)"), ("commands/card.py", "load(Parameters)")]
    assert sorted(calls) == sorted([*expected, *((f"stages/{stage}.py", "load(Parameters)") for stage in STAGES)])


def test_each_parameter_belongs_to_one_stage() -> None:
    keys = [key for stage in STAGES for key in PIPELINE[stage]["params"]]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(CHANGED)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_needs_only_what_it_lists(reproduced: Project, tmp_path: Path, stage: str) -> None:
    """In a folder with only its deps, and every parameter of other stages changed, it writes the same bytes."""
    isolated = Project(tmp_path / "isolated")
    for path in ["params.yaml", "params.schema.json", *PIPELINE[stage]["deps"]]:
        source, target = reproduced.root / path, isolated.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
    isolated.set(**{key: value for key, value in CHANGED.items() if key not in PIPELINE[stage]["params"]})
    isolated.stage(stage)
    expected = artifacts(reproduced)
    assert artifacts(isolated) == {
        path: md5
        for path, md5 in expected.items()
        if any(Path(out) in (Path(path), *Path(path).parents) for out in [*outs(stage), *PIPELINE[stage]["deps"]])
    }


def test_an_edited_module_reruns_exactly_the_stages_that_list_its_package(project: Project, torture: bool) -> None:
    """Ask DVC itself, after an edit of one module at a time; of one in each package, which is one dependency."""
    edited = MODULES
    if not torture:
        edited = list({str(Path(name).parent): name for name in MODULES if name.startswith("stages/lib/")}.values())
        edited += [name for name in MODULES if not name.startswith("stages/lib/")]
    program = """
import json, pathlib, sys
from dvc.repo import Repo
status = {}
for name in sys.argv[1:]:
    path = pathlib.Path(name)
    text = path.read_text()
    path.write_text(text + "# another line\\n")
    with Repo() as repo:
        status[name] = repo.status()
    path.write_text(text)
print(json.dumps(status))
"""
    status = json.loads(project.run("python", "-c", program, *edited).stdout)
    for name in edited:
        dep = name if Path(name).parent == Path("stages") else str(Path(name).parent)
        users = [stage for stage in PIPELINE if dep in PIPELINE[stage]["deps"]]
        assert users
        assert status[name] == {stage: [{"changed deps": {dep: "modified"}}] for stage in users}, name


def test_compiled_bytecode_reruns_nothing(project: Project) -> None:
    for package in PACKAGES:
        folder = project.root / package / "__pycache__"
        folder.mkdir(exist_ok=True)
        (folder / "left_over.cpython-311.pyc").write_bytes(package.encode())
    assert project.repro() == []


def test_a_stage_with_unchanged_outputs_reruns_nothing_after_it(project: Project) -> None:
    """Other code of normalize with the same result: normalize runs, the later stages do not."""
    project.edit("stages/normalize.py", "rows.items()} | official", "rows.items()} | {**official}")
    assert project.repro() == ["normalize"]
    project.edit("stages/lib/preprocessing/pixel_statistics.py", "math.sqrt(Fraction", "math.sqrt(1 * Fraction")
    assert project.repro() == ["normalize"]


def test_the_version_equals_that_in_pyproject() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == model_file.VERSION


def test_the_lock_file_pins_every_dependency() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (ROOT / "requirements.lock").read_text()
    for requirement in dependencies:
        assert f"\n{requirement} \\\n" in f"\n{lock}", f"{requirement}: run `make lock`"
    assert "://" not in lock
