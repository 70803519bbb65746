"""The classification networks of torchvision, by its own names, with fresh weights, for images of any channels.

They bring layers and dropout of their own: of the parameters of a network only `model` is theirs. The regnets are left
out: they cannot be built without memory for their weights, as is done to check a file of weights.
"""

from typing import Any

from torch import nn

# Pixels a side that a network needs at least to give logits, found by trying.
SMALLEST = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), 1),
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"), 1),
    **dict.fromkeys(("wide_resnet50_2", "wide_resnet101_2"), 1),
    **dict.fromkeys(("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"), 1),
    **dict.fromkeys((f"efficientnet_b{number}" for number in range(8)), 1),
    **dict.fromkeys(("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"), 1),
    **dict.fromkeys((f"mnasnet{width}" for width in ("0_5", "0_75", "1_0", "1_3")), 1),
    **dict.fromkeys((f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")), 1),
    **dict.fromkeys(("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"), 4),
    "googlenet": 15,
    "squeezenet1_1": 17,
    "squeezenet1_0": 21,
    **dict.fromkeys(("densenet121", "densenet161", "densenet169", "densenet201"), 29),
    **dict.fromkeys(("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"), 32),
    **dict.fromkeys((f"vgg{layers}{norm}" for layers in (11, 13, 16, 19) for norm in ("", "_bn")), 32),
    "alexnet": 63,
    "inception_v3": 75,
}
# Networks that cut the image into equal pieces: its side has to be a multiple of these pixels.
PIECES = {"vit_b_16": 16, "vit_l_16": 16, "vit_b_32": 32, "vit_l_32": 32, "vit_h_14": 14, "maxvit_t": 224}
NAMES = [*SMALLEST, *PIECES]


def build(name: str, shape: tuple[int, int, int], outputs: int) -> nn.Module:
    """A network with fresh weights, drawn from torch's global generator.

    Its first convolution is made anew where the images have other than three channels.

    Args:
        name: in NAMES.
        shape: channels, height and width of an image, in pixels.
        outputs: how many numbers for an image.
    """
    from torchvision import models  # takes seconds, and our own networks do without it

    arguments: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit"):
        arguments = {"image_size": shape[1]}
    elif name == "maxvit_t":
        arguments = {"input_size": shape[1:]}
    network: nn.Module = models.get_model(name, weights=None, num_classes=outputs, **arguments)
    if shape[0] != 3:
        place, first = next((place, part) for place, part in network.named_modules() if isinstance(part, nn.Conv2d))
        parent, _, own = place.rpartition(".")
        setattr(network.get_submodule(parent), own, _for_channels(first, shape[0]))
    return network


def _for_channels(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A convolution like this one, for another number of channels."""
    return nn.Conv2d(
        channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]  # a pair
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
