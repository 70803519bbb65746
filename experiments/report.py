"""Report what a change does to the results, compared with a base revision, for a pull request.

    make report BASE=main          (python -m experiments.report main)

In:  params.yaml, dvc.lock and reports/ in the working tree, and the same files of the base in git. No data, cache or
     remote: it works in a fresh clone.
Out: report.md, also printed: Markdown, with its charts as text that GitHub draws (Mermaid), so that one file is enough.
"""

from stages.lib.core.process import run

import io
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

from commands.lib.command_line import documented
from commands.lib.flat import flat
from commands.lib.markdown import row, table_of
from experiments.comparison import paired, paired_errors
from experiments.shell import file_at, output
from experiments.status import card_is_outdated, changed_files, shortened_list, stale
from experiments.tracked import CARD, CURVES, LOCK, METRICS, PREDICTIONS, SUMMARY
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import write_text
from stages.lib.core.parameters import PARAMETERS

REPORT = Path("report.md")
EDITED_BY_HAND = (str(PARAMETERS), LOCK)  # or by a merge; a run writes the other files
TEST = "data/tensors/test"
MAX_CLASSES = 20  # for whole confusion matrices


@dataclass(frozen=True)
class Revision:
    """The parameters and results of a commit, or of the working tree."""

    name: str
    commit: str | None  # None: the working tree
    parameters: dict[str, Any]
    lock: dict[str, Any]  # stage -> its entry in dvc.lock
    metrics: dict[str, float]
    processor: str | None  # the kind of processor that trained the model
    curves: pd.DataFrame  # a row per epoch
    predictions: pd.DataFrame  # a row per test image (and quantity): index, actual, predicted, ...

    @property
    def is_regression(self) -> bool:
        """Whether the predictions are numbers, not classes."""
        return "residual" in self.predictions


def main() -> None:
    parser = documented("experiments.report", __doc__)
    parser.add_argument("revision", help="what to compare the working tree with")
    name = parser.parse_args().revision
    commit = resolve(name)
    name = name if not commit.startswith(name) else commit[:9]
    base, this = read_revision(name, commit), read_revision("this", None)
    if this is None:
        raise UserError(f"no results yet: {METRICS} is missing; run `make repro`")
    parts = [f"## Compared with `{name}`", *(first_report(name, this) if base is None else comparison(base, this))]
    if card_is_outdated():
        parts.append(f"`{CARD}` describes other results; `make card` updates it.")
    text = "\n\n".join(filter(None, parts)) + "\n"
    write_text(REPORT, text)
    print(text, end="", flush=True)
    print(f"report: written to {REPORT}", file=sys.stderr)


# --- Reading two revisions ---


def resolve(revision: str) -> str:
    """Return the commit of a revision, or of the branch `origin/REVISION`: a fresh clone has one local branch only.

    Raises:
        UserError: git knows neither.
    """
    for candidate in (revision, f"origin/{revision}"):
        with suppress(UserError):
            return output("git", "rev-parse", "--verify", "--quiet", f"{candidate}^{{commit}}").strip()
    raise UserError(
        f"git does not know the revision `{revision}`; `git fetch origin {revision}` may fetch it, "
        "and `git fetch --unshallow` the history of a shallow clone"
    )


def read_revision(name: str, commit: str | None) -> Revision | None:
    """Read a commit, or the working tree if `commit` is None; return None if it has no results yet.

    Raises:
        UserError: a file is missing or damaged.
    """
    parsed: dict[str, Any] = {}
    place = "the working tree" if commit is None else f"`{name}`"
    for path, parse in PARSERS.items():
        try:
            parsed[path] = parse(Path(path).read_text(encoding="utf-8") if commit is None else file_at(commit, path))
        except FileNotFoundError as error:
            if path == METRICS:
                return None
            remedy = "run `make repro`" if commit is None else "run `make repro` there, commit dvc.lock and reports/"
            raise UserError(f"{path} is missing in {place}; {remedy}") from error
        except (ValueError, YAMLFileCorruptedError) as error:
            remedy = "run `make repro`"
            if commit is not None:
                remedy = "fix it there"
            elif path in EDITED_BY_HAND:
                remedy = f"resolve its conflicts, or `git checkout {path}`"
            raise UserError(f"{path} is damaged in {place} ({reason(error)}); {remedy}") from error
    all_metrics = flat({**parsed[METRICS], **parsed[SUMMARY]})
    return Revision(
        name=name,
        commit=commit,
        parameters=parsed[str(PARAMETERS)],
        lock=parsed[LOCK].get("stages", {}),
        metrics={name: value for name, value in all_metrics.items() if not isinstance(value, str)},
        processor=all_metrics.get("processor"),
        curves=parsed[CURVES],
        predictions=parsed[PREDICTIONS],
    )


