"""Checkpoints: the state of a training between two steps, in .state/train/, which git and DVC ignore.

The file's name is a hash of what the result depends on: parameters, data and code, in native arithmetic also torch and
processor, but not the number of ranks. So a training resumes only from a checkpoint of the same training, and starts
over after any change. It holds no state of random generators: the draws of an epoch or a step follow from the seed and
its number.

A finished training leaves its metrics and best weights there, because DVC may be killed before it has recorded them; a
newer dvc.lock shows that it has. When a training finishes, the five newest files stay: trainings with other parameters
that were interrupted can go on later.

DVC's `persist: true` does not do this: it gives the next run the state of any earlier one, whatever has changed.
"""

import hashlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.arithmetic.mode import PORTABLE
from stages.lib.core.files import STATE, replacing, sha256_of
from stages.lib.model import compute

STATES = STATE / "train"
Parts = Mapping[str, nn.Module | torch.optim.Optimizer]  # by name: network, optimizer, average of the weights
KEPT = 5  # checkpoints of other trainings and this one, once it is finished
DVC_LOCK = Path("dvc.lock")


@dataclass
class Progress:
    """The progress of a training."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # the curves, one row per finished epoch
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    # Of the current epoch:
    step: int = 0  # steps done
    loss_sum: float = 0.0
    loss_weight: float = 0.0  # what loss_sum is to be divided by
    score_sum: float = 0.0

    @property
    def epochs(self) -> int:
        """How many epochs are finished."""
        return len(self.rows)

    @property
    def best(self) -> dict[str, Any]:
        """The row with the lowest val loss, the first of equal ones."""
        return min(self.rows, key=lambda row: float(row["val_loss"]))

    def finish_epoch(self, row: dict[str, Any], network: nn.Module) -> None:
        """Append the row of a finished epoch, and keep the weights if they are the best so far."""
        self.rows.append(row)
        if self.best is row:
            self.best_weights = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
        self.step, self.loss_sum, self.loss_weight, self.score_sum = 0, 0.0, 0.0, 0.0

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs brought no lower val loss."""
        if patience is None or not self.rows:
            return False
        return len(self.rows) - int(self.best["epoch"]) >= patience


def key(parameters: Mapping[str, Any], inputs: Sequence[object], device: torch.device) -> str:
    """Return the hash of everything a training's result depends on: parameters, inputs, code.

    In native arithmetic also torch and processor; in portable arithmetic not the number of threads.

    Args:
        parameters: of the stage.
        inputs: description and hashes of the data, JSON-serializable.
        device: that the training computes on.
    """
    conditions: list[Any] = [dict(parameters), list(inputs)]
    if parameters["arithmetic"] == PORTABLE:
        del conditions[0]["threads"]
    else:
        conditions += [torch.__version__, str(device), compute.processor(device)]
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode())
    modules = [module for name, module in sys.modules.items() if name == "__main__" or name.startswith("stages.")]
    for path in sorted({file for module in modules if (file := getattr(module, "__file__", None))}):
        digest.update(sha256_of(Path(path)).encode())
    return digest.hexdigest()[:32]


def save(key: str, progress: Progress, parts: Parts) -> None:
    """Write the state after the last step, replacing the previous checkpoint."""
    _write(key, vars(progress) | {"parts": {name: part.state_dict() for name, part in parts.items()}})


def resume(key: str, parts: Parts) -> Progress:
    """Load the checkpoint into the parts of the training, if there is a valid one, and return its progress."""
    path = STATES / f"{key}.pt"
    if not path.exists():
        return Progress()
    with path.open("rb") as file:
        expected, content = file.read(32), io.BytesIO(file.read())
    if hashlib.sha256(content.getbuffer()).digest() != expected:
        print(f"{path}: damaged; starting from the beginning")
        return Progress()
    state = torch.load(content, map_location="cpu", weights_only=True)
    if "parts" in state:
        saved = state.pop("parts")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    elif DVC_LOCK.exists() and DVC_LOCK.stat().st_mtime_ns > path.stat().st_mtime_ns:
        return Progress()  # finished and recorded: running it again means training again
    return Progress(**state)


def finish(key: str, progress: Progress) -> None:
    """Delete the checkpoint; under DVC keep metrics and best weights until it has recorded them.

    Those of other trainings, which were interrupted, stay: the newest of them.
    """
    if "DVC_STAGE" in os.environ:
        _write(key, vars(progress))
    else:  # not run by DVC: there is nothing left to record
        (STATES / f"{key}.pt").unlink(missing_ok=True)
    newest_first = sorted(STATES.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in newest_first[KEPT:]:
        old.unlink()
    for unfinished in STATES.glob(".*.tmp"):  # of a training that was killed while it saved
        unfinished.unlink()
    if not newest_first:
        STATES.rmdir()


def _write(key: str, state: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    with replacing(STATES / f"{key}.pt") as temporary, temporary.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())
