"""The device, and the settings that make equal runs equal to the last bit."""

import os
import platform
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.lib.arithmetic.mode import PORTABLE
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import device_name

CPUINFO = Path("/proc/cpuinfo")
SUBNORMAL = 1e-40
MODEL_FIELDS = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")  # of x86-64, and of Arm


def prepare(threads: int, arithmetic: str) -> torch.device:
    """Set the number of threads, require deterministic algorithms, and return the device to compute on.

    `DEVICE` in the environment names it ("cpu", "cuda", "cuda:1"). The default is the CPU, which every machine has:
    another kind of device gives other last bits. With several ranks on a machine each takes the GPU of its local rank.

    Raises:
        UserError: DEVICE names no device, or one that is missing, or one that portable arithmetic does not use; or the
            processor takes the smallest numbers for 0.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.set_num_threads(threads)
    # The same as use_deterministic_algorithms(True), which imports the compiler, for more than a second.
    torch.set_deterministic_debug_mode("error")
    # float32 is float32: by default cuDNN rounds the factors of a convolution to ten bits on newer GPUs.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    name = device_name(arithmetic)
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = re.split(r"\.(?: |$)|\n", str(error), maxsplit=1)[0]  # torch goes on to list every backend
        raise UserError(f"DEVICE: cannot compute on `{name}` ({reason}); unset DEVICE for the CPU") from error
    if arithmetic == PORTABLE and not float(torch.tensor(SUBNORMAL) * 1):
        raise UserError(
            "this processor is set to take the smallest numbers (subnormal ones) for 0, which changes results; unset "
            "that, or set arithmetic to native in params.yaml"
        )
    return device


def processor(device: torch.device) -> str:
    """Return the kind of processor of `device`, such as "x86_64 AuthenticAMD 26 2 AVX512".

    Another kind rounds the last bits differently: vendor and model select the kernels of the matrix library, the vector
    instructions those of PyTorch.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    fields = {}
    if CPUINFO.exists():  # Linux
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    model = [fields[name] for name in MODEL_FIELDS if name in fields] or platform.processor().split()
    return " ".join([platform.machine(), *model, torch.backends.cpu.get_cpu_capability()])


class InBfloat16(nn.Module):
    """A network whose matrix products run in bfloat16 under `torch.autocast`; its weights stay float32."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network, self.device = network, device

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs: Tensor = self.network(images)
        return outputs.float()


def for_training(network: nn.Module, device: torch.device, *, precision: str, compiled: bool) -> nn.Module:
    """Wrap a network for training: in `precision` float32 or bfloat16, compiled by `torch.compile` on request."""
    if compiled:
        network = torch.compile(network)  # type: ignore[assignment]  # an OptimizedModule is a Module
    return InBfloat16(network, device) if precision == "bfloat16" else network


def seed(device: torch.device, number: int) -> None:
    """Seed torch's default generator of one device.

    `torch.manual_seed` seeds the generators of all devices and takes 70 times as long: too long for every step.
    """
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    elif device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
