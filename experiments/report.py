"""What a change does to the results: a report of two revisions, for a pull request.

    make report BASE=main          (python -m experiments.report main)

In:  params.yaml, dvc.lock and reports/ of the working tree, and the same files of the base out of git. No data, no DVC
     cache, no remote: it works in a fresh clone.
Out: report.md, also printed: Markdown, with its pictures as text that GitHub draws (Mermaid), so that one file is all.
"""

from stages.lib.core.process import run

import io
import json
import subprocess
import sys
from collections.abc import Callable
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
from experiments.status import CARD, card_of_other_results, shortened_list, stale
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import write_text

REPORT = Path("report.md")
METRICS, SUMMARY = "reports/metrics.json", "reports/train.json"
CURVES, PREDICTIONS = "reports/train.csv", "reports/predictions.csv"
WRITTEN_BY_HAND = {"params.yaml", "dvc.lock"}  # or by a merge
MOST_CLASSES = 20  # of which whole confusion matrices are shown


@dataclass(frozen=True)
class Results:
    """What one revision says of itself."""

    name: str
    parameters: dict[str, Any]
    lock: dict[str, Any]  # stage -> its entry in dvc.lock
    metrics: dict[str, float]
    processor: str | None  # the kind that they were made on
    curves: pd.DataFrame  # a row per epoch
    predictions: pd.DataFrame  # a row per test image (and quantity): index, actual, predicted, ...

    @property
    def of_a_regression(self) -> bool:
        """Whether numbers were predicted, not classes."""
        return "residual" in self.predictions


def main() -> None:
    parser = documented("experiments.report", __doc__)
    parser.add_argument("revision", help="what to compare the working tree with")
    name = parser.parse_args().revision
    commit = resolved(name)
    name = name if not commit.startswith(name) else commit[:9]
    base, this = results(commit, name), results(None, "this")
    if this is None:
        raise UserError(f"{METRICS} is not there, so there are no results yet; run `make repro`")
    parts = [f"## Against `{name}`", *(alone(name, this) if base is None else compared(base, this))]
    if card_of_other_results():
        parts.append(f"`{CARD}` tells of other results. `make card` writes it anew, if this one is to be passed on.")
    text = "\n\n".join(filter(None, parts)) + "\n"
    write_text(REPORT, text)
    print(text, end="", flush=True)
    print(f"report: written to {REPORT}", file=sys.stderr)


# --- Reading two revisions ---


def resolved(revision: str) -> str:
    """The commit of a revision, or of the branch of that name at `origin`: a fresh clone has but one branch of its own.

    Raises:
        UserError: git knows neither.
    """
    for candidate in (revision, f"origin/{revision}"):
        found = git("rev-parse", "--verify", "--quiet", f"{candidate}^{{commit}}")
        if found.returncode == 0:
            return found.stdout.decode().strip()
    raise UserError(
        f"`{revision}` is no revision that git knows here; `git fetch origin {revision}` may bring it, "
        "and `git fetch --unshallow` the history of a shallow clone"
    )


def results(commit: str | None, name: str) -> Results | None:
    """The results of a commit, or of the working tree where it is None; None where there are none yet.

    Raises:
        UserError: a file is missing beside others, or damaged.
    """
    parsed: dict[str, Any] = {}
    for path, parse in PARSERS.items():
        try:
            parsed[path] = parse(
                Path(path).read_text(encoding="utf-8") if commit is None else shown_by_git(commit, path)
            )
        except FileNotFoundError as error:
            if path == METRICS:
                return None
            remedy = "run `make repro`" if commit is None else "run `make repro` there, commit dvc.lock and reports/"
            raise UserError(f"{path} of `{name}` is not there; {remedy}") from error
        except (ValueError, YAMLFileCorruptedError) as error:
            ours = f"resolve what is in it, or `git checkout {path}`" if path in WRITTEN_BY_HAND else "run `make repro`"
            remedy = ours if commit is None else "put it right there"
            raise UserError(f"{path} of `{name}` is damaged ({reason(error)}); {remedy}") from error
    figures = flat({**parsed[METRICS], **parsed[SUMMARY]})
    return Results(
        name=name,
        parameters=parsed["params.yaml"],
        lock=parsed["dvc.lock"].get("stages", {}),
        metrics={name: value for name, value in figures.items() if not isinstance(value, str)},
        processor=figures.get("processor"),
        curves=parsed[CURVES],
        predictions=parsed[PREDICTIONS],
    )


def table(text: str) -> pd.DataFrame:
    """A CSV whose class and file names stay text, even if they are numbers or `NA`."""
    return pd.read_csv(
        io.StringIO(text), dtype=dict.fromkeys(("file", "actual", "predicted"), str), keep_default_na=False
    )


def mapping(text: str) -> dict[str, Any]:
    """A YAML file as DVC reads it: `1e-5` is a number."""
    values = parse_yaml(text, "")
    if not isinstance(values, dict):
        raise ValueError("no mapping")
    return values


PARSERS: dict[str, Callable[[str], Any]] = {
    METRICS: json.loads,
    "params.yaml": mapping,
    "dvc.lock": mapping,
    SUMMARY: json.loads,
    CURVES: table,
    PREDICTIONS: table,
}


