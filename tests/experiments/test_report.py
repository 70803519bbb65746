"""`make report`, which compares two revisions, and its significance test."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from experiments.comparison import paired, paired_errors
from experiments.report import Revision, significance
from tests.conftest import Project


def sides(only_base: int, only_this: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether base and this are right on each row; both are on half of the remaining rows."""
    base, this = np.arange(rows) % 2 == 0, np.arange(rows) % 2 == 0
    base[:only_base], this[:only_base] = True, False
    base[only_base : only_base + only_this], this[only_base : only_base + only_this] = False, True
    return base, this


def test_mcnemars_p_value_is_exact() -> None:
    # 2 and 8 of 10 rows that only one side got right: twice the probability of at most 2 heads in 10 throws.
    assert paired(*sides(2, 8, 1000)).p_value == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert paired(*sides(8, 2, 1000)).p_value == paired(*sides(2, 8, 1000)).p_value
    assert paired(*sides(0, 0, 100)).p_value == 1.0


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    base, this = sides(120, 180, 10_000)
    test = paired(base, this)
    difference = this.astype(int) - base.astype(int)
    spread = norm.ppf(0.975) * difference.std() / 100
    assert (test.low, test.high) == pytest.approx((0.006 - spread, 0.006 + spread), abs=2e-4)
    assert test.difference == 0.006


@pytest.mark.parametrize("only_base", [0, 1, 3, 10, 40])
def test_verdict_direction_and_interval_agree(only_base: int) -> None:
    """For every number of rows that only the other side gets right, and with the sides swapped."""
    for only_this in range(80):
        test, swapped = paired(*sides(only_base, only_this, 500)), paired(*sides(only_this, only_base, 500))
        assert (test.p_value < 0.05) == (test.low > 0 or test.high < 0), (only_base, only_this)
        assert test.low <= test.difference <= test.high
        assert (swapped.p_value, swapped.difference) == (test.p_value, -test.difference)
        assert (swapped.low, swapped.high) == pytest.approx((-test.high, -test.low))
        assert ("better" in str(test)) == (test.low > 0)
        assert ("worse" in str(test)) == (test.high < 0)


def test_verdict_direction_and_interval_of_errors_agree() -> None:
    """Also where a few large changes are against many small ones, on which signs and ranks say the opposite."""
    random = np.random.default_rng(0)
    for trial in range(300):
        rows = int(random.integers(2, 200))
        base = random.gamma(1, size=rows)
        this = np.abs(base + random.normal(scale=0.1, size=rows) + 3 * (random.random(rows) < 0.1) - 0.2 * (trial % 3))
        test, swapped = paired_errors(base, this), paired_errors(this, base)
        assert (test.p_value < 0.05) == (test.low > 0 or test.high < 0)
        assert test.low <= test.difference <= test.high
        assert (swapped.p_value, swapped.difference) == pytest.approx((test.p_value, -test.difference))
        assert ("better" in str(test)) == (test.high < 0)
        assert ("worse" in str(test)) == (test.low > 0)
    equal = paired_errors(base, base)
    assert (equal.p_value, equal.low, equal.high) == (1.0, 0.0, 0.0)


def revision(files: str, tensors: str, quantity: str | None = None) -> Revision:
    table = pd.DataFrame({"index": [3, 5, 8], "actual": ["1", "2", "3"], "predicted": ["1", "2", "2"]})
    if quantity:
        table = table.assign(quantity=quantity, residual=["0", "0", "-1"])
    deps = [{"path": "data/tensors/test", "md5": tensors}, {"path": "models/model.json", "md5": "m"}]
    lock = {"download": {"outs": [{"path": "data/raw/dataset", "md5": files}]}, "evaluate": {"deps": deps}}
    return Revision("main", "c", {"dataset": "folder"}, lock, {}, None, table, table)


