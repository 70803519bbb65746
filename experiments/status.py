"""Whether the results in the working tree are of the code and the parameters beside them, without running anything.

`dvc status` compares dvc.lock with what is there. Data that was never fetched into this clone is no difference: its
hash stands in dvc.lock, and everything else can be judged without it.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from stages.lib.stage import UserError


def stale() -> list[str]:
    """What has changed since the results were made, such as `train: lr`; empty where they are up to date.

    Raises:
        UserError: DVC cannot read its files, in its own words.
    """
    done = subprocess.run(["dvc", "status", "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc status: {done.stderr or done.stdout}")
    changes = [(stage, *change) for stage, entry in json.loads(done.stdout).items() for change in _changes(entry)]
    missing = tuple(f"{path}/" for _, path, how in changes if how == "not in cache")
    return [
        f"{stage}: {path}"
        for stage, path, how in changes
        if how != "not in cache" and not (how == "deleted" and f"{path}/".startswith(missing))
    ]


def _changes(entry: list[Any]) -> Iterator[tuple[str, str]]:
    """What changed in one stage, and how: paths by their name, parameters by theirs."""
    for change in entry:
        if isinstance(change, str):  # "changed command"
            yield change, "modified"
            continue
        for paths in change.values():
            for path, how in paths.items():
                yield from how.items() if isinstance(how, dict) else [(path, how)]
