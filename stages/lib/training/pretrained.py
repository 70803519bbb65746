"""Initial weights from a local file: a state dict as torch saves it, or safetensors.

params.yaml holds the file's path and SHA-256. So the parameter alone identifies the content for DVC, and another file
under the same path is rejected. If the first or the last layer has another shape in the file, for other channels or
classes, it keeps its fresh weights.
"""

import hashlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from stages.lib.core.errors import UserError, reason
from stages.lib.model.model_file import copy_weights

# JSON Schema of `weights` in params.yaml.
WEIGHTS: dict[str, Any] = {
    "type": "object",
    "properties": {"file": {"type": "string"}, "sha256": {"type": "string"}},
    "required": ["file", "sha256"],
    "additionalProperties": False,
}


AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads in torchvision's files that the networks here do not have
NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the state dict beside other things
COUNTER = "num_batches_tracked"
EXPECTED = "expected tensors by name, as torch.save(model.state_dict(), ...) or safetensors writes them"


def load(network: nn.Module, path: Path, sha256: str) -> None:
    """Load the weights of a file into a network.

    Raises:
        UserError: the file is missing, has another SHA-256, or belongs to another network.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}; set `weights.file` in params.yaml") from error
    if (digest := hashlib.sha256(content).hexdigest()) != sha256.lower():
        raise UserError(f"{path}: has sha256 {digest}, expected {sha256} (`weights.sha256` in params.yaml)")
    expected = network.state_dict()
    given = without_prefix(state_dict(path, content), expected)
    surplus = {
        name for name in given.keys() - expected.keys() if not name.startswith(AUXILIARY) and not name.endswith(COUNTER)
    }
    if surplus:
        raise UserError(f"{path}: is of another model: has {min(surplus)} ({len(surplus)} too many)")
    counters = {name for name in expected if name.endswith(COUNTER)}  # missing in files of old versions
    if missing := sorted(expected.keys() - given.keys() - counters):
        raise UserError(f"{path}: is of another model: has no {missing[0]} ({len(missing)} missing)")
    layers = [name for name, module in network.named_modules() if list(module.parameters(recurse=False)) and name]
    fresh = []
    for name in sorted(expected.keys() & given.keys()):
        if expected[name].shape != given[name].shape:
            if name.rpartition(".")[0] not in (layers[0], layers[-1]):
                shapes = f"{tuple(given[name].shape)}, expected {tuple(expected[name].shape)}"
                raise UserError(f"{path}: is of another model, or of images of another size: {name} is {shapes}")
            fresh.append(name)
            del given[name]
    try:
        copy_weights({name: value for name, value in given.items() if name in expected}, network)
    except RuntimeError as error:  # tensors of another kind, such as sparse ones
        raise UserError(f"{path}: holds weights that cannot be loaded; {EXPECTED}") from error
    note = f"; fresh: {', '.join(fresh)}" if fresh else ""
    print(f"initial weights from {path}{note}", flush=True)


def state_dict(path: Path, content: bytes) -> dict[str, Tensor]:
    """Return the tensors in a file by name; nothing else is unpickled.

    Raises:
        UserError: it is not a state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content)
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        loaded = next((loaded[key] for key in NESTED if isinstance(loaded.get(key), dict)), loaded)
        if not all(isinstance(value, Tensor) for value in loaded.values()):
            raise ValueError("not a mapping of names to tensors")
    except Exception as error:  # torch raises many kinds for bytes that are not a state dict
        raise UserError(f"{path}: no weights that can be read; {EXPECTED}") from error
    return dict(loaded)


def without_prefix(given: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Remove what wrappers such as DataParallel put before each name (`module.`), if it then is one of `names`."""
    shorter = given
    while not shorter.keys() & set(names):
        prefixes = {name.partition(".")[:2] for name in shorter}
        if len(prefixes) != 1 or prefixes.pop()[1] == "":
            return given
        shorter = {name.partition(".")[2]: value for name, value in shorter.items()}
    return shorter