def parse_table(text: str) -> pd.DataFrame:
    """Parse a CSV; class and file names stay text, even if they are numbers or `NA`."""
    return pd.read_csv(
        io.StringIO(text), dtype=dict.fromkeys(("file", "actual", "predicted"), str), keep_default_na=False
    )


def parse_mapping(text: str) -> dict[str, Any]:
    """Parse a YAML file as DVC does: `1e-5` is a number."""
    values = parse_yaml(text, "")
    if not isinstance(values, dict):
        raise ValueError("not a mapping")
    return values


PARSERS: dict[str, Callable[[str], Any]] = {
    METRICS: json.loads,
    str(PARAMETERS): parse_mapping,
    LOCK: parse_mapping,
    SUMMARY: json.loads,
    CURVES: parse_table,
    PREDICTIONS: parse_table,
}


# --- The parts of the report ---


def comparison(base: Revision, this: Revision) -> list[str]:
    """Compare two revisions that both have results."""
    parts = [
        out_of_date(),
        other_processor(base, this),
        significance(base, this),
        changed_parameters(base, this),
        changed_code(base, this),
        changed_stages(base, this),
        metrics(base, this),
        curves(base, this),
    ]
    if base.is_regression or this.is_regression or not same_images(base, this):
        return parts
    return [*parts, confusion(base, this), recall_by_class(base, this)]


def first_report(name: str, this: Revision) -> list[str]:
    """Describe the results where the base has none."""
    return [
        out_of_date(),
        f"**`{name}` has no results yet**, so there is nothing to compare with. These are the first:",
        metrics(this),
        curves(this),
    ]


def out_of_date() -> str:
    """Warn if the results do not belong to the code and parameters in the working tree."""
    if not (changed := stale()):
        return ""
    return (
        f"> **Out of date:** these results were measured before the last change of {shortened_list(changed)}. "
        "Run `make repro`, and commit dvc.lock and reports/."
    )


def other_processor(base: Revision, this: Revision) -> str:
    """Warn if the two models were trained on different kinds of processors."""
    if base.processor == this.processor or None in (base.processor, this.processor):
        return ""
    return (
        f"> **Different processors:** the results of `{base.name}` are from {base.processor}, these from "
        f"{this.processor}. They round the last bits differently, which changes the results as another `seed` would, "
        "whatever else was changed."
    )


def same_images(base: Revision, this: Revision) -> bool:
    """Return whether both models were tested on the same rows of the same files, or on the same tensors."""
    rows = ["index", "actual"]
    same_rows = base.predictions[rows].equals(this.predictions[rows])
    return same_rows and bool(tested_data(base) & tested_data(this))


def tested_data(side: Revision) -> set[tuple[str, str]]:
    """Return what dvc.lock records of the test images: the hash of the original files, and that of the test tensors."""
    entries = {"files": side.lock.get("download", {}).get("outs", [])}
    entries["tensors"] = [dep for dep in side.lock.get("evaluate", {}).get("deps", []) if dep.get("path") == TEST]
    return {(kind, entry["md5"]) for kind, listed in entries.items() for entry in listed if "md5" in entry}


