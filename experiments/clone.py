"""A clone of this folder in which DVC makes an experiment, and what comes back from it.

DVC itself makes one experiment at a time in a folder: with `dvc exp run --temp` all of them stash and restore the same
working tree, and take their turns from the same stash. A clone has locks, stash and working tree of its own; it shares
git's objects and DVC's cache. So one that is lost at any moment leaves this folder as it was.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from dvc.config import Config, merge

from experiments.results import BESIDES, output

IDENTITY = ("user.name", "user.email")


@dataclass(frozen=True)
class Snapshot:
    """The last commit, and the tracked files of the working tree."""

    commit: str
    tree: str  # a commit with the changes of the working tree, or `commit` where there are none
    changed: list[str]  # files of code, data and parameters that differ from the commit

    @property
    def refs(self) -> str:
        """Where DVC keeps the experiments of the commit."""
        return f"refs/exps/{self.commit[:2]}/{self.commit[2:]}"


def snapshot() -> Snapshot:
    """Take a snapshot of this folder, which stays as it is.

    Raises:
        UserError: git fails, in its own words.
    """
    commit = output("git", "rev-parse", "HEAD").strip()
    tree = output("git", "stash", "create").strip() or commit
    changed = output("git", "diff", "--name-only", commit, tree, "--", ".", *BESIDES).splitlines()
    return Snapshot(commit, tree, changed)


def clone(base: Snapshot, folder: Path) -> None:
    """Clone this folder as it was, into an absolute path.

    Raises:
        UserError: git fails, in its own words.
    """
    settings = [f"remote.origin.fetch=+{base.refs}/*:{base.refs}/*"]  # so that DVC gives no name twice
    for key in IDENTITY:
        if value := output("git", "config", "--default", "", key).strip():
            settings.append(f"{key}={value}")
    options = [part for setting in settings for part in ("--config", setting)]
    output("git", "clone", "--quiet", "--shared", "--no-checkout", *options, ".", str(folder))
    output("git", "-C", str(folder), "checkout", "--quiet", "--detach", base.commit)
    output("git", "-C", str(folder), "restore", "--source", base.tree, "--staged", "--worktree", ".")
    share_dvc(folder)


def share_dvc(folder: Path) -> None:
    """Let a clone, at an absolute path, use the DVC cache, the remotes and the credentials of this folder."""
    ours = Config(".dvc").read()  # with absolute paths
    with Config(folder / ".dvc").edit("local") as config:
        merge(config, ours)
        config["cache"].setdefault("dir", os.path.abspath(".dvc/cache"))
        config["core"]["site_cache_dir"] = str(folder / ".dvc/tmp/site")  # removed with the clone
