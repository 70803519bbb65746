"""The state of a training between two epochs, kept outside DVC's sight in .state/train/.

The file's name is a hash of everything the result depends on: parameters, input data, code, torch and device. So a
training goes on only from a state of the very same training, and starts afresh after any change. Random numbers need no
place in it: those of an epoch follow from (seed, epoch).

DVC's own `persist: true` would not do: it hands the state of any earlier run to the next one, changed or not.
"""

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.files import replacing

STATES = Path(".state/train")


@dataclass
class Progress:
    """What a training has come to: a row of figures per finished epoch, and the weights of the best one."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, Any]:
        """The row with the lowest val loss; of equal ones the first."""
        return min(self.rows, key=lambda row: float(row["val_loss"]))

    def add(self, row: dict[str, Any], network: nn.Module) -> None:
        """Note a finished epoch, and its weights if they are the best so far."""
        self.rows.append(row)
        if self.best is row:
            self.best_weights = {name: weight.detach().clone() for name, weight in network.state_dict().items()}

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs brought no lower val loss."""
        if patience is None or not self.rows:
            return False
        return len(self.rows) - int(self.best["epoch"]) >= patience


def key(parameters: Mapping[str, Any], inputs: Sequence[Path], device: torch.device) -> str:
    """Hash of all that a training's result depends on: parameters, the bytes of its inputs and of its code, torch."""
    digest = hashlib.sha256(json.dumps([parameters, torch.__version__, str(device)], sort_keys=True).encode())
    modules = [module for name, module in sys.modules.items() if name == "__main__" or name.startswith("stages.")]
    code = sorted({file for module in modules if (file := getattr(module, "__file__", None))})
    for path in [*map(Path, code), *inputs]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def save(key: str, progress: Progress, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the state behind the last finished epoch on the disk, in the place of the one before."""
    state = {
        "rows": progress.rows,
        "best_weights": progress.best_weights,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    content = io.BytesIO()
    torch.save(state, content)
    with replacing(STATES / f"{key}.pt") as temporary:
        temporary.write_bytes(hashlib.sha256(content.getbuffer()).digest() + content.getbuffer())


def resume(key: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Bring network and optimizer to the saved state, if there is a whole one, and say how far it had come."""
    path = STATES / f"{key}.pt"
    if not path.exists():
        return Progress()
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        print(f"{path}: damaged; starting from the beginning")
        return Progress()
    state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(state["rows"], state["best_weights"])


def remove_all() -> None:
    """Forget every state: the training is done."""
    shutil.rmtree(STATES, ignore_errors=True)
