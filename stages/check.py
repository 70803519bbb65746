"""Stage 0, check: params.yaml -> data/checked

    python -m stages.check

In:  the whole of params.yaml, and params.schema.json.
Out: data/checked, which is always the same. All other stages depend on it and never rerun because of it.
DVC removes a stage's outputs before it runs the stage. So a bad value has to be refused before any of them starts:
then data, models and reports stay as they are.
"""

from stages.lib.core.process import run

from pathlib import Path

from stages.lib.core.errors import UserError
from stages.lib.core.files import write_text
from stages.lib.core.parameters import PARAMETERS, let_git_see_the_change, read_checked

CHECKED = Path("data/checked")


def main() -> None:
    source = read_checked()["source"]
    if not Path(source).exists():  # DVC wants it there for every data set, and says no more than "[Errno 2]"
        let_git_see_the_change()
        raise UserError(
            f"{PARAMETERS}: source: found nothing at `{source}`, expected a folder or an archive; put your images "
            "there, or set source back to data/source, which all other data sets ignore"
        )
    write_text(CHECKED, "params.yaml was valid when the stages after this one started.\n")


if __name__ == "__main__":
    run(main)
