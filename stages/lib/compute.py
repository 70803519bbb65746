"""Where and how torch computes: the device, and the settings that make two equal runs equal to the last bit."""

import os
import re

import torch
from torch import Tensor, nn

from stages.lib.stage import UserError


def prepare(threads: int) -> torch.device:
    """Fix the number of threads, ask for deterministic algorithms, and give the device to compute on.

    `DEVICE` in the environment names it ("cpu", "cuda", "cuda:1"); unset, it is the CPU, which every machine has:
    another kind of device gives other last bits. Of several processes on a machine each takes the GPU of its number.

    Raises:
        UserError: DEVICE names none, or one that is not there.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.set_num_threads(threads)
    # The same as use_deterministic_algorithms(True), which imports the compiler, for more than a second.
    torch.set_deterministic_debug_mode("error")
    name = os.environ.get("DEVICE", "cpu")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = re.split(r"\.(?: |$)|\n", str(error), maxsplit=1)[0]  # torch goes on with every backend it knows
        raise UserError(f"DEVICE: cannot compute on `{name}` ({reason}); unset DEVICE for the CPU") from error
    return device


class InBfloat16(nn.Module):
    """A network whose matrix products are taken in bfloat16 by `torch.autocast`; its weights stay float32."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network, self.device = network, device

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs: Tensor = self.network(images)
        return outputs.float()


def for_training(network: nn.Module, device: torch.device, *, precision: str, compiled: bool) -> nn.Module:
    """A network as training calls it: `precision` float32 or bfloat16, and compiled by `torch.compile` if asked for."""
    if compiled:
        network = torch.compile(network)  # type: ignore[assignment]  # which is a Module as well
    return InBfloat16(network, device) if precision == "bfloat16" else network


def seed(device: torch.device, number: int) -> None:
    """Seed the generator that dropout and fresh weights draw from on this device.

    `torch.manual_seed` seeds those of all devices, which takes 70 times as long: too long for every step.
    """
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
