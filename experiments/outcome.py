"""How an experiment has ended: the result of a success in this repository, or the error in its log."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dvc.utils.serialize import parse_yaml

from experiments.clone import Snapshot
from experiments.layout import assignments
from experiments.results import differing, scores_of
from experiments.shell import file_at, output
from experiments.tracked import METRICS, SUMMARY
from stages.lib.core.errors import UserError
from stages.lib.core.files import STATE
from stages.lib.core.parameters import PARAMETERS

FOLDER = STATE / "sweep"
STAGE_ERROR = re.compile(r"^\w+: error: .+", re.MULTILINE)
DVC_ERROR = re.compile(r"^ERROR: .+", re.MULTILINE)


@dataclass(frozen=True)
class Experiment:
    """A successful experiment."""

    name: str
    scores: Mapping[str, float]


def log_of(name: str, number: int) -> Path:
    """Return the path of an experiment's log, which has the output of its run."""
    prefix = re.sub(r"[^\w.-]", "_", name)
    return FOLDER / f"{prefix}-{number}.log"


def error_in(log: str, code: int) -> str:
    """Return the line of a log that says why a run has failed."""
    errors = STAGE_ERROR.findall(log) or DVC_ERROR.findall(log) or [f"exit code {code}"]
    return str(errors[0])


def fetch(source: Path, name: str, wanted: Mapping[str, object], base: Snapshot) -> Experiment:
    """Fetch an experiment into this repository.

    Args:
        source: the repository that ran it, or a git bundle.
        name: the name that DVC gave it.
        wanted: all parameters that it should have.
        base: what it started from.

    Raises:
        UserError: git fails, with its message, or the experiment has other parameters; then it is not kept.
    """
    ref = f"{base.refs}/{name}"
    fetched = f"refs/sweep/{uuid.uuid4().hex}"  # not FETCH_HEAD, which any other fetch replaces
    try:
        output("git", "fetch", "--quiet", "--no-write-fetch-head", str(source), f"{ref}:{fetched}")
        if other := differing(parse_yaml(file_at(fetched, str(PARAMETERS)), str(PARAMETERS)), wanted):
            raise UserError(f"DVC set other values: {' '.join(assignments(other))}")
        summary, metrics = (json.loads(file_at(fetched, path)) for path in (SUMMARY, METRICS))
        output("git", "update-ref", ref, fetched, "")  # "": the name must be new
    except FileNotFoundError as error:
        raise UserError(f"the experiment {name} came back without {error}") from error
    finally:
        output("git", "update-ref", "-d", fetched)
    return Experiment(name, scores_of(summary, metrics))
