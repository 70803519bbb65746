"""The model for other programs: models/ -> models/model.{pt2,onnx,int8.onnx}

    make export          (python -m commands.export)

In:  the model; the normalized test split, on which every file has to give what PyTorch gives; training images, from
     which the ranges for 8 bits are taken.
Out: model.onnx, for onnxruntime on servers, on phones and in browsers; model.int8.onnx, a quarter of its size;
     model.pt2, torch.export's own format, for PyTorch without this project's code, and for ExecuTorch. Pixels go in,
     probabilities come out (of a regression, quantities). reports/export.json: what each file says, weighs and takes.
TorchScript (`torch.jit.script`, `torch.jit.trace`), with which tutorials still take models to a phone, is deprecated:
PyTorch itself says so, and names torch.export in its place.
A command and no stage: only who ships a model wants this, and its timings are of one machine, which git is not told.
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
CALIBRATED = 512  # training images, evenly from all of them
MOST = 1e-4  # that a probability, or a standardized quantity, may differ from PyTorch's; rounding stays far below
MOST_RUNS, MOST_SECONDS = 1000, 10.0  # of timing


def main() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)}: not installed; pip install {' '.join(PACKAGES)}")
    from commands.lib import exported

    compute.prepare(threads=1)
    network, model = model_file.load(model_file.MODEL)
    train, test = (tensors.read(NORMALIZED / name, memory=0) for name in ("train", "test"))
    if test.description != model.data:
        raise UserError(f"{NORMALIZED}: not of the data that {model_file.MODEL} was trained on; run `dvc repro`")
    about = exported.about(model)

    with ExitStack() as all_or_none:
        pt2, onnx, int8 = (all_or_none.enter_context(replacing(path)) for path in (PT2, ONNX, INT8))

        # --- Write ---
        whole = end_to_end(network, model.data)
        try:
            program = exported.program_of(whole, model.data)
            exported.save_pt2(program, pt2, about)
            exported.save_onnx(program, onnx, model.data, about)
        except (OSError, MemoryError):  # which say what they are
            raise
        except Exception as error:  # torch has many
            raise UserError(
                f"{model_file.MODEL}: the network {model.architecture.model} cannot be exported ({reason(error)})"
            ) from error
        exported.save_quantized(int8, onnx, evenly(train, CALIBRATED))

        # --- Check, on every test image ---
        runners: dict[Path, Runner] = {
            model_file.MODEL: whole,
            PT2: exported.load_pt2(pt2),
            ONNX: exported.load_onnx(onnx),
            INT8: exported.load_onnx(int8),
        }
        found = checked(network, runners, test)
        for path in (PT2, ONNX):
            if not found[path]["max_difference"] <= MOST:
                raise UserError(
                    f"{path}: differs from PyTorch by {found[path]['max_difference']:.3g}, more than {MOST}; nothing "
                    "is written (please report it)"
                )

        # --- Weigh and time ---
        sizes = [path.stat().st_size for path in (model_file.MODEL, pt2, onnx, int8)]
        latencies = timed(list(runners.values()), test.rows(0, 1))

    files = {
        str(path): {"bytes": size, "latency_ms": latency, **found[path]}
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


def evenly(split: tensors.Split, most: int) -> np.ndarray:
    """At most so many images of a split, from its beginning to its end: (N, C, H, W) uint8."""
    rows = np.linspace(0, len(split) - 1, min(most, len(split))).astype(int).tolist()
    return torch.cat([split.rows(row, row + 1) for row in rows]).numpy()


def checked(network: nn.Module, runners: Mapping[Path, Runner], test: tensors.Split) -> dict[Path, dict[str, Any]]:
    """What each file says of the test images, held against what evaluate's road through PyTorch says.

    Returns:
        For each file: the largest difference of a probability (of a standardized quantity), how many images get another
        class, and the score, accuracy or R2, on the whole split.
    """
    data = test.description
    scale = torch.tensor([quantity.std for quantity in data.quantities] or 1.0, dtype=torch.float64)
    differences = dict.fromkeys(runners, 0.0)
    others = dict.fromkeys(runners, 0)
    sums = dict.fromkeys(runners, torch.zeros(data.outputs if data.quantities else 1, dtype=torch.float64))
    for rows, outputs in outputs_of(network, test, torch.device("cpu"), SINGLE):
        expected = outputs.softmax(1) if data.classes else tasks.in_original_units(outputs, data)
        images = test.rows(rows.start, rows.stop)
        for path, runner in runners.items():
            with torch.inference_mode():
                said = runner(images).double()
            difference = ((said - expected) / scale).abs().max()
            differences[path] = float(torch.maximum(difference, torch.tensor(differences[path])))  # NaN stays
            others[path] += int((said.argmax(1) != expected.argmax(1)).sum()) if data.classes else 0
            sums[path] = sums[path] + tasks.sums(said, test.targets[rows])
    return {
        path: {
            "max_difference": differences[path],
            **({"other_classes": others[path]} if data.classes else {}),
            tasks.score_name(data): tasks.score(sums[path], test.targets),
        }
        for path in runners
    }


def timed(runners: list[Runner], image: Tensor) -> list[float]:
    """Milliseconds for one image, (1, C, H, W) uint8, the median of many runs, in which all take turns."""
    times: list[list[float]] = [[] for _ in runners]
    end = time.perf_counter() + MOST_SECONDS
    with torch.inference_mode():
        while len(times[0]) < MOST_RUNS and (time.perf_counter() < end or len(times[0]) < 3):
            for runner, own in zip(runners, times, strict=True):
                start = time.perf_counter()
                runner(image)
                own.append((time.perf_counter() - start) * 1000)
    return [statistics.median(own) for own in times]


def show(files: Mapping[str, Mapping[str, Any]], data: DataDescription) -> None:
    """The report as a table."""
    score = tasks.score_name(data)
    head = ["file", "bytes", "ms an image", "max difference"]
    lines = [[*head, *(["other classes"] if data.classes else ["(of the std)"]), score]]
    for path, its in files.items():
        line = [path, f"{its['bytes']:,}", f"{its['latency_ms']:.3f}", f"{its['max_difference']:.2g}"]
        lines.append([*line, str(its.get("other_classes", "")), f"{its[score]:.4f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        print("  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]))
    change = files[str(INT8)][score] - files[str(model_file.MODEL)][score]
    print(f"8 bits change the {score} by {change:+.4f}; {model_file.MODEL} is run by this project's own code")


if __name__ == "__main__":
    run(main)
