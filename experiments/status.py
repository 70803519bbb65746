"""Check whether the results in the working tree belong to its code and parameters, without running anything.

`dvc status` compares dvc.lock with the files. Data and models are left out: this clone may never have fetched them, or
has those of another branch. Their md5s are in dvc.lock, where each stage's inputs have to match the outputs that the
stages before it wrote.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dvc.utils.serialize import parse_yaml

from experiments.shell import output
from experiments.tracked import CARD, LOCK, Stages, md5s, not_rerun, output_md5s, stages_in

CARD_ENTRY = re.compile(r"^\| `(.+)` \| `([0-9a-f]{32})` \|$", re.MULTILINE)  # a file and its md5, in the model card
MAX_LISTED = 5
NOT_FETCHED = ("deleted", "not in cache")  # as `dvc status` calls it


def stale() -> list[str]:
    """List what has changed since the results were made, such as `train: lr`.

    Raises:
        UserError: DVC cannot read its files, with its message.
    """
    status = json.loads(output("dvc", "status", "--json"))
    stages = _recorded_stages()
    outputs = output_md5s(stages)
    data = outputs.keys() - set(output("git", "ls-files", "--", *outputs).splitlines())
    below_data = tuple(f"{path}/" for path in data)
    recorded = {(stage, path): md5 for stage, path, md5 in md5s(stages, "deps")}
    sources = {path: md5 for (_, path), md5 in recorded.items()}  # also of `photos.dvc`, which is not in dvc.lock
    changed = []
    for stage, entry in status.items():
        for name, how in _changes(entry):
            md5 = recorded.get((stage, name), "")
            if name == "params.yaml" or f"{name}/".startswith(below_data):
                continue  # `check` depends on the whole of params.yaml; the other stages name the keys that changed
            if how in NOT_FETCHED and _md5_of_source(name) == sources.get(name, ""):
                continue
            is_package = name.startswith("stages/") and md5.endswith(".dir")
            changed += [f"{stage}: {file}" for file in (changed_modules(name, md5) if is_package else [name])]
    return changed + not_rerun(stages)


def changed_modules(package: str, md5: str) -> list[str]:
    """List the files of a package that differ from those that DVC recorded.

    Args:
        package: the folder.
        md5: what dvc.lock records for it.

    Returns:
        The package itself if no commit has files of this md5: the results were made with code that was not committed.
    """
    for commit in output("git", "log", "--format=%H", "--", package).split():
        if folder_md5(commit, package) == md5:
            return changed_files(commit, package)
    return [package]


def changed_files(commit: str, path: str) -> list[str]:
    """List the files of the working tree below a path that differ from a commit; the path itself if git sees none."""
    changed = output("git", "diff", "--name-only", "--no-renames", commit, "--", path)
    added = output("git", "ls-files", "--others", "--exclude-standard", "--", path)
    return sorted((changed + added).splitlines()) or [path]


def folder_md5(commit: str, folder: str) -> str:
    """Compute the md5 that DVC gives to a folder with the files that a commit has in it."""
    files = []
    for line in output("git", "ls-tree", "-r", "-z", commit, f"{folder}/").split("\0")[:-1]:
        _, _, blob, path = re.split("[ \t]", line, maxsplit=3)
        files.append({"md5": _blob_md5(blob), "relpath": path.removeprefix(f"{folder}/")})
    listing = json.dumps(sorted(files, key=lambda file: file["relpath"]), sort_keys=True)
    return f"{hashlib.md5(listing.encode()).hexdigest()}.dir"


def card_is_outdated() -> bool:
    """Return whether the model card lists files with other md5s than dvc.lock."""
    if not Path(CARD).exists() or not Path(LOCK).exists():
        return False
    outputs = output_md5s(_recorded_stages())
    listed = CARD_ENTRY.findall(Path(CARD).read_text(encoding="utf-8"))
    return any(outputs.get(path) != md5 for path, md5 in listed)


def shortened_list(items: Sequence[str]) -> str:
    """Join the first items in one line, and count the others."""
    more = len(items) - MAX_LISTED
    return ", ".join(items[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


@cache
def _blob_md5(blob: str) -> str:
    content = subprocess.run(["git", "cat-file", "blob", blob], capture_output=True, check=True).stdout
    return hashlib.md5(content).hexdigest()


def _recorded_stages() -> Stages:
    path = Path(LOCK)
    return stages_in(path.read_text(encoding="utf-8")) if path.exists() else {}


def _changes(entry: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield the paths and parameters that changed in one stage, and how; for parameters, no how."""
    for change in entry:
        if isinstance(change, str):  # "changed command"
            yield change, ""
            continue
        for paths in change.values():
            for path, how in paths.items():
                yield from ((name, "") for name in how) if isinstance(how, dict) else [(path, how)]


def _md5_of_source(path: str) -> str | None:
    """The md5 of a source under `dvc add`, which a clone has only after `dvc pull`."""
    pointer = Path(f"{path}.dvc")
    if not pointer.exists():
        return None
    (out,) = parse_yaml(pointer.read_text(encoding="utf-8"), str(pointer))["outs"]
    return str(out["md5"])
