"""Run an experiment with the parameters of a preset from experiments/presets.yaml.

    make run PRESET=accurate            (python -m experiments.presets accurate)
    make run PRESET=accurate SEEDS=5    once for each of five seeds

It prints the `dvc exp run` that it runs: with more `-S` of yours, that is a variation of the preset.
Several seeds, from the one in the parameters on, run as `make sweep` runs a grid: each in a clone of this folder, with
JOBS=2 two at a time, or on the cluster that CLUSTER names. A table has mean and standard deviation of their scores.
"""

from stages.lib.core.process import run

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands.lib.command_line import documented, positive
from commands.lib.flat import flat
from experiments.grid import applied
from experiments.layout import assignments
from stages.lib.core.errors import UserError
from stages.lib.core.lock import exclusive
from stages.lib.core.parameters import PARAMETERS, read
from stages.lib.validation.rules import check_all

PRESETS = Path("experiments/presets.yaml")


def main() -> None:
    parser = documented("experiments.presets", __doc__)
    parser.add_argument("name", help="a preset in experiments/presets.yaml")
    parser.add_argument("--seeds", type=positive, default=1, help="how many seeds (default: 1)")
    parser.add_argument("--jobs", type=positive, default=1, help="how many of them run at a time (default: 1)")
    options = parser.parse_args()
    preset = read_preset(options.name)
    if options.seeds > 1:
        with exclusive("sweep"):  # which removes the clones of a sweep that was killed
            run_seeds(options.name, preset, options.seeds, options.jobs)
        return
    command = ["dvc", "exp", "run", *overrides(preset)]
    print(f"> {shlex.join(command)}", flush=True)
    os.execvp(command[0], command)  # so that Ctrl-C reaches DVC alone


def run_seeds(name: str, preset: dict[str, Any], count: int, jobs: int) -> None:
    """Run a preset with several seeds.

    Raises:
        UserError: some runs failed, or the parameters are invalid with the preset.
    """
    from experiments.series import run_series  # slow to import

    parameters = applied(preset, read(PARAMETERS))
    check_all(parameters)
    seeds = range(parameters["seed"], parameters["seed"] + count)
    check_all(parameters | {"seed": seeds[-1]})
    run_series(name, name, {number: {"seed": seed} for number, seed in enumerate(seeds, 1)}, preset, parameters, jobs)


def all_presets() -> dict[str, Any]:
    """Return name -> `purpose` and `parameters` of every preset."""
    return read(PRESETS)


def read_preset(name: str) -> dict[str, Any]:
    """Return the parameters of a preset, by dotted key.

    Raises:
        UserError: no preset has this name.
    """
    presets = all_presets()
    if name not in presets:
        raise UserError(f"PRESET: found `{name}`, expected one of {', '.join(presets)} ({PRESETS})")
    return flat(presets[name]["parameters"])


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Return the options of `dvc exp run` that set parameters."""
    return [part for setting in assignments(values) for part in ("-S", setting)]


if __name__ == "__main__":
    run(main, lock=False, arguments=True)
