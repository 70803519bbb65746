"""Weights to begin with, from a local file: a state dict as torch saves it, or safetensors.

params.yaml names the file and its sha256. So DVC knows of the content by the parameter alone, and another file under
the same name is refused. The first and the last layer may be of another shape in the file, for other channels or
classes: they then begin fresh.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from stages.lib.core.errors import UserError, reason

# What `weights` of params.yaml holds, as JSON Schema.
WEIGHTS: dict[str, Any] = {
    "type": "object",
    "properties": {"file": {"type": "string"}, "sha256": {"type": "string"}},
    "required": ["file", "sha256"],
    "additionalProperties": False,
}


AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads that torchvision's files have and its networks here do not
COUNTER = "num_batches_tracked"
EXPECTED = "expected tensors by name, as torch.save(model.state_dict(), ...) or safetensors writes them"


def load(network: nn.Module, path: Path, sha256: str) -> None:
    """Put the weights of a file into a network.

    Raises:
        UserError: there is no such file, its sha256 is another one, or it is not of this network.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}; params.yaml's `weights.file` names it") from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256.lower():
        raise UserError(f"{path}: has sha256 {found}, expected {sha256}; params.yaml's `weights.sha256` says which")
    own = network.state_dict()
    given = state_dict(path, content)
    surplus = {
        name for name in given.keys() - own.keys() if not name.startswith(AUXILIARY) and not name.endswith(COUNTER)
    }
    if surplus:
        raise UserError(f"{path}: is of another model: has {min(surplus)} ({len(surplus)} too many)")
    counters = {name for name in own if name.endswith(COUNTER)}  # files of old versions have none
    if missing := sorted(own.keys() - given.keys() - counters):
        raise UserError(f"{path}: is of another model: has no {missing[0]} ({len(missing)} missing)")
    layers = [name for name, part in network.named_modules() if list(part.parameters(recurse=False)) and name]
    fresh = []
    for name in sorted(own.keys() & given.keys()):
        if own[name].shape != given[name].shape:
            if name.rpartition(".")[0] not in (layers[0], layers[-1]):
                shapes = f"{tuple(given[name].shape)}, expected {tuple(own[name].shape)}"
                raise UserError(f"{path}: is of another model, or of images of another size: {name} is {shapes}")
            fresh.append(name)
            del given[name]
    try:
        network.load_state_dict({name: value for name, value in given.items() if name in own}, strict=False)
    except RuntimeError as error:  # tensors of another kind, sparse ones for example
        raise UserError(f"{path}: holds weights that cannot be taken over; {EXPECTED}") from error
    left_fresh = f"; fresh: {', '.join(fresh)}" if fresh else ""
    print(f"began with the weights of {path}{left_fresh}", flush=True)


def state_dict(path: Path, content: bytes) -> dict[str, Tensor]:
    """The tensors in a file, by name; nothing else is unpickled.

    Raises:
        UserError: it is no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
            raise ValueError("no mapping of names to tensors")
    except Exception as error:  # of bytes that are something else, torch's reader raises what it stumbles over
        raise UserError(f"{path}: no weights that can be read; {EXPECTED}") from error
    return dict(found)
