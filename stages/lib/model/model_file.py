"""The model on disk: model.safetensors, the weights, and model.json, everything that is needed to use them.

model.json is sealed and holds the SHA-256 of the weights: a changed bit in either file is an error, not another model.
`load()` rebuilds the network without `params.yaml` and without the training code.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from stages.lib.arithmetic.mode import NATIVE
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import replacing, write_text
from stages.lib.core.sealed import seal, unseal
from stages.lib.model import networks
from stages.lib.model.batch_rows import BatchRows
from stages.lib.splits.description import DataDescription, FrozenModel

VERSION = "0.1.0"  # of this project, as in pyproject.toml
MODEL = Path("models/model.safetensors")


class Architecture(FrozenModel):
    """The arguments of `networks.build` that do not follow from the data."""

    model: str
    hidden: list[int]
    activation: str | list[str]
    dropout: float


class Environment(FrozenModel):
    """What a result of native arithmetic depends on as well; another may give other last bits."""

    torch: str  # version
    threads: int = Field(ge=1)  # CPU threads of the training


class ModelDescription(FrozenModel):
    """The content of model.json, equal for two equal runs."""

    format: Literal[3]
    project: str  # version
    architecture: Architecture
    data: DataDescription
    images: dict[str, int]  # rows of train, and of val, which selected the epoch
    parameters: dict[str, Any]  # every parameter of the training, for people to read
    arithmetic: Literal["portable", "native"]
    environment: Environment | None  # None in portable arithmetic
    weights_sha256: str

    @property
    def threads(self) -> int:
        """CPU threads to use: those of the training, or one, where their number does not matter."""
        return self.environment.threads if self.environment else 1


def save(
    path: Path,
    weights: dict[str, Tensor],
    architecture: Architecture,
    data: DataDescription,
    images: dict[str, int],
    parameters: dict[str, Any],
) -> None:
    """Write the weights to `path` and their description beside it, with the suffix .json.

    Between the two writes they do not match, which `load` detects by the SHA-256.
    """
    arithmetic, environment = parameters["arithmetic"], None
    if arithmetic == NATIVE:
        environment = Environment(torch=torch.__version__.split("+")[0], threads=parameters["threads"])
    else:
        parameters = {name: value for name, value in parameters.items() if name != "threads"}  # it changes nothing
    content = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    description = ModelDescription(
        format=3,
        project=VERSION,
        architecture=architecture,
        data=data,
        images=images,
        parameters=parameters,
        arithmetic=arithmetic,
        environment=environment,
        weights_sha256=hashlib.sha256(content).hexdigest(),
    )
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    write_text(path.with_suffix(".json"), seal(description.model_dump(mode="json")))


def load(path: Path) -> tuple[nn.Module, ModelDescription]:
    """Return the network with the weights in `path`, in evaluation mode, and its description.

    Raises:
        UserError: a file is missing or damaged, or the two do not match.
    """
    remedy = "`dvc repro --force train` writes both files again"
    description_path = path.with_suffix(".json")
    try:
        description = ModelDescription.model_validate(unseal(description_path.read_bytes()))
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{error.filename}: {reason(error)}; run `dvc repro`, which trains first") from error
    except ValueError as error:
        raise UserError(f"{description_path}: damaged ({reason(error)}); {remedy}") from error
    if hashlib.sha256(content).hexdigest() != description.weights_sha256:
        raise UserError(f"{path}: not the weights that {description_path} describes; {remedy}")
    try:
        weights = safetensors.torch.load(content)
        with torch.device("meta"):  # shapes only: a damaged description may ask for more than the memory holds
            expected = build(description.architecture, description.data).state_dict()
        if _shapes(weights) != _shapes(expected):
            raise ValueError("its architecture has other weights")
        network = build(description.architecture, description.data)
        copy_weights(weights, network)
    except (RuntimeError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{description_path}: does not match {path} ({reason(error)}); {remedy}") from error
    return network.eval(), description


@torch.no_grad()
def copy_weights(weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """Copy tensors to the weights and buffers of the same names and shapes.

    `load_state_dict` would ask some networks' layers for version numbers, which files of tensors alone do not have.
    """
    state = network.state_dict()
    for name, weight in weights.items():
        state[name].copy_(weight)


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def build(architecture: Architecture, data: DataDescription, batch: BatchRows | None = None) -> nn.Module:
    """Build a network of this architecture for these data, with fresh weights."""
    return networks.build(**architecture.model_dump(), shape=data.shape, outputs=data.outputs, batch=batch)