@pytest.mark.parametrize(("files", "tensors", "same"), [("f", "u", True), ("g", "t", True), ("g", "u", False)])
def test_images_are_the_same_if_their_files_or_tensors_are(files: str, tensors: str, same: bool) -> None:
    """Not by the name of the data set: two archives of the same classes have the same rows, too."""
    text = significance(revision("f", "t"), revision(files, tensors))
    assert ("+0.00 points" in text) == same
    assert ("**Not comparable:** the two sides were tested on different images." in text) != same


def test_resampled_rows_are_other_images() -> None:
    base, this = revision("f", "t"), revision("f", "t")
    for rows in ([0, 1], [2, 1, 0], [0, 0, 1]):
        resampled = replace(this, predictions=this.predictions.iloc[rows].reset_index(drop=True))
        assert "**Not comparable:**" in significance(base, resampled)


def test_renamed_quantities_are_not_compared() -> None:
    text = significance(revision("f", "t", "age"), revision("f", "t", "years"))
    assert text == "**Not comparable:** this predicts years, `main` age."
    assert "no significant difference" in significance(revision("f", "t", "age"), revision("f", "t", "age"))
    for sides in ((revision("f", "t"), revision("f", "t", "age")), (revision("f", "t", "age"), revision("f", "t"))):
        assert re.fullmatch(r"\*\*Not comparable:\*\* this predicts .*, `main` .*\.", significance(*sides))


@pytest.mark.parametrize(
    ("only_base", "only_this", "words"),
    [
        (100, 131, "+0.31 points, 95 % interval +0.0"),
        (10, 60, "significantly better (10,000 test images)"),
        (60, 10, "significantly worse (10,000 test images)"),
        (110, 130, "no significant difference (10,000 test images)"),
        (0, 0, "+0.00 points, 95 % interval +0.00 to +0.00: no significant difference"),
    ],
)
def test_the_result_is_one_sentence(only_base: int, only_this: int, words: str) -> None:
    assert words in str(paired(*sides(only_base, only_this, 10_000)))


def report(project: Project, base: str = "main") -> str:
    return project.run("python", "-W", "error", "-m", "experiments.report", base).stdout


@pytest.fixture
def proposal(project: Project, tmp_path: Path) -> Project:
    """A clone, without a DVC cache, of a branch that changes the learning rate."""
    project.run("git", "switch", "--quiet", "--create", "proposal")
    project.set(lr=0.003, epochs=2)
    project.repro()
    project.commit("another lr")
    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "--quiet", str(project.root), str(clone.root))
    assert not (clone.root / ".dvc/cache").exists()
    return clone


def test_a_report_in_a_clone_without_a_cache(proposal: Project) -> None:
    text = report(proposal)
    assert (proposal.root / "report.md").read_text() == text
    assert text.startswith("## Compared with `main`\n\n**Accuracy ")
    assert "| `lr` | `0.001` | `0.003` | train, evaluate |" in text
    assert "Stages whose inputs or outputs changed: train, evaluate." in text
    assert "Changed code" not in text
    assert "(1,000 test images).**" in text
    assert text.count("    line [") == 2
    assert "| accuracy | " in text
    assert "Out of date" not in text
    lines = proposal.run("dvc", "metrics", "diff", "origin/main", "--md").stdout.splitlines()
    changed = {line.split("|")[2].strip() for line in lines if "metrics.json" in line}
    assert {"accuracy", "cross_entropy", "macro_f1", "calibration_error", "accuracy_low", "accuracy_high"} <= changed
    assert "| 0.003 " in proposal.run("dvc", "params", "diff", "origin/main", "--md").stdout
    proposal.run("dvc", "plots", "diff", "origin/main")


def test_nothing_changed(fresh: Project) -> None:
    done = fresh.run("python", "-W", "error", "-m", "experiments.report", "main")
    assert done.stderr == "report: written to report.md\n"
    text = done.stdout
    assert "+0.00 points" in text
    assert "No parameter changed." in text
    assert "inputs or outputs changed: none." in text


