"""The state of a training between two steps, kept outside DVC's sight in .state/train/.

The file's name is a hash of everything the result depends on: parameters, data, code, torch and processor. So a
training goes on only from a state of the very same training, and starts afresh after any change. Random numbers need no
place in it: those of an epoch and of a step follow from the seed and its number.

A finished training leaves its figures and best weights there, because DVC may still be killed before it has recorded
them; dvc.lock is written when it has.

DVC's own `persist: true` would not do: it hands the state of any earlier run to the next one, changed or not.
"""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.core.files import STATE, replacing
from stages.lib.model import compute

STATES = STATE / "train"
DVC_LOCK = Path("dvc.lock")


@dataclass
class Progress:
    """What a training has come to."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # of figures, one per finished epoch
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    # Of the epoch under way:
    step: int = 0  # steps done
    loss_sum: float = 0.0
    score_sum: float = 0.0

    @property
    def best(self) -> dict[str, Any]:
        """The row with the lowest val loss; of equal ones the first."""
        return min(self.rows, key=lambda row: float(row["val_loss"]))

    def finish_epoch(self, row: dict[str, Any], network: nn.Module) -> None:
        """Note a finished epoch, and its weights if they are the best so far."""
        self.rows.append(row)
        if self.best is row:
            self.best_weights = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
        self.step, self.loss_sum, self.score_sum = 0, 0.0, 0.0

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs brought no lower val loss."""
        if patience is None or not self.rows:
            return False
        return len(self.rows) - int(self.best["epoch"]) >= patience


def key(parameters: Mapping[str, Any], inputs: Sequence[object], device: torch.device) -> str:
    """Hash of all that a training's result depends on: parameters, inputs, code, torch and the kind of processor.

    Args:
        parameters: of the stage.
        inputs: what the data say of themselves, and their hashes; JSON.
        device: to compute on.
    """
    fixed = [parameters, list(inputs), torch.__version__, str(device), compute.processor(device)]
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode())
    modules = [module for name, module in sys.modules.items() if name == "__main__" or name.startswith("stages.")]
    for path in sorted({file for module in modules if (file := getattr(module, "__file__", None))}):
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()[:32]


def save(key: str, progress: Progress, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the state behind the last step on the disk, in the place of the one before."""
    _write(key, vars(progress) | {"network": network.state_dict(), "optimizer": optimizer.state_dict()})


def resume(key: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Bring network and optimizer to the saved state, if there is a whole one, and say how far it had come."""
    path = STATES / f"{key}.pt"
    if not path.exists():
        return Progress()
    with path.open("rb") as file:
        expected, content = file.read(32), io.BytesIO(file.read())
    if hashlib.sha256(content.getbuffer()).digest() != expected:
        print(f"{path}: damaged; starting from the beginning")
        return Progress()
    state = torch.load(content, map_location="cpu", weights_only=True)
    if "network" in state:
        network.load_state_dict(state.pop("network"))
        optimizer.load_state_dict(state.pop("optimizer"))
    elif DVC_LOCK.exists() and DVC_LOCK.stat().st_mtime_ns > path.stat().st_mtime_ns:
        return Progress()  # finished and recorded: whoever runs it again wants it done again
    return Progress(**state)


def finish(key: str, progress: Progress) -> None:
    """Forget every state, but for what it takes to give DVC the same outputs again."""
    if "DVC_STAGE" not in os.environ:  # not run by DVC: nobody has yet to record it
        shutil.rmtree(STATES, ignore_errors=True)
        return
    _write(key, vars(progress))
    for other in STATES.iterdir():
        if other.name != f"{key}.pt":
            other.unlink()


def _write(key: str, state: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    with replacing(STATES / f"{key}.pt") as temporary, temporary.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())
