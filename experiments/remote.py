"""The DVC remote through which this machine and the workers of a cluster exchange data and models."""

import json
import subprocess
import sys
import warnings
from collections.abc import Sequence

from dvc.config import Config

from experiments.archive import absolute
from experiments.clone import Snapshot
from experiments.shell import file_at, output
from experiments.tracked import LOCK, Stages, md5s, output_md5s, stages_in
from stages.lib.cluster.connection import CLUSTER
from stages.lib.core.errors import UserError, reason, some

NOWHERE = "do not exist neither locally nor on remote"  # DVC, of folders


def shared_remote() -> tuple[str, str]:
    """Return name and address of the DVC remote that the machines share.

    Raises:
        UserError: there is none.
    """
    settings = Config(".dvc").read()
    name = settings["core"].get("remote")
    if not name:
        raise UserError(
            f"{CLUSTER}: this project has no default DVC remote, through which the machines exchange data and models; "
            "add a bucket or a folder that they share: dvc remote add --default storage s3://... (docs/sharing.md)"
        )
    return str(name), str(settings["remote"].get(name, {}).get("url", ""))


def push() -> None:
    """Push what the workers may need, and the remote does not have yet.

    Raises:
        UserError: DVC fails, or neither this folder nor the remote has it.
    """
    name, _ = shared_remote()
    done = subprocess.run(["dvc", "status", "--cloud", "--json"], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise UserError(f"DVC remote `{name}`: {done.stderr.strip().removeprefix('ERROR: ')}")
    states = list(json.loads(done.stdout).values())
    if "missing" in states or NOWHERE in done.stderr:
        raise UserError(
            f"neither this folder nor the DVC remote `{name}` has the data and models of {LOCK}, which the workers "
            "need; run `dvc repro` first, or `dvc push` where they are"
        )
    if new := states.count("new"):
        print(f"cluster: pushing {new:,} file(s) to the DVC remote `{name}`", file=sys.stderr)
        if subprocess.run(["dvc", "push"], stdout=subprocess.DEVNULL, check=False).returncode:
            raise UserError("`dvc push` failed, see above")


def folders_read_in_parts(base: Snapshot) -> list[str]:
    """Return the outputs of which a stage reads only parts: of data/tensors, train reads train and val."""
    stages = _stages(base.tree)
    read = [path for _, path, _ in md5s(stages, "deps")]
    return [out for out in output_md5s(stages) if any(path.startswith(f"{out}/") for path in read)]


def fetch_outputs(experiments: Sequence[str], base: Snapshot) -> None:
    """Fetch the outputs of experiments into DVC's cache, as if they had run here, so that `dvc exp apply` finds them.

    Raises:
        UserError: DVC fails.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    refs = [f"{base.refs}/{name}" for name in experiments]
    kept = output_md5s(_stages(base.tree)).items()
    changed = {path for ref in refs for path, _ in output_md5s(_stages(ref)).items() - kept}
    targets = sorted(changed - set(output("git", "ls-files").splitlines()))
    if not targets:
        return
    settings = absolute(Config(".dvc").read())  # DVC resolves relative paths of other revisions against the root
    with warnings.catch_warnings(), Repo() as repo:
        warnings.simplefilter("ignore")  # of DVC, about its own libraries
        try:
            repo.fetch(targets=targets, revs=refs, workspace=False, config=settings)
        except DvcException as error:
            raise UserError(f"fetching {some(targets)} from the DVC remote failed: {reason(error)}") from error


def _stages(commit: str) -> Stages:
    try:
        return stages_in(file_at(commit, LOCK))
    except FileNotFoundError:  # nothing has run yet
        return {}
