"""Export the model for other programs: models/ -> models/model.{pt2,onnx,int8.onnx}

    make export          (python -m commands.export)

In:  the model; the normalized test split, on which the outputs of every file are compared with PyTorch's; training
     images, to calibrate the 8-bit file.
Out: model.onnx, for onnxruntime on servers, on phones and in browsers; model.int8.onnx, a quarter of its size;
     model.pt2, torch.export's format, for PyTorch without this project's code, and for ExecuTorch. Inputs are pixels,
     outputs probabilities (of a regression, quantities). reports/export.json: differences, sizes and latencies.
TorchScript (`torch.jit.script`, `torch.jit.trace`) is deprecated in PyTorch in favour of torch.export.
A command, not a stage: only a model that is deployed needs it, and its timings, which depend on the machine, are not
for git.
"""

from stages.lib.core.process import run

import json
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from commands.lib.end_to_end import Runner, end_to_end
from stages.lib.arithmetic.mode import NATIVE
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import replacing, write_text
from stages.lib.model import compute, model_file, tasks, tensors
from stages.lib.model.distributed import SINGLE
from stages.lib.model.inference import outputs_of
from stages.lib.splits.description import DataDescription

NORMALIZED = Path("data/normalized")
PT2, ONNX, INT8 = (model_file.MODEL.with_suffix(ending) for ending in (".pt2", ".onnx", ".int8.onnx"))
REPORT = Path("reports/export.json")
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
CALIBRATION_IMAGES = 512
TOLERANCE = 1e-4  # of a probability, or a standardized quantity; rounding stays far below it
MAX_RUNS, MAX_SECONDS = 1000, 10.0  # of the timing


def main() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)}: not installed; pip install {' '.join(PACKAGES)}")
    from commands.lib import exported

    compute.prepare(1, NATIVE)
    network, model = model_file.load(model_file.MODEL)
    train, test = (tensors.read(NORMALIZED / name, memory=0) for name in ("train", "test"))
    if test.description != model.data:
        raise UserError(f"{NORMALIZED}: not of the data that {model_file.MODEL} was trained on; run `dvc repro`")
    about = exported.about(model)

    with ExitStack() as stack:  # writes all files or none
        pt2, onnx, int8 = (stack.enter_context(replacing(path)) for path in (PT2, ONNX, INT8))

        # --- Write ---
        whole = end_to_end(network, model.data)
        try:
            program = exported.program_of(whole, model.data)
            exported.save_pt2(program, pt2, about)
            exported.save_onnx(program, onnx, model.data, about)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # torch raises many kinds
            raise UserError(
                f"{model_file.MODEL}: the network {model.architecture.model} cannot be exported ({reason(error)})"
            ) from error
        exported.save_quantized(int8, onnx, evenly_spaced(train, CALIBRATION_IMAGES))

        # --- Compare with PyTorch on every test image ---
        runners: dict[Path, Runner] = {
            model_file.MODEL: whole,
            PT2: exported.load_pt2(pt2),
            ONNX: exported.load_onnx(onnx),
            INT8: exported.load_onnx(int8),
        }
        comparison = compare(network, runners, test)
        for path in (PT2, ONNX):
            difference = comparison[path]["max_difference"]
            if not difference <= TOLERANCE:  # NaN, too
                raise UserError(
                    f"{path}: differs from PyTorch by {difference:.3g}, more than {TOLERANCE}; no file was written "
                    "(please report it)"
                )

        # --- Size and latency ---
        sizes = [path.stat().st_size for path in (model_file.MODEL, pt2, onnx, int8)]
        latencies = time_runners(list(runners.values()), test.rows(0, 1))

    files = {
        str(path): {"bytes": size, "latency_ms": latency, **comparison[path]}
        for path, size, latency in zip(runners, sizes, latencies, strict=True)
    }
    report = {
        **about,
        "opset": exported.OPSET,
        "versions": {name: version(name) for name in ("torch", *PACKAGES)},
        "test_images": len(test),
        "files": files,
    }
    write_text(REPORT, json.dumps(report, indent=2) + "\n")
    print(f"{model.architecture.model}, trained on {model.data.dataset}; {len(test):,} test images")
    show(files, model.data)


def evenly_spaced(split: tensors.Split, most: int) -> np.ndarray:
    """Return at most so many images, evenly spaced over a split: (N, C, H, W) uint8."""
    rows = np.linspace(0, len(split) - 1, min(most, len(split))).astype(int).tolist()
    return torch.cat([split.rows(row, row + 1) for row in rows]).numpy()


def compare(network: nn.Module, runners: Mapping[Path, Runner], test: tensors.Split) -> dict[Path, dict[str, Any]]:
    """Compare the outputs of each file with those that evaluate computes.

    Returns:
        For each file: the largest difference of a probability (of a standardized quantity), the number of images with
        another predicted class, and the score, accuracy or R2, on the whole split.
    """
    data = test.description
    scale = torch.tensor([quantity.std for quantity in data.quantities] or 1.0, dtype=torch.float64)
    differences = dict.fromkeys(runners, 0.0)
    other_classes = dict.fromkeys(runners, 0)
    sums = dict.fromkeys(runners, torch.zeros(data.outputs if data.quantities else 1, dtype=torch.float64))
    for rows, outputs in outputs_of(network, test, torch.device("cpu"), SINGLE, NATIVE):
        expected = outputs.softmax(1) if data.classes else tasks.in_original_units(outputs, data)
        images = test.rows(rows.start, rows.stop)
        for path, runner in runners.items():
            with torch.inference_mode():
                actual = runner(images).double()
            difference = ((actual - expected) / scale).abs().max()
            differences[path] = float(torch.maximum(difference, torch.tensor(differences[path])))  # keeps NaN
            if data.classes:
                other_classes[path] += int((actual.argmax(1) != expected.argmax(1)).sum())
            sums[path] = sums[path] + tasks.sums(actual, test.targets[rows])
    results: dict[Path, dict[str, Any]] = {}
    for path in runners:
        results[path] = {"max_difference": differences[path]}
        if data.classes:
            results[path]["other_classes"] = other_classes[path]
        results[path][tasks.score_name(data)] = tasks.score(sums[path], test.targets)
    return results


def time_runners(runners: list[Runner], image: Tensor) -> list[float]:
    """Return the median of milliseconds for one image, (1, C, H, W) uint8. The runners alternate."""
    times: list[list[float]] = [[] for _ in runners]
    end = time.perf_counter() + MAX_SECONDS
    with torch.inference_mode():
        while len(times[0]) < MAX_RUNS and (time.perf_counter() < end or len(times[0]) < 3):
            for runner, milliseconds in zip(runners, times, strict=True):
                start = time.perf_counter()
                runner(image)
                milliseconds.append((time.perf_counter() - start) * 1000)
    return [statistics.median(milliseconds) for milliseconds in times]


def show(files: Mapping[str, Mapping[str, Any]], data: DataDescription) -> None:
    """Print the report as a table."""
    score = tasks.score_name(data)
    head = ["file", "bytes", "ms an image", "max difference"]
    lines = [[*head, "other classes" if data.classes else "(of the std)", score]]
    for path, each in files.items():
        line = [path, f"{each['bytes']:,}", f"{each['latency_ms']:.3f}", f"{each['max_difference']:.2g}"]
        lines.append([*line, str(each.get("other_classes", "")), f"{each[score]:.4f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        print("  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]))
    change = files[str(INT8)][score] - files[str(model_file.MODEL)][score]
    print(f"8 bits change the {score} by {change:+.4f}; {model_file.MODEL} runs in PyTorch with this project's code")


if __name__ == "__main__":
    run(main)
