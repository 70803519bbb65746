"""What a network says about every row of a split."""

import torch
from torch import Tensor, nn

from stages.lib.batches import Slices, loader
from stages.lib.tensors import Split

BATCH_SIZE = 1000  # rows at a time; not a parameter, though another number may change the last bits


@torch.inference_mode()
def logits_of(network: nn.Module, split: Split, device: torch.device) -> Tensor:
    """Logits of all rows in their order, dropout off: (N, classes) float64 on the CPU."""
    network.eval()
    batches = loader(split, Slices(len(split), BATCH_SIZE))
    return torch.cat([network(images.to(device)).cpu().double() for images, _ in batches])
