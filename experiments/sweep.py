"""Run a grid of experiments from experiments/sweeps.yaml, and print a table of their scores.

    make sweep NAME=learning-rate             (python -m experiments.sweep learning-rate)
    make sweep NAME=learning-rate JOBS=2      two at a time
    make sweep NAME=learning-rate PART=1/2    half of the grid, on one of two machines
    make sweep NAME=learning-rate PRESET=cnn  with the parameters of a preset, where the grid sets no others
    CLUSTER=tcp://scheduler:8786 make sweep   on the workers of a Dask cluster

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

from commands.lib.command_line import documented, positive
from experiments.grid import applied, combinations
from experiments.presets import read_preset
from experiments.series import run_series
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import PARAMETERS, read


def main() -> None:
    options = parse()
    preset = read_preset(options.preset) if options.preset else {}
    parameters = applied(preset, read(PARAMETERS))
    grid = combinations(options.name, parameters)
    chosen = {number: grid[number - 1] for number in part_of(len(grid), options.part)}
    title = f"{options.name} with preset {options.preset}" if preset else options.name
    run_series(options.name, title, chosen, preset, parameters, options.jobs)


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


if __name__ == "__main__":
    run(main, arguments=True)
