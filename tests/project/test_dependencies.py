"""dvc.yaml lists exactly the code, parameters and data of each stage, so DVC reruns what is needed and no more."""

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
# A value other than the default for every parameter, except `task`: its other value needs further changes.
CHANGED = {
    "dataset": "mnist",
    "source": "photos",
    "task": "classification",
    "image_size": 14,
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
    "seed": 4,
    "precision": "bfloat16",
    "compile": "true",
    "threads": 2,
    "calibration_bins": 3,
    "mistakes_shown": 1,
}


def imported_modules(script: Path, root: Path = ROOT) -> set[str]:
    """The files below `root` that a script imports, directly or indirectly, including imports inside functions."""
    reached: set[str] = set()
    pending = [script]
    while pending:
        path = pending.pop()
        if str(path.relative_to(root)) in reached:
            continue
        reached.add(str(path.relative_to(root)))
        package = path.relative_to(root).parent.parts
        names = [".".join(package)]  # importing a module runs its packages' __init__ first
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                parent = package[: len(package) - node.level + 1] if node.level else ()
                base = ".".join(filter(None, [*parent, node.module or ""]))
                names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("__import__", "importlib.import_module", "import_module"), f"{path}: {called}"
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                base_path = root.joinpath(*parts[:end])
                pending += [file for file in (base_path.with_suffix(".py"), base_path / "__init__.py") if file.exists()]
    return reached


def test_imported_modules_covers_every_form_of_import(tmp_path: Path) -> None:
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
    assert imported_modules(tmp_path / "a/script.py", tmp_path) == {name for name in files if "not" not in name}


def test_the_stages_are_listed_in_order() -> None:
    assert list(PIPELINE) == ["check", *STAGES]
    assert "params" not in PIPELINE["check"], "check depends on the whole of params.yaml"


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_lists_exactly_the_packages_that_it_imports(stage: str) -> None:
    code = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("stages/")]
    assert code[0] == f"stages/{stage}.py"
    assert code[1:] == sorted(set(code[1:])), "expected alphabetical order without duplicates"
    assert set(code[1:]) <= set(PACKAGES)
    listed = {module for module in MODULES if str(Path(module).parent) in code[1:]}
    assert imported_modules(ROOT / f"stages/{stage}.py") == {code[0]} | listed


def test_every_module_is_a_stage_or_in_a_package_of_a_stage() -> None:
    scripts = {f"stages/{stage}.py" for stage in PIPELINE}
    assert set(MODULES) == scripts | {module for module in MODULES if str(Path(module).parent) in PACKAGES}
    assert set(PACKAGES) <= {dep for stage in PIPELINE.values() for dep in stage["deps"]}
    assert all(Path(package).parent == Path("stages/lib") for package in PACKAGES), "a package is nested"


@pytest.mark.parametrize("stage", STAGES)
def test_params_match_the_fields_of_the_stage_and_each_is_read(stage: str) -> None:
    fields = importlib.import_module(f"stages.{stage}").Parameters.model_fields
    assert sorted(PIPELINE[stage]["params"]) == sorted(fields)
    read = {
        node.attr
        for node in ast.walk(ast.parse((ROOT / f"stages/{stage}.py").read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "parameters"
    }
    if stage == "train":  # passes these to model_file.Architecture by name
        read |= set(model_file.Architecture.model_fields)
    assert set(fields) <= read


def test_parameters_are_read_only_through_load() -> None:
    """Only core/parameters.py reads params.yaml; stages call `load(Parameters)`, which returns the declared keys."""
    for name in MODULES:
        if name == "stages/lib/core/parameters.py":
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not any(module.split(".")[0] in ("yaml", "dvc", "ruamel") for module in modules), name
            if isinstance(node, ast.Constant):
                assert node.value not in ("params.yaml", "dvc.yaml"), name
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("load", "parameters.load", "parameters.read"):
                assert ast.unparse(node) == "load(Parameters)", name
                assert Path(name).stem in STAGES, name


def test_each_parameter_belongs_to_exactly_one_stage() -> None:
    keys = [key for stage in STAGES for key in PIPELINE[stage]["params"]]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(CHANGED)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_needs_only_what_it_lists(reproduced: Project, tmp_path: Path, stage: str) -> None:
    """Given only its deps, and other values for all parameters that it does not list, it writes the same bytes."""
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


def test_an_edited_module_reruns_exactly_the_stages_that_list_its_package(project: Project) -> None:
    """As `dvc status` reports after an edit of one module at a time."""
    program = """
import json, pathlib, sys
from dvc.repo import Repo
statuses = {}
for name in sys.argv[1:]:
    path = pathlib.Path(name)
    text = path.read_text()
    path.write_text(text + "# another line\\n")
    with Repo() as repo:
        statuses[name] = repo.status()
    path.write_text(text)
print(json.dumps(statuses))
"""
    statuses = json.loads(project.run("python", "-c", program, *MODULES).stdout)
    for name in MODULES:
        dep = name if Path(name).parent == Path("stages") else str(Path(name).parent)
        dependents = [stage for stage in PIPELINE if dep in PIPELINE[stage]["deps"]]
        assert dependents
        assert statuses[name] == {stage: [{"changed deps": {dep: "modified"}}] for stage in dependents}, name


def test_compiled_bytecode_reruns_nothing(project: Project) -> None:
    for package in PACKAGES:
        folder = project.root / package / "__pycache__"
        folder.mkdir(exist_ok=True)
        (folder / "left_over.cpython-311.pyc").write_bytes(package.encode())
    assert project.repro() == []


def test_an_edit_that_changes_no_output_reruns_only_that_stage(project: Project) -> None:
    """Equivalent code in normalize: normalize runs, and the later stages are skipped."""
    project.edit("stages/normalize.py", "rows.items()} | official", "rows.items()} | {**official}")
    assert project.repro() == ["normalize"]
    project.edit("stages/lib/preprocessing/pixel_statistics.py", "math.sqrt(Fraction", "math.sqrt(1 * Fraction")
    assert project.repro() == ["normalize"]


def test_the_version_matches_pyproject() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == model_file.VERSION


def test_the_lock_file_pins_the_dependencies_of_pyproject() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (ROOT / "requirements.lock").read_text()
    for requirement in dependencies:
        assert f"\n{requirement} \\\n" in f"\n{lock}", f"{requirement}: run `make lock`"
    assert "://" not in lock