def significance(base: Revision, this: Revision) -> str:
    """State whether the difference in accuracy, or in each mean absolute error, is significant."""
    names, base_names = (
        list(side.predictions["quantity"].unique()) if side.is_regression else ["classes"] for side in (this, base)
    )
    if names != base_names:
        return f"**Not comparable:** this predicts {', '.join(names)}, `{base.name}` {', '.join(base_names)}."
    if not same_images(base, this):
        return "**Not comparable:** the two sides were tested on different images."
    if this.is_regression:
        return "\n\n".join(significance_of_errors(base, this, name) for name in this.predictions["quantity"].unique())
    base_correct, this_correct = (
        (side.predictions["actual"] == side.predictions["predicted"]).to_numpy() for side in (base, this)
    )
    test = paired(base_correct, this_correct)
    return (
        f"**Accuracy {base_correct.mean():.2%} → {this_correct.mean():.2%}. {test}.**\n\n"
        f"Of the same {test.rows:,} test images, only `{base.name}` is right on {test.only_base:,} and only this on "
        f"{test.only_this:,} (McNemar's exact test: p = {test.p_value:.2g})."
    )


def significance_of_errors(base: Revision, this: Revision, quantity: str) -> str:
    """State whether the difference in the mean absolute error of one quantity is significant."""
    before, after = (
        side.predictions.loc[side.predictions["quantity"] == quantity, "residual"].astype(float).abs().to_numpy()
        for side in (base, this)
    )
    test = paired_errors(before, after)
    return (
        f"**Mean absolute error of {quantity} {before.mean():.4g} → {after.mean():.4g}. {test}.**\n\n"
        f"Of the same {test.rows:,} test images, the error is smaller than that of `{base.name}` on "
        f"{(after < before).sum():,} and larger on {(after > before).sum():,} "
        f"(paired t-test of the mean: p = {test.p_value:.2g})."
    )


def stages_of(side: Revision) -> list[str]:
    """List the stages but for `check`, which reruns after every change of params.yaml."""
    return [stage for stage in side.lock if stage != "check"]


def changed_parameters(base: Revision, this: Revision) -> str:
    """Tabulate the changed parameters and the stages that each of them reruns."""
    stages = stages_of(this)
    owners = {
        key: stage
        for side in (base, this)
        for stage, entry in side.lock.items()
        for key in entry.get("params", {}).get(str(PARAMETERS), {})
    }
    base_values, values = flat(base.parameters), flat(this.parameters)
    lines = []
    for key in {**base_values, **values}:
        before, after = base_values.get(key, "-"), values.get(key, "-")
        if before != after:
            owner = owners.get(key.split(".")[0])  # dvc.yaml lists a mapping as a whole
            reruns = stages[stages.index(owner) :] if owner in stages else ["?"]
            lines.append(row(f"`{key}`", as_code(before), as_code(after), ", ".join(reruns)))
    return table_of(["parameter", f"`{base.name}`", "this", "reruns"], lines) if lines else "No parameter changed."


def changed_code(base: Revision, this: Revision) -> str:
    """List the changed files of the scripts and packages for which dvc.lock records another md5."""
    assert base.commit is not None
    paths = set()
    for stage in stages_of(this):
        before, after = (
            {dep["path"]: dep.get("md5") for dep in side.lock.get(stage, {}).get("deps", [])} for side in (base, this)
        )
        paths |= {path for path in {**before, **after} if before.get(path) != after.get(path)}
    code = [path for path in paths if path.startswith("stages/")]
    files = sorted({file for path in code for file in changed_files(base.commit, path)})
    return f"Changed code: {', '.join(f'`{file}`' for file in files)}." if files else ""


def changed_stages(base: Revision, this: Revision) -> str:
    """List the stages that reran."""
    changed = [stage for stage in stages_of(this) if this.lock[stage] != base.lock.get(stage)]
    return f"Stages whose inputs or outputs changed: {', '.join(changed) or 'none'}."


def metrics(*sides: Revision) -> str:
    """Tabulate every metric; of two sides, also the change."""
    lines = []
    for name in {name: None for side in sides for name in side.metrics}:
        values = [side.metrics.get(name) for side in sides]
        change = [] if len(sides) == 1 else [difference(*values)]
        lines.append(row(name, *map(figure, values), *change))
    return table_of(
        ["metric", *(f"`{base.name}`" for base in sides[:-1]), "this", *["change"] * (len(sides) - 1)], lines
    )