def shown_by_git(commit: str, path: str) -> str:
    """A file of a commit.

    Raises:
        FileNotFoundError: the commit has none of that name.
    """
    shown = git("show", f"{commit}:{path}")
    if shown.returncode:
        raise FileNotFoundError(path)
    return shown.stdout.decode()


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git, whether it succeeds or not."""
    return subprocess.run(["git", *arguments], capture_output=True, check=False)


# --- The parts of the report ---


def compared(base: Results, this: Results) -> list[str]:
    """All of them, where both sides have results."""
    parts = [
        out_of_date(),
        other_processor(base, this),
        verdict(base, this),
        changed_parameters(base, this),
        metrics(base, this),
        curves(base, this),
    ]
    if this.of_a_regression or not same_images(base, this):
        return parts
    return [*parts, confusion(base, this), per_class(base, this)]


def alone(name: str, this: Results) -> list[str]:
    """What can be said where the base has no results yet."""
    return [
        out_of_date(),
        f"**`{name}` has no results yet**, so there is nothing to compare with. These are the first:",
        metrics(this),
        curves(this),
    ]


def out_of_date() -> str:
    """A warning, where the results are not of the code and the parameters that stand beside them."""
    if not (changed := stale()):
        return ""
    return (
        f"> **Out of date:** what follows was measured before the last change of {shortened_list(changed)}. "
        "Run `make repro`, and commit dvc.lock and reports/."
    )


def other_processor(base: Results, this: Results) -> str:
    """A warning, where the two sides were made on different kinds of processors."""
    if base.processor == this.processor or None in (base.processor, this.processor):
        return ""
    return (
        f"> **Other processor:** `{base.name}` was made on {base.processor}, this on {this.processor}. They round the "
        "last bits differently, which moves the figures as another `seed` does, whatever else was changed."
    )


def same_images(base: Results, this: Results) -> bool:
    """Whether both sides were tested on the same rows of the same data set."""
    rows = ["index", "actual"]
    same_rows = base.predictions[rows].equals(this.predictions[rows])
    return same_rows and base.parameters.get("dataset") == this.parameters.get("dataset")


def verdict(base: Results, this: Results) -> str:
    """Whether the difference in accuracy is real, in a sentence; and on what it stands."""
    if not same_images(base, this):
        return "**Not comparable:** the two sides were tested on different images."
    if this.of_a_regression:
        return "\n\n".join(verdict_of_errors(base, this, name) for name in this.predictions["quantity"].unique())
    base_correct, this_correct = (
        (side.predictions["actual"] == side.predictions["predicted"]).to_numpy() for side in (base, this)
    )
    comparison = paired(base_correct, this_correct)
    return (
        f"**Accuracy {base_correct.mean():.2%} → {this_correct.mean():.2%}. {comparison}.**\n\n"
        f"`{base.name}` alone is right on {comparison.only_base:,}, this alone on {comparison.only_this:,} of the same "
        f"{comparison.rows:,} test images (McNemar's exact test: p = {comparison.p_value:.2g})."
    )


def verdict_of_errors(base: Results, this: Results, quantity: str) -> str:
    """The same of a regression's mean absolute error."""
    before, after = (
        side.predictions.loc[side.predictions["quantity"] == quantity, "residual"].astype(float).abs().to_numpy()
        for side in (base, this)
    )
    comparison = paired_errors(before, after)
    return (
        f"**Mean absolute error of {quantity} {before.mean():.4g} → {after.mean():.4g}. {comparison}.**\n\n"
        f"On {(after < before).sum():,} of the same {comparison.rows:,} test images it is smaller than that of "
        f"`{base.name}`, on {(after > before).sum():,} larger "
        f"(Wilcoxon's signed-rank test: p = {comparison.p_value:.2g})."
    )


def changed_parameters(base: Results, this: Results) -> str:
    """What was changed, and which stages that reran."""
    stages = [stage for stage in this.lock if stage != "check"]  # which runs after every change of params.yaml
    owner = {key: stage for side in (base, this) for stage in side.lock for key in recorded(side, stage)}
    lines = []
    parameters = [flat(side.parameters) for side in (base, this)]
    for key in {**parameters[0], **parameters[1]}:
        before, after = (side.get(key, "-") for side in parameters)
        if before != after:
            stage = owner.get(key.split(".")[0])  # dvc.yaml lists the whole of a mapping
            rerun = stages[stages.index(stage) :] if stage in stages else ["?"]
            lines.append(row(f"`{key}`", shown(before), shown(after), ", ".join(rerun)))
    reran = [stage for stage in stages if this.lock[stage] != base.lock.get(stage)]
    edited = sorted({path for stage in reran for path in changed_code(base, this, stage)})
    return "\n\n".join(
        filter(
            None,
            [
                table_of(["parameter", f"`{base.name}`", "this", "reruns"], lines)
                if lines
                else "No parameter changed.",
                f"Changed code: {', '.join(f'`{path}`' for path in edited)}." if edited else "",
                f"Stages with other inputs or outputs: {', '.join(reran) or 'none'}.",
            ],
        )
    )


