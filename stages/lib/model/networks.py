"""The networks: from standardized images to logits, one number per class and not yet a probability; or, of a
regression, to standardized quantities.

    images (B, C, H, W) float32 -> (B, outputs) float32

A network of your own joins by a class here and a line in NETWORKS; those of torchvision are there by their names.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from stages.lib.model import torchvision_networks
from stages.lib.model.dropout import quicken


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
        outputs: Tensor = self.layers(images)
        return outputs


class CNN(nn.Module):
    """Two blocks of 3 x 3 convolution, ReLU and 2 x 2 maximum (16 and 32 channels), then an `MLP` on what they find."""

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
SMALLEST = {"cnn": 4, **torchvision_networks.SMALLEST}  # pixels a side

# The activations of torch.nn that need no argument and work on each number by itself.
ACTIVATIONS = {
    name.lower(): name
    for name in nn.modules.activation.__all__
    if name not in {"GLU", "LogSoftmax", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "Threshold"}
}


def make_activation(name: str) -> nn.Module:
    """A new activation module: "tanh" -> `torch.nn.Tanh()`."""
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
) -> nn.Module:
    """A network with fresh weights, drawn from torch's global generator.

    Args:
        model: name in NAMES; one of torchvision's brings layers and dropout of its own.
        shape: channels, height and width of an image, in pixels.
        outputs: how many numbers for an image.
        hidden: widths of the hidden layers.
        activation: a name in ACTIVATIONS for all hidden layers, or one for each.
        dropout: probability that a hidden unit is left out of a training step.
    """
    if model not in NETWORKS:
        return quicken(torchvision_networks.build(model, shape, outputs))
    activations = [activation] * len(hidden) if isinstance(activation, str) else activation
    return quicken(NETWORKS[model](shape, outputs, hidden, activations, dropout))
