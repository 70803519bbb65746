"""Whether the results in the working tree are of the code and the parameters beside them, without running anything.

`dvc status` compares dvc.lock with what is there. Data and models are left out: they may never have been fetched into
this clone, or be those of another branch, and their hashes stand in dvc.lock. That these fit each other is looked up
there.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dvc.utils.serialize import parse_yaml

from stages.lib.core.errors import UserError

LOCK = Path("dvc.lock")
CARD = Path("reports/model_card.md")
TOLD_OF = re.compile(r"^\| `(.+)` \| `([0-9a-f]{32})` \|$", re.MULTILINE)  # a file and its md5, in the card
MOST_NAMED = 5
NOT_FETCHED = ("deleted", "not in cache")  # in the words of `dvc status`


def stale() -> list[str]:
    """What has changed since the results were made, such as `train: lr`; empty where they are up to date.

    Raises:
        UserError: DVC cannot read its files, in its own words.
    """
    done = subprocess.run(["dvc", "status", "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc status: {done.stderr or done.stdout}")
    stages = (parse_yaml(LOCK.read_text(encoding="utf-8"), "") or {}).get("stages", {}) if LOCK.exists() else {}
    made = {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", [])}
    in_git = subprocess.run(["git", "ls-files", "--", *made], capture_output=True, text=True, check=True).stdout
    data = tuple(f"{path}/" for path in made.keys() - set(in_git.splitlines()))
    recorded = {dep["path"]: dep.get("md5") for stage in stages.values() for dep in stage.get("deps", [])}
    changed = [
        f"{stage}: {path}"
        for stage, entry in json.loads(done.stdout).items()
        for path, how in _changes(entry)
        if not f"{path}/".startswith(data)
        and path != "params.yaml"  # of stage check; other stages name their keys
        and not (how in NOT_FETCHED and _added(path) == recorded.get(path, ""))
    ]
    # A stage that was not run again after the one before it.
    unfit = [
        f"{name}: {dep['path']}"
        for name, stage in stages.items()
        for dep in stage.get("deps", [])
        if dep["path"] in made and made[dep["path"]] != dep.get("md5")
    ]
    return changed + unfit


def card_of_other_results() -> bool:
    """Whether the model card tells of files that dvc.lock has with another md5."""
    if not CARD.exists() or not LOCK.exists():
        return False
    stages = parse_yaml(LOCK.read_text(encoding="utf-8"), "").get("stages", {})
    made = {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", [])}
    told = dict(TOLD_OF.findall(CARD.read_text(encoding="utf-8")))
    return any(made.get(path) != md5 for path, md5 in told.items())


def shortened_list(changed: list[str]) -> str:
    """The first few of them, in one line."""
    more = len(changed) - MOST_NAMED
    return ", ".join(changed[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _changes(entry: list[Any]) -> Iterator[tuple[str, str]]:
    """What changed in one stage, paths by their name and parameters by theirs, and how."""
    for change in entry:
        if isinstance(change, str):  # "changed command"
            yield change, ""
            continue
        for paths in change.values():
            for path, how in paths.items():
                yield from ((name, "") for name in how) if isinstance(how, dict) else [(path, how)]


def _added(path: str) -> str | None:
    """The md5 of a source that is under DVC by `dvc add`, which a clone has only after `dvc pull`."""
    beside = Path(f"{path}.dvc")
    if not beside.exists():
        return None
    (out,) = parse_yaml(beside.read_text(encoding="utf-8"), str(beside))["outs"]
    return str(out["md5"])
