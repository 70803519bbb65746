"""Stage 0, check: params.yaml -> data/checked

    python -m stages.check

In:  all of params.yaml, and params.schema.json.
Out: data/checked, which is always the same. All other stages depend on it and never rerun because of it.
DVC removes a stage's outputs before it runs the stage. So a bad value has to be refused before any other stage starts:
then data, models and reports stay as they are.
"""

from stages.lib.core.process import run

import os
from contextlib import suppress
from pathlib import Path

from stages.lib.core.errors import UserError
from stages.lib.core.files import write_text
from stages.lib.core.parameters import PARAMETERS, device_name, read
from stages.lib.validation.rules import check_all

CHECKED = Path("data/checked")
# What stages write, and DVC or git.
WRITTEN = ("data/raw/dataset", "data/normalized", "data/tensors", "models", "reports", ".state", ".dvc", ".git")


def main() -> None:
    values = read(PARAMETERS)
    try:
        check_all(values)
        device_name(values["arithmetic"])
        check_source(values["source"])
    except UserError:
        let_git_see_the_change()
        raise
    write_text(CHECKED, "params.yaml was valid when the stages after this one started.\n")


def check_source(source: str) -> None:
    """Check that the source is where no stage writes. It is a dependency of download for every data set.

    Raises:
        UserError: there is nothing, or a stage would delete it.
    """
    if source.startswith("s3://"):
        return  # download says whether it can be read
    path = Path(source)
    if not path.exists():  # DVC would only print "[Errno 2]"
        raise UserError(
            f"{PARAMETERS}: source: found nothing at `{source}`, expected a folder or an archive; put your images "
            "there, or set source back to data/source, which all other data sets ignore"
        )
    real = path.resolve()
    for written in map(Path, WRITTEN):
        if real.is_relative_to(written.resolve()) or written.resolve().is_relative_to(real):
            raise UserError(
                f"{PARAMETERS}: source: `{source}` has to be apart from {written}, which this pipeline deletes and "
                "writes; move your images, for example to data/source"
            )


def let_git_see_the_change() -> None:
    """Move the modification time of `params.yaml` by a second, before a value in it is refused.

    `dvc exp run -S` restores the file, has git's index record it, writes the new value, runs the stages, and has
    libgit2 write the index again. Git compares sizes and whole seconds. So a value that was written within the same
    second looks unchanged if the file is as long as before, and comments in their column keep it so: `git status` is
    clean, and `git checkout params.yaml` does nothing. Git itself guards against that (its documentation calls it
    racy-git), libgit2 by nanoseconds alone.
    """
    status = PARAMETERS.stat()
    with suppress(PermissionError):  # another user's file, which git will not be asked to restore
        os.utime(PARAMETERS, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


if __name__ == "__main__":
    run(main)
