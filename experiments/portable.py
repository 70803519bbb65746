"""Prove that portable arithmetic is portable: run in many surroundings, and compare every artifact.

    make portable        (python -m experiments.portable)

The stages of three pipelines run from nothing, in copies of the last commit, without DVC: that of params.yaml with
portable arithmetic, 50 steps of `cnn`, and 50 steps of `resnet18`; and a sample of every operation that the guard lets
pass. Their surroundings: the vector instructions of
PyTorch, the kernels of the matrix library, threads, processes and, where an emulator is installed, other processors.
docs/portable.md says how to add another interpreter, such as an emulated Arm machine, by ARM_PYTHON.
"""

from stages.lib.core.process import run

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from dvc.utils.serialize import modify_yaml

from experiments.shell import output
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import PARAMETERS

STAGES = ("download", "normalize", "cache", "train", "evaluate")
ARTIFACTS = ("data", "models", "reports")
NO_ARTIFACTS = {"data/source", "data/checked", "reports/model_card.md"}
# 1,250 training images: an epoch has 50 steps.
FIFTY_STEPS = {
    **{"dataset": "mnist-5k", "val_fraction": 0.4, "test_fraction": 0.35},
    **{"epochs": 1, "batch_size": 25},
}
PIPELINES: dict[str, dict[str, Any]] = {
    "params.yaml": {},
    "cnn": {"model": "cnn", **FIFTY_STEPS},
    "resnet18": {"model": "resnet18", "image_size": 8, **FIFTY_STEPS},
}
OPERATIONS = "tests.arithmetic.operations"
QEMU, ARM_PYTHON = "qemu-x86_64-static", "ARM_PYTHON"


@dataclass(frozen=True)
class Surroundings:
    """What a pipeline runs in."""

    name: str
    command: list[str] = field(default_factory=lambda: [sys.executable])
    variables: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1


def main() -> None:
    started, surroundings = time.monotonic(), list(all_surroundings())
    files = differing = 0
    # As many at a time as there are processors: most of them use one.
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        commit = Path(folder) / "commit"
        output("git", "clone", "--quiet", "--shared", ".", str(commit))
        for pipeline, parameters in PIPELINES.items():
            folders = [Path(folder) / f"{pipeline} {number}" for number in range(len(surroundings))]
            results = pool.map(run_in, surroundings, repeat(parameters), repeat(commit), folders)
            expected: dict[str, bytes] = {}
            for each, artifacts in zip(surroundings, results, strict=True):
                expected = expected or artifacts
                different = compare(expected, artifacts)
                files += len(artifacts)
                differing += sum(different.values())
                verdict = f"{', '.join(different)} differ" if different else f"{len(artifacts)} artifacts, all equal"
                print(f"{pipeline:>12}, {each.name}: {verdict}", flush=True)
    print(
        f"{len(surroundings)} surroundings, {len(PIPELINES)} pipelines, {files:,} artifacts, "
        f"{(time.monotonic() - started) / 60:.0f} minutes; differing bytes: {differing:,}"
    )
    if differing:
        raise UserError("portable arithmetic is not portable here, see above")


def all_surroundings() -> Iterator[Surroundings]:
    """Yield the surroundings that this machine has, itself first."""
    yield Surroundings("this machine as it is")
    best = torch.backends.cpu.get_cpu_capability()
    for name in ("default", "avx2", "avx512"):
        if name == "default" or name in best.lower() or best == "AVX512":
            yield Surroundings(f"PyTorch's kernels: {name}", variables={"ATEN_CPU_CAPABILITY": name})
    compatible = {"MKL_CBWR": "COMPATIBLE"}
    yield Surroundings("MKL's kernels: compatible", variables=compatible)
    yield Surroundings(
        "both of the simplest kind, 2 threads", variables={**compatible, "ATEN_CPU_CAPABILITY": "default"}, threads=2
    )
    for threads in (2, 8):
        yield Surroundings(f"{threads} threads", threads=threads)
    for processes in (2, 3, 4):
        yield Surroundings(f"{processes} processes", variables={"TORCHRUN": f"--nproc-per-node {processes}"})
    yield Surroundings(
        "2 processes of 2 threads, PyTorch's kernels: default",
        variables={"TORCHRUN": "--nproc-per-node 2", "ATEN_CPU_CAPABILITY": "default"},
        threads=2,
    )
    if shutil.which(QEMU):
        # NumPy's own matrix library does not recognize an emulated processor.
        modules = {"PYTHONPATH": sysconfig.get_path("purelib"), "OPENBLAS_CORETYPE": "Nehalem", "OMP_NUM_THREADS": "1"}
        for processor, kind in (("Haswell", "Intel with AVX2"), ("Nehalem", "Intel without AVX"), ("EPYC", "AMD")):
            yield Surroundings(
                f"emulated {processor} ({kind})",
                command=[QEMU, "-cpu", processor, str(Path(sys.executable).resolve())],
                variables=modules,
            )
    if python := os.environ.get(ARM_PYTHON):
        about = output(
            python, "-c", "import platform, torch; print(platform.machine(), 'with torch', torch.__version__)"
        )
        yield Surroundings(about.strip(), command=[python], variables={"OMP_NUM_THREADS": "1"})


def run_in(surroundings: Surroundings, parameters: Mapping[str, Any], commit: Path, folder: Path) -> dict[str, bytes]:
    """Run all stages in a new folder, delete it, and return the bytes of every artifact.

    Args:
        surroundings: to run in.
        parameters: to change in params.yaml.
        commit: a clone of the project.
        folder: that does not exist.

    Raises:
        UserError: a stage fails.
    """
    shutil.copytree(commit, folder)
    with modify_yaml(folder / PARAMETERS) as values:
        values |= {**parameters, "arithmetic": "portable", "threads": surroundings.threads}
    variables = {name: value for name, value in os.environ.items() if name not in ("TORCHRUN", "DEVICE")}
    for module in (*(f"stages.{stage}" for stage in STAGES), OPERATIONS):
        arguments = [str(surroundings.threads)] if module == OPERATIONS else []
        done = subprocess.run(
            [*surroundings.command, "-m", module, *arguments],
            cwd=folder,
            env={**variables, **surroundings.variables},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise UserError(f"{surroundings.name}: {module} failed: {done.stderr.strip()[-500:]}")
    artifacts = {"operations": done.stdout.encode()} | {
        str(path.relative_to(folder)): path.read_bytes()
        for top in ARTIFACTS
        for path in sorted((folder / top).rglob("*"))
        if path.is_file() and not any(str(path.relative_to(folder)).startswith(other) for other in NO_ARTIFACTS)
    }
    shutil.rmtree(folder)
    return artifacts


def compare(expected: Mapping[str, bytes], actual: Mapping[str, bytes]) -> dict[str, int]:
    """Return the number of differing bytes of each file that differs; one that is missing differs in all of them."""
    different = {}
    for name in sorted(expected.keys() | actual.keys()):
        one, other = expected.get(name, b""), actual.get(name, b"")
        if one != other:
            different[name] = sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
    return different


if __name__ == "__main__":
    run(main)