def recorded(side: Results, stage: str) -> dict[str, Any]:
    """The parameters in a stage's entry of dvc.lock."""
    return dict(side.lock[stage].get("params", {}).get("params.yaml", {}))


def changed_code(base: Results, this: Results, stage: str) -> set[str]:
    """The modules of a stage that differ, by their md5 in dvc.lock."""
    before, after = (
        {dep["path"]: dep.get("md5") for dep in side.lock.get(stage, {}).get("deps", [])} for side in (base, this)
    )
    return {path for path in {**before, **after} if path.endswith(".py") and before.get(path) != after.get(path)}


def metrics(*sides: Results) -> str:
    """Every figure; of two sides, before and after."""
    lines = []
    for name in {name: None for side in sides for name in side.metrics}:
        values = [side.metrics.get(name) for side in sides]
        change = [] if len(sides) == 1 else [difference(*values)]
        lines.append(row(name, *map(figure, values), *change))
    return table_of(
        ["metric", *(f"`{base.name}`" for base in sides[:-1]), "this", *["change"] * (len(sides) - 1)], lines
    )


def difference(before: float | None, after: float | None) -> str:
    """What a figure gained; empty where it is equal or new."""
    return "" if before is None or after is None or before == after else f"{after - before:+.4g}"


def curves(*sides: Results) -> str:
    """Loss on the validation rows, epoch by epoch, of all sides in one picture: the last one red."""
    lines = "\n".join(f"    line [{', '.join(f'{value:.4f}' for value in side.curves['val_loss'])}]" for side in sides)
    epochs = max(len(side.curves) for side in sides)
    title = ": {} grey, {} red".format(*(side.name for side in sides)) if len(sides) == 2 else ""
    return (
        "```mermaid\n"
        "---\nconfig:\n  themeVariables:\n    xyChart:\n"
        f'      plotColorPalette: "{"#8c8c8c, " * (len(sides) - 1)}#d62728"\n---\n'
        "xychart-beta\n"
        f'    title "Loss on val by epoch{title}"\n'
        f"    x-axis [{', '.join(str(epoch + 1) for epoch in range(epochs))}]\n"
        f'    y-axis "loss"\n{lines}\n```'
    )


def classes(*sides: Results) -> list[str]:
    """The names of all classes, numbers in their order."""
    names = {name for side in sides for column in ("actual", "predicted") for name in side.predictions[column]}
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def confusion(base: Results, this: Results) -> str:
    """The confusion matrices side by side, or, of many classes, the pairs that changed most."""
    names = classes(base, this)
    counts = [
        pd.crosstab(side.predictions["actual"], side.predictions["predicted"])
        .reindex(index=names, columns=names, fill_value=0)
        .to_numpy()
        for side in (base, this)
    ]
    if len(names) > MOST_CLASSES:
        change = counts[1] - counts[0]
        np.fill_diagonal(change, 0)
        lines = []
        for flat in np.argsort(-np.abs(change), axis=None, kind="stable")[:10]:
            place = np.unravel_index(flat, change.shape)
            cells = [names[number] for number in place] + [side[place] for side in counts] + [f"{change[place]:+d}"]
            lines.append(row(*cells))
        head = ["actual", "predicted", f"`{base.name}`", "this", "change"]
        return "### Confusions that changed most\n\n" + table_of(head, lines)
    sides = []
    for name, matrix in zip((f"`{base.name}`", "this"), counts, strict=True):
        lines = [
            row(f"**{names[actual]}**", *(f"**{n}**" if said == actual else n or "" for said, n in enumerate(line)))
            for actual, line in enumerate(matrix.tolist())
        ]
        sides.append(f"<td>\n\n{name}\n\n{table_of(['actual', *names], lines)}\n\n</td>")
    return "### Confusion\n\n<table><tr>" + "".join(sides) + "</tr></table>"


def per_class(base: Results, this: Results) -> str:
    """How much of each class was found: recall, before and after."""
    images = this.predictions["actual"].value_counts()
    names = [name for name in classes(base, this) if name in images]
    before, after = (found(side).reindex(names) for side in (base, this))
    change = after - before
    if len(names) > MOST_CLASSES:
        names = list(change.abs().sort_values(ascending=False, kind="stable").index[:10])
    lines = [
        row(name, images[name], f"{before[name]:.1%}", f"{after[name]:.1%}", points(change[name])) for name in names
    ]
    return "### Recall by class\n\n" + table_of(["class", "images", f"`{base.name}`", "this", "points"], lines)


def found(side: Results) -> "pd.Series[float]":
    """Recall: the share of each class that was found."""
    right = side.predictions["actual"] == side.predictions["predicted"]
    return right.astype(float).groupby(side.predictions["actual"]).mean()


# --- Markdown ---


def shown(value: object) -> str:
    """A value as params.yaml would have it."""
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def figure(value: float | None) -> str:
    """A metric to five significant digits."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def points(change: float) -> str:
    """A difference of shares in percentage points."""
    return f"{change * 100:+.1f}" if change else ""


if __name__ == "__main__":
    run(main, arguments=True)
