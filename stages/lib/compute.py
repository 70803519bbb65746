"""Where and how torch computes: the device, and the settings that make two equal runs equal to the last bit."""

import os

import torch

from stages.lib.stage import UserError


def prepare(threads: int) -> torch.device:
    """Fix the number of threads, ask for deterministic algorithms, and give the device to compute on.

    `DEVICE` in the environment names it ("cpu", "cuda", "cuda:1"); unset, it is the CPU, which every machine has:
    another kind of device gives other last bits.

    Raises:
        UserError: DEVICE names none, or one that is not there.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.set_num_threads(threads)
    # The same as use_deterministic_algorithms(True), which imports the compiler, for more than a second.
    torch.set_deterministic_debug_mode("error")
    name = os.environ.get("DEVICE", "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"DEVICE: cannot compute on `{name}` ({reason}); unset DEVICE for the CPU") from error
    return device


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
