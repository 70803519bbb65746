"""Run an experiment with the parameters of a preset from experiments/presets.yaml.

    make run PRESET=accurate          (python -m experiments.presets accurate)

It prints the `dvc exp run` that it runs: with more `-S` of yours, that is a variation of the preset.
"""

from stages.lib.core.process import run

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands.lib.command_line import documented
from commands.lib.flat import flat
from experiments.layout import assignments
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import read

PRESETS = Path("experiments/presets.yaml")


def main() -> None:
    parser = documented("experiments.presets", __doc__)
    parser.add_argument("name", help="a preset in experiments/presets.yaml")
    command = ["dvc", "exp", "run", *overrides(read_preset(parser.parse_args().name))]
    print(f"> {shlex.join(command)}", flush=True)
    os.execvp(command[0], command)  # so that Ctrl-C reaches DVC alone


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
