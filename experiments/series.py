"""Run several experiments: a line for each as it ends, then a table of their scores.

An experiment that this commit has already run, with the same code and parameters, is not run again. They run here, in
clones of this folder, or on a cluster if the environment variable CLUSTER names one.
"""

import signal
import statistics
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing

from experiments.clone import Snapshot, snapshot
from experiments.grid import Combination, applied
from experiments.layout import aligned, as_text, assignments, score_text
from experiments.on_cluster import run_on_cluster
from experiments.outcome import Experiment
from experiments.remote import fetch_outputs, shared_remote
from experiments.results import DONE, SCORES, differing, load, same_code, tracks_source
from experiments.runner import run_all
from experiments.status import shortened_list
from stages.lib.cluster.connection import CLUSTER, cluster_address
from stages.lib.core.errors import UserError


def run_series(
    name: str,
    title: str,
    chosen: Mapping[int, Combination],
    preset: Combination,
    parameters: Mapping[str, object],
    jobs: int,
) -> None:
    """Run combinations of values; print a line for each as it ends, and a table, best first.

    Args:
        name: prefix of the names of the logs.
        title: begins the first line.
        chosen: the combinations by number.
        preset: values that all of them have in common, and that the lines do not show.
        parameters: those of params.yaml with the preset.
        jobs: how many run at a time, unless on a cluster.

    Raises:
        UserError: some failed, or the cluster cannot be used.
    """
    # The runs have their own sessions, so a closed terminal would not end them.
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    address = cluster_address()
    if address:
        check_cluster(jobs)
    base = snapshot()
    done = reusable(chosen, parameters, base)
    waiting = {number: combination for number, combination in chosen.items() if number not in done}
    changes = f" with uncommitted changes ({shortened_list(base.changed)})" if base.changed else ""
    reused = f": {len(done)} already run, {len(waiting)} to run" if done else ""
    print(f"{title}: {len(chosen)} experiments of {base.commit[:7]}{changes}{reused}", flush=True)

    settings = {number: " ".join(assignments(combination)) for number, combination in chosen.items()}
    width = max(map(len, settings.values()))
    with_preset = {number: preset | combination for number, combination in waiting.items()}
    running: Generator[tuple[int, float, Experiment | UserError], None, None]
    if address:
        running = run_on_cluster(address, name, with_preset, parameters, base)
    else:
        running = run_all(name, with_preset, parameters, base, jobs)
    failed = 0
    start = time.monotonic()
    try:
        with closing(running) as outcomes:
            for ended, (number, seconds, outcome) in enumerate(outcomes, 1):
                if isinstance(outcome, Experiment):
                    done[number] = outcome
                    result, scores = outcome.name, outcome.scores.items()
                    text = "  ".join(
                        [*(f"{key} {score_text(value)}" for key, value in scores if "val_" in key), duration(seconds)]
                    )
                else:
                    failed += 1
                    result, text = "failed", str(outcome)
                left = len(waiting) - ended
                estimate = f" (about {duration((time.monotonic() - start) / ended * left)} left)" if left else ""
                count = f"{len(chosen) - left}/{len(chosen)}".rjust(2 * len(str(len(chosen))) + 1)
                print(f"{count}  {result:10}  {settings[number]:{width}}  {text}{estimate}", flush=True)
    except SystemExit:
        print(f"{len(done)} of {len(chosen)} are done; run the same command again to continue", file=sys.stderr)
        raise
    if done:
        print("\n".join(["", *table([(chosen[number], experiment) for number, experiment in sorted(done.items())])]))
    if done and address:
        fetch_outputs([experiment.name for experiment in done.values()], base)
    if failed:
        raise UserError(f"{failed} of {len(chosen)} experiments failed, see above; run it again to retry them")


def check_cluster(jobs: int) -> None:
    """Check what a cluster needs, before anything runs.

    Raises:
        UserError: there is no DVC remote, or the user has set JOBS.
    """
    if jobs > 1:
        raise UserError(
            f"JOBS: found {jobs} with {CLUSTER}, which runs as many experiments at a time as its workers have threads; "
            "unset one of them"
        )
    shared_remote()


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