def difference(before: float | None, after: float | None) -> str:
    """Format the change of a metric; empty if it is equal or missing on one side."""
    return "" if before is None or after is None or before == after else f"{after - before:+.4g}"


def curves(*sides: Revision) -> str:
    """Draw the validation loss by epoch, all sides in one chart, the last one in red."""
    lines = "\n".join(f"    line [{', '.join(f'{value:.4f}' for value in side.curves['val_loss'])}]" for side in sides)
    epochs = max(len(side.curves) for side in sides)
    title = ": {} grey, {} red".format(*(side.name for side in sides)) if len(sides) == 2 else ""
    return (
        "```mermaid\n"
        "---\nconfig:\n  themeVariables:\n    xyChart:\n"
        f'      plotColorPalette: "{"#8c8c8c, " * (len(sides) - 1)}#d62728"\n---\n'
        "xychart-beta\n"
        f'    title "Validation loss by epoch{title}"\n'
        f"    x-axis [{', '.join(str(epoch + 1) for epoch in range(epochs))}]\n"
        f'    y-axis "loss"\n{lines}\n```'
    )


def class_names(*sides: Revision) -> list[str]:
    """Sort the names of all classes, numbers by their value."""
    names = {name for side in sides for column in ("actual", "predicted") for name in side.predictions[column]}
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def confusion(base: Revision, this: Revision) -> str:
    """Show the confusion matrices side by side; of many classes, the confusions that changed most."""
    names = class_names(base, this)
    counts = [
        pd.crosstab(side.predictions["actual"], side.predictions["predicted"])
        .reindex(index=names, columns=names, fill_value=0)
        .to_numpy()
        for side in (base, this)
    ]
    if len(names) > MAX_CLASSES:
        change = counts[1] - counts[0]
        np.fill_diagonal(change, 0)
        lines = []
        for index in np.argsort(-np.abs(change), axis=None, kind="stable")[:10]:
            cell = np.unravel_index(index, change.shape)
            lines.append(row(*(names[n] for n in cell), *(matrix[cell] for matrix in counts), f"{change[cell]:+d}"))
        head = ["actual", "predicted", f"`{base.name}`", "this", "change"]
        return "### Confusions that changed most\n\n" + table_of(head, lines)
    tables = []
    for title, matrix in zip((f"`{base.name}`", "this"), counts, strict=True):
        lines = []
        for actual, line in enumerate(matrix.tolist()):
            cells = [f"**{n}**" if predicted == actual else n or "" for predicted, n in enumerate(line)]
            lines.append(row(f"**{names[actual]}**", *cells))
        tables.append(f"<td>\n\n{title}\n\n{table_of(['actual', *names], lines)}\n\n</td>")
    return "### Confusion\n\n<table><tr>" + "".join(tables) + "</tr></table>"


def recall_by_class(base: Revision, this: Revision) -> str:
    """Tabulate the recall of each class, before and after."""
    images = this.predictions["actual"].value_counts()
    names = [name for name in class_names(base, this) if name in images]
    before, after = (recall(side).reindex(names) for side in (base, this))
    change = after - before
    if len(names) > MAX_CLASSES:
        names = list(change.abs().sort_values(ascending=False, kind="stable").index[:10])
    lines = [
        row(name, images[name], f"{before[name]:.1%}", f"{after[name]:.1%}", points(change[name])) for name in names
    ]
    return "### Recall by class\n\n" + table_of(["class", "images", f"`{base.name}`", "this", "points"], lines)


def recall(side: Revision) -> "pd.Series[float]":
    """Compute the recall of each class: the share of its images that are predicted as it."""
    correct = side.predictions["actual"] == side.predictions["predicted"]
    return correct.astype(float).groupby(side.predictions["actual"]).mean()


# --- Markdown ---


def as_code(value: object) -> str:
    """Format a value as in params.yaml."""
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def figure(value: float | None) -> str:
    """Format a metric with five significant digits."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def points(change: float) -> str:
    """Format a difference of shares in percentage points."""
    return f"{change * 100:+.1f}" if change else ""


if __name__ == "__main__":
    run(main, arguments=True)
