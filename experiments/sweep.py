"""Run a grid of experiments from experiments/sweeps.yaml, and print a table of their scores.

    make sweep NAME=learning-rate             (python -m experiments.sweep learning-rate)
    make sweep NAME=learning-rate JOBS=2      two at a time
    make sweep NAME=learning-rate PART=1/2    half of the grid, on one of two machines
    make sweep NAME=learning-rate PRESET=cnn  with the parameters of a preset, where the grid sets no others

In:  experiments/sweeps.yaml: name -> parameter, or `mapping.key` -> values.
Out: a DVC experiment for every combination, and a table, best first; `dvc exp apply NAME` applies one to this folder.
     .state/sweep/NAME-NUMBER.log has the output of each run.
All combinations are checked before the first one runs. As with `dvc exp run`, the experiments include uncommitted
changes. A combination is not run again if this commit has an experiment with the same code and parameters. The commit's
own parameters become an experiment too, so that they have a name; DVC runs nothing for them if the commit's results are
up to date and in its cache.
The table is sorted by the score on val: accuracy, or R2 for a regression. Choosing by the test score would bias it.
Combinations that differ only in `seed` share a line, with mean and standard deviation.
"""

from stages.lib.core.process import run

import argparse
import re
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

from commands.lib.command_line import documented, positive
from experiments.clone import Snapshot, snapshot
from experiments.grid import Combination, applied, combinations
from experiments.layout import aligned, as_text, assignments, score_text
from experiments.presets import read_preset
from experiments.results import DONE, SCORES, differing, load, same_code, tracks_source
from experiments.runner import Experiment, run_all
from experiments.status import shortened_list
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import PARAMETERS, read


def main() -> None:
    # The runs have their own sessions, so a closed terminal would not end them.
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    options = parse()
    preset = read_preset(options.preset) if options.preset else {}
    parameters = applied(preset, read(PARAMETERS))
    grid = combinations(options.name, parameters)
    chosen = {number: grid[number - 1] for number in part_of(len(grid), options.part)}
    base = snapshot()
    done = reusable(chosen, parameters, base)
    waiting = {number: combination for number, combination in chosen.items() if number not in done}
    changes = f" with uncommitted changes ({shortened_list(base.changed)})" if base.changed else ""
    reused = f": {len(done)} already run, {len(waiting)} to run" if done else ""
    on_preset = f" with preset {options.preset}" if preset else ""
    print(f"{options.name}{on_preset}: {len(chosen)} experiments of {base.commit[:7]}{changes}{reused}", flush=True)

    settings = {number: " ".join(assignments(combination)) for number, combination in chosen.items()}
    width = max(map(len, settings.values()))
    with_preset = {number: preset | combination for number, combination in waiting.items()}
    failed = 0
    start = time.monotonic()
    try:
        with closing(run_all(options.name, with_preset, parameters, base, options.jobs)) as outcomes:
            for ended, (number, seconds, outcome) in enumerate(outcomes, 1):
                if isinstance(outcome, Experiment):
                    done[number] = outcome
                    name, scores = outcome.name, outcome.scores.items()
                    text = "  ".join(
                        [*(f"{key} {score_text(value)}" for key, value in scores if "val_" in key), duration(seconds)]
                    )
                else:
                    failed += 1
                    name, text = "failed", str(outcome)
                left = len(waiting) - ended
                estimate = f" (about {duration((time.monotonic() - start) / ended * left)} left)" if left else ""
                count = f"{len(chosen) - left}/{len(chosen)}".rjust(2 * len(str(len(chosen))) + 1)
                print(f"{count}  {name:10}  {settings[number]:{width}}  {text}{estimate}", flush=True)
    except SystemExit:
        print(f"{len(done)} of {len(chosen)} are done; run the same command again to continue", file=sys.stderr)
        raise
    if done:
        print("\n".join(["", *table([(chosen[number], experiment) for number, experiment in sorted(done.items())])]))
    if failed:
        raise UserError(f"{failed} of {len(chosen)} experiments failed, see above; run it again to retry them")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = documented("experiments.sweep", __doc__)
    parser.add_argument("name", help="a grid in experiments/sweeps.yaml")
    parser.add_argument("--preset", help="a preset in experiments/presets.yaml")
    parser.add_argument("--part", default="1/1", help="the share of one machine, such as 2/3: the second of three")
    parser.add_argument("--jobs", type=positive, default=1, help="how many experiments run at a time (default: 1)")
    return parser.parse_args()


def part_of(total: int, part: str) -> range:
    """Return one machine's share of the numbers from 1 to `total`: "2/3" is every third number from 2 on.

    Raises:
        UserError: `part` is not a share, or an empty one.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    first, step = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= step <= total:
        raise UserError(f"PART: found `{part}`, expected a share such as 1/2, the first half of {total} experiments")
    return range(first, total + 1, step)


def reusable(
    wanted: Mapping[int, Combination], parameters: Mapping[str, object], base: Snapshot
) -> dict[int, Experiment]:
    """Return the commit's experiments that ran these combinations with the code of the snapshot."""
    _, _, experiments = load()
    usable = [each for each in experiments if each.state == DONE]
    reused = {}
    for number, combination in wanted.items():
        values = applied(combination, parameters)
        if not tracks_source(values):
            continue  # its images may have changed
        for each in usable:
            if not differing(each.parameters, values) and same_code(each.rev, base.tree):
                reused[number] = Experiment(each.name, each.scores)
                break
    return reused


def duration(seconds: float) -> str:
    """Format a duration: `6 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def table(rows: Sequence[tuple[Combination, Experiment]]) -> list[str]:
    """Format one line for each setting, best first; the seeds of a setting share a line."""
    kinds = {key for _, experiment in rows for key in experiment.scores}
    score = next((f"val_{kind}" for kind in SCORES if f"val_{kind}" in kinds), f"val_{SCORES[0]}")
    groups: dict[tuple[str, ...], list[Experiment]] = {}
    for combination, experiment in rows:
        setting = tuple(as_text(value) for key, value in combination.items() if key != "seed")
        groups.setdefault(setting, []).append(experiment)

    def score_of(experiment: Experiment) -> float:
        return experiment.scores.get(score, float("-inf"))  # another task: its scores do not compare

    def mean(experiments: Sequence[Experiment]) -> float:
        return statistics.fmean(map(score_of, experiments))

    lines = [[*(key for key in rows[0][0] if key != "seed"), "runs", score, "val_loss", "best"]]
    for setting, experiments in sorted(groups.items(), key=lambda group: -mean(group[1])):
        scores, losses = (
            _mean_and_deviation([each.scores[key] for each in experiments if key in each.scores])
            for key in (score, "val_loss")
        )
        lines.append([*setting, str(len(experiments)), scores, losses, max(experiments, key=score_of).name])
    return aligned(lines)


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return score_text(statistics.fmean(values)) + (
        f" ± {score_text(statistics.stdev(values))}" if len(values) > 1 else ""
    )


if __name__ == "__main__":
    run(main, arguments=True)
