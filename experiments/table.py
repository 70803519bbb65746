"""The experiments of the last commit, best first.

    make table          (python -m experiments.table)

One row for each experiment of DVC's, one for the commit, and one for the working tree where it differs: the scores on
val and test, and the parameters that differ from the commit's. The rows are sorted by the score on val: a choice by the
test split would spend it.
"""

from stages.lib.core.process import run

import textwrap
from dataclasses import replace

from experiments.layout import aligned, assignments, score_text
from experiments.results import OUTDATED, SCORES, TEST, TRAINING, Result, differing, load, output, same_code
from experiments.status import stale
from stages.lib.core.parameters import PARAMETERS

WIDTH = 80
LEAST_ROOM = 16  # characters for the parameters, however long a name is
MOST_LINES = 3  # of one row


def main() -> None:
    commit, workspace, experiments = load()
    # The same parameters may have other results if the code is other code.
    notes = {each.name: [] if same_code(commit.rev, each.rev) else ["code"] for each in experiments}
    if output("git", "diff", "--name-only", "HEAD", "--", str(PARAMETERS), TRAINING, TEST):
        experiments.append(replace(workspace, state=OUTDATED, scores={}) if stale() else workspace)
        notes[workspace.name] = [] if same_code(commit.rev) else ["code"]
    changes = {
        each.name: assignments(differing(each.parameters, commit.parameters)) + notes.get(each.name, [])
        for each in (commit, *experiments)
    }
    print("\n".join(table([commit, *experiments], changes)))
    if set(notes) <= {workspace.name}:
        print("no experiments of this commit yet: `make sweep` or `dvc exp run` makes some")


def table(results: list[Result], changes: dict[str, list[str]]) -> list[str]:
    """The lines of the table, at most WIDTH characters long unless a name leaves less than LEAST_ROOM.

    Args:
        results: the commit's first. Its kind of score is everybody's: those of another task do not compare with it.
        changes: by a result's name, what differs from the commit.
    """
    kinds = [kind for each in results for kind in SCORES if f"val_{kind}" in each.scores]
    kind = next(iter(kinds), SCORES[0])
    fixed = [["experiment", f"val_{kind}", f"test_{kind}"]]
    ordered = sorted(results, key=lambda each: -each.scores.get(f"val_{kind}", float("-inf")))
    for each in ordered:
        val, test = (score_text(each.scores[key]) if key in each.scores else "-" for key in (f"val_{kind}", kind))
        fixed.append([each.name, val if each.scores else each.state, test])
    room = max(LEAST_ROOM, WIDTH - max(map(len, aligned(fixed))) - 2)
    rows = []
    for cells, what in zip(fixed, [["changed"], *(changes[each.name] for each in ordered)], strict=True):
        wrapped = textwrap.wrap(" ".join(what), room, max_lines=MOST_LINES, placeholder=" ...", break_on_hyphens=False)
        rows += [[*(cells if not number else [""] * 3), line] for number, line in enumerate(wrapped or [""])]
    return aligned(rows)


if __name__ == "__main__":
    run(main, lock=False)