def test_predictions_with_and_without_a_file_column_can_be_compared(fresh: Project) -> None:
    path = fresh.root / "reports/predictions.csv"
    table = pd.read_csv(path)
    table.insert(1, "file", [f"{row}/7" if row % 2 else str(row) for row in table["index"]])
    table.to_csv(path, index=False)
    text = report(fresh)
    assert "+0.00 points" in text
    assert "### Confusion" in text


def test_changed_files_are_named(project: Project) -> None:
    for name in ("metrics", "pictures"):
        with (project.root / f"stages/lib/reporting/{name}.py").open("a") as file:
            file.write("# another line\n")
    assert project.repro() == ["evaluate"]
    named = "Changed code: `stages/lib/reporting/metrics.py`, `stages/lib/reporting/pictures.py`."
    assert named in report(project)
    project.commit("another line")
    text = report(project, "HEAD~1")
    assert named in text
    assert "Stages whose inputs or outputs changed: evaluate." in text


def test_outdated_results_are_marked(fresh: Project) -> None:
    fresh.set(lr=0.5)
    assert "> **Out of date:** these results were measured before the last change of train: lr. Run" in report(fresh)


def test_the_same_number_in_another_notation_is_no_change(fresh: Project) -> None:
    fresh.set(lr="1e-3")
    assert "No parameter changed." in report(fresh)
    assert "Out of date" not in report(fresh)


def test_results_on_different_test_images_are_not_compared(fresh: Project) -> None:
    path = fresh.root / "reports/predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    text = report(fresh)
    assert "**Not comparable:** the two sides were tested on different images." in text
    assert "points, 95 % interval" not in text
    assert "### Confusion" not in text


def test_of_many_classes_those_that_changed_most_are_shown(fresh: Project) -> None:
    path = fresh.root / "reports/predictions.csv"
    table = pd.read_csv(path)
    table["actual"] = table["index"] % 30
    table["predicted"] = table["actual"]
    table.to_csv(path, index=False)
    fresh.commit("30 classes, all right")
    table.loc[table["actual"] == 7, "predicted"] = 8
    table.to_csv(path, index=False)
    text = report(fresh, "HEAD")
    wrong = int((table["actual"] == 7).sum())
    assert f"| 7 | 8 | 0 | {wrong} | +{wrong} |" in text
    assert f"| 7 | {wrong} | 100.0% | 0.0% | -100.0 |" in text
    assert text.count("100.0% | 100.0% |") == 9


def test_results_are_shown_alone_if_the_base_has_none(fresh: Project) -> None:
    fresh.run("git", "rm", "--quiet", "-r", "--cached", "reports")
    fresh.run("git", "commit", "--quiet", "--message", "no results")
    text = report(fresh, "HEAD")
    assert "**`HEAD` has no results yet**, so there is nothing to compare with." in text
    assert "| metric | this |\n" in text
    assert text.count("    line [") == 1


def test_errors_are_one_line(fresh: Project) -> None:
    def refusal(base: str) -> str:
        return fresh.run("python", "-m", "experiments.report", base, fails=True).stderr

    assert refusal("mian").startswith("report: error: git does not know the revision `mian`; `git fetch origin mian`")
    fresh.run("git", "rm", "--quiet", "--cached", "reports/train.csv")
    fresh.run("git", "commit", "--quiet", "--message", "a part")
    assert refusal("HEAD") == (
        "report: error: reports/train.csv is missing in `HEAD`; run `make repro` there, commit dvc.lock and reports/\n"
    )
    (fresh.root / "reports/train.csv").write_text("")
    assert refusal("HEAD~1").startswith("report: error: reports/train.csv is damaged in the working tree")
    (fresh.root / "reports/metrics.json").unlink()
    assert refusal("HEAD~1").startswith("report: error: no results yet: reports/metrics.json is missing")
