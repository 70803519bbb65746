"""The classification networks of torchvision, by its names, with fresh weights, for images of any number of channels.

They define their own layers and dropout: of a network's parameters they use only `model`. The regnets are missing: they
cannot be built on the meta device, which is how a file of weights is checked.
"""

from typing import Any

from torch import nn

# Smallest side in pixels with which a network gives logits, measured.
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
# Networks that divide the image into patches: its side has to be a multiple of these pixels.
PATCHES = {"vit_b_16": 16, "vit_l_16": 16, "vit_b_32": 32, "vit_l_32": 32, "vit_h_14": 14, "maxvit_t": 224}
NAMES = [*SMALLEST, *PATCHES]
# Portable arithmetic has no attention.
TRANSFORMERS = [name for name in NAMES if name.startswith(("swin", "vit", "maxvit"))]


def build(name: str, shape: tuple[int, int, int], outputs: int) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator.

    Its first convolution is replaced if the images do not have three channels.

    Args:
        name: in NAMES.
        shape: channels, height and width of an image, in pixels.
        outputs: numbers per image.
    """
    from torchvision import models  # takes seconds to import; mlp and cnn do without

    arguments: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit"):
        arguments = {"image_size": shape[1]}
    elif name == "maxvit_t":
        arguments = {"input_size": shape[1:]}
    network: nn.Module = models.get_model(name, weights=None, num_classes=outputs, **arguments)
    if shape[0] != 3:
        path, first = next((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, _with_channels(first, shape[0]))
    return network


def _with_channels(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Make a convolution like this one for another number of input channels."""
    return nn.Conv2d(
        channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]  # a pair
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
