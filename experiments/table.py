"""Print the experiments of the last commit, best first.

    make table          (python -m experiments.table)

One row for each DVC experiment, one for the commit, and one for the working tree if it differs: the scores on val and
test, and the parameters that differ from the commit's. The rows are sorted by the score on val, because choosing by the
test score would bias it.
"""

from stages.lib.core.process import run

import textwrap
from dataclasses import replace

from experiments.layout import aligned, assignments, score_text
from experiments.results import OUTDATED, SCORES, Result, differing, load, same_code
from experiments.shell import output
from experiments.status import stale
from experiments.tracked import METRICS, SUMMARY
from stages.lib.core.parameters import PARAMETERS

WIDTH = 80
MIN_WIDTH_OF_CHANGES = 16  # characters, however long a name is
MAX_LINES = 3  # of one row


def main() -> None:
    commit, workspace, experiments = load()
    # With other code, the same parameters may have other results.
    notes = {each.name: [] if same_code(commit.rev, each.rev) else ["code"] for each in experiments}
    if output("git", "diff", "--name-only", "HEAD", "--", str(PARAMETERS), SUMMARY, METRICS):
        experiments.append(replace(workspace, state=OUTDATED, scores={}) if stale() else workspace)
        notes[workspace.name] = [] if same_code(commit.rev) else ["code"]
    changes = {
        each.name: assignments(differing(each.parameters, commit.parameters)) + notes.get(each.name, [])
        for each in (commit, *experiments)
    }
    print("\n".join(table([commit, *experiments], changes)))
    if set(notes) <= {workspace.name}:
        print("no experiments of this commit yet; run `make sweep` or `dvc exp run`")


def table(results: list[Result], changes: dict[str, list[str]]) -> list[str]:
    """Format the table in lines of at most WIDTH characters, unless a name is too long for that.

    Args:
        results: those of the commit first. Their kind of score is shown for all: other tasks do not compare.
        changes: by the name of a result, its differences from the commit.
    """
    kinds = [kind for each in results for kind in SCORES if f"val_{kind}" in each.scores]
    kind = next(iter(kinds), SCORES[0])
    fixed = [["experiment", f"val_{kind}", f"test_{kind}"]]
    ordered = sorted(results, key=lambda each: -each.scores.get(f"val_{kind}", float("-inf")))
    for each in ordered:
        val, test = (score_text(each.scores[key]) if key in each.scores else "-" for key in (f"val_{kind}", kind))
        fixed.append([each.name, val if each.scores else each.state, test])
    width = max(MIN_WIDTH_OF_CHANGES, WIDTH - max(map(len, aligned(fixed))) - 2)
    rows = []
    for cells, changed in zip(fixed, [["changed"], *(changes[each.name] for each in ordered)], strict=True):
        text = " ".join(changed)
        wrapped = textwrap.wrap(text, width, max_lines=MAX_LINES, placeholder=" ...", break_on_hyphens=False)
        rows += [[*(cells if not number else [""] * 3), line] for number, line in enumerate(wrapped or [""])]
    return aligned(rows)


if __name__ == "__main__":
    run(main, lock=False)
