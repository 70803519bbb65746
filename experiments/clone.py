"""Clones of this folder, so that DVC can run several experiments at a time.

In one folder DVC runs one experiment at a time: all runs of `dvc exp run --temp` stash and restore the same working
tree. A clone has its own locks, stash and working tree, and shares git's objects and DVC's cache. A clone that is lost
at any moment leaves this folder unchanged.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from dvc.config import Config, merge

from experiments.results import NO_INPUTS
from experiments.shell import output

IDENTITY = ("user.name", "user.email")


@dataclass(frozen=True)
class Snapshot:
    """The last commit, and the tracked files in the working tree."""

    commit: str
    tree: str  # a commit with the changes in the working tree, or `commit` if there are none
    changed: list[str]  # files of code, data and parameters that differ from the commit

    @property
    def refs(self) -> str:
        """The git refs of the commit's experiments in DVC."""
        return f"refs/exps/{self.commit[:2]}/{self.commit[2:]}"


def snapshot() -> Snapshot:
    """Take a snapshot of this folder without changing it.

    Raises:
        UserError: git fails, with its message.
    """
    commit = output("git", "rev-parse", "HEAD").strip()
    output("git", "update-index", "-q", "--refresh")  # or `git stash create` fails in a copied folder without changes
    tree = output("git", "stash", "create").strip() or commit
    changed = output("git", "diff", "--name-only", commit, tree, "--", ".", *NO_INPUTS).splitlines()
    return Snapshot(commit, tree, changed)


def clone(base: Snapshot, folder: Path) -> None:
    """Clone this folder as it was at the snapshot.

    Args:
        base: the snapshot.
        folder: the absolute path of the clone.

    Raises:
        UserError: git fails, with its message.
    """
    settings = {"remote.origin.fetch": f"+{base.refs}/*:{base.refs}/*"} | identity()  # so that DVC chooses new names
    options = [part for key, value in settings.items() for part in ("--config", f"{key}={value}")]
    output("git", "clone", "--quiet", "--shared", "--no-checkout", *options, ".", str(folder))
    output("git", "-C", str(folder), "checkout", "--quiet", "--detach", base.commit)
    output("git", "-C", str(folder), "restore", "--source", base.tree, "--staged", "--worktree", ".")
    share_dvc(folder)


def identity() -> dict[str, str]:
    """Return git's settings for the author of commits, if there are any."""
    values = {key: output("git", "config", "--default", "", key).strip() for key in IDENTITY}
    return {key: value for key, value in values.items() if value}


def share_dvc(folder: Path) -> None:
    """Let the clone at an absolute path use the DVC cache, remotes and credentials of this folder."""
    settings = Config(".dvc").read()  # with absolute paths
    with Config(folder / ".dvc").edit("local") as config:
        merge(config, settings)
        config["cache"].setdefault("dir", os.path.abspath(".dvc/cache"))
        config["core"]["site_cache_dir"] = str(folder / ".dvc/tmp/site")  # removed with the clone
