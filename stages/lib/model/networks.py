"""The networks: from standardized images to logits, or, for a regression, to standardized quantities.

    images (B, C, H, W) float32 -> (B, outputs) float32

To add a network, write a class here and add a line to NETWORKS. Those of torchvision are available by their names.
`build` replaces each `nn.Dropout` by the faster `QuickDropout`.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from stages.lib.arithmetic.dense import fully_connected
from stages.lib.model import torchvision_networks
from stages.lib.model.batch_rows import BatchRows
from stages.lib.model.dropout import use_quick_dropout


class MLP(nn.Module):
    """Fully connected: per hidden layer linear, activation, dropout; then linear to the outputs.

    With `hidden=[96, 256]` at 28 x 28 pixels and 10 classes: 102,762 parameters.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        hidden: Sequence[int],
        activation: Sequence[str],
        dropout: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(shape)
        for units, name in zip(hidden, activation, strict=True):
            layers += [nn.Linear(width, units), make_activation(name), nn.Dropout(dropout)]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, images: Tensor) -> Tensor:
        flatten, *layers = self.layers
        return fully_connected(flatten(images), layers)


class CNN(nn.Module):
    """Two blocks of 3 x 3 convolution, ReLU and 2 x 2 max pooling (16 and 32 channels), then an `MLP`."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        hidden: Sequence[int],
        activation: Sequence[str],
        dropout: float,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 16, H/2, W/2)
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 32, H/4, W/4)
        )
        self.head = MLP((32, height // 4, width // 4), outputs, hidden, activation, dropout)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.features(images))
        return outputs


NETWORKS = {"mlp": MLP, "cnn": CNN}
NAMES = [*NETWORKS, *torchvision_networks.NAMES]
SMALLEST = {"cnn": 4, **torchvision_networks.SMALLEST}  # pixels per side

# The elementwise activations of torch.nn that need no argument.
ACTIVATIONS = {
    name.lower(): name
    for name in nn.modules.activation.__all__
    if name not in {"GLU", "LogSoftmax", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "Threshold"}
}


def make_activation(name: str) -> nn.Module:
    """Make an activation module: "tanh" -> `torch.nn.Tanh()`."""
    module: nn.Module = getattr(nn, ACTIVATIONS[name])()
    return module


def build(
    model: str,
    *,
    shape: tuple[int, int, int],
    outputs: int,
    hidden: Sequence[int],
    activation: str | Sequence[str],
    dropout: float,
    batch: BatchRows | None = None,
) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator.

    Args:
        model: name in NAMES; a network of torchvision ignores `hidden`, `activation` and `dropout`.
        shape: channels, height and width of an image, in pixels.
        outputs: numbers per image.
        hidden: widths of the hidden layers.
        activation: a name in ACTIVATIONS for all hidden layers, or one for each.
        dropout: probability of dropping a hidden unit in a training step.
        batch: the rows of the current batch, if several ranks share it.
    """
    if model not in NETWORKS:
        return use_quick_dropout(torchvision_networks.build(model, shape, outputs), batch)
    activations = [activation] * len(hidden) if isinstance(activation, str) else activation
    return use_quick_dropout(NETWORKS[model](shape, outputs, hidden, activations, dropout), batch)
