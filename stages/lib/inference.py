"""What a network says about every row of a split."""

import torch
from torch import Tensor, nn

from stages.lib.batches import Slices, loader
from stages.lib.tensors import Split

# Rows and pixels at a time; not parameters, though other numbers may change the last bits.
MOST_ROWS, MOST_PIXELS = 1000, 8_000_000


@torch.inference_mode()
def outputs_of(network: nn.Module, split: Split, device: torch.device) -> Tensor:
    """Logits, or standardized quantities, of all rows in their order, dropout off: (N, outputs) float64 on the CPU."""
    network.eval()
    rows = max(1, min(MOST_ROWS, MOST_PIXELS // split.images[0].numel()))
    batches = loader(split, Slices(len(split), rows))
    return torch.cat([network(images.to(device)).cpu().double() for images, _ in batches])
