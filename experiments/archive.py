"""A snapshot of this folder in one archive, for machines that share neither a file system nor a git remote with it."""

import io
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from dvc.config import Config, merge
from dvc.config_schema import RelPath

from experiments.clone import Snapshot, identity
from experiments.on_worker import CACHE, COMMIT, TREE
from experiments.shell import output


def pack(base: Snapshot) -> bytes:
    """Pack a snapshot into a tar: a git repository without history, and DVC's settings with all credentials.

    Raises:
        UserError: git fails, with its message.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "clone"
        output("git", "init", "--quiet", "--template=", str(folder))
        output(
            *("git", "-C", str(folder), "fetch", "--quiet", "--depth", "1", str(Path.cwd())),
            *(f"{base.commit}:{COMMIT}", f"{base.tree}:{TREE}"),
            f"{base.refs}/*:{base.refs}/*",  # so that DVC chooses new names
        )
        for key, value in identity().items():
            output("git", "-C", str(folder), "config", key, value)
        (folder / ".dvc").mkdir()
        with Config(folder / ".dvc").edit("local", validate=False) as config:
            merge(config, absolute(Config(".dvc").read()))
            config["cache"]["dir"] = RelPath(folder / CACHE)
            config["core"].pop("site_cache_dir", None)  # one of this machine
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as files:
            files.add(folder, ".")
        return archive.getvalue()


def absolute(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace DVC's relative paths, which it has resolved here, by absolute ones."""
    return {
        key: absolute(value) if isinstance(value, dict) else str(value) if isinstance(value, RelPath) else value
        for key, value in settings.items()
    }
