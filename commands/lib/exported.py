"""The files that other programs load: torch.export's format, ONNX, and ONNX in 8 bits.

Each takes `images`, (batch, C, H, W) uint8 with any batch size, and returns what `end_to_end` does. Classes, version
and the rest of the model's description are the metadata of the file. Stack traces, which torch writes into both
formats, are removed: they contain local paths.
"""

import io
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime import quantization
from torch import Tensor, nn
from torch.export import ExportedProgram

from commands.lib.end_to_end import Runner, output_name
from stages.lib.model.model_file import ModelDescription
from stages.lib.splits.description import DataDescription

OPSET = 20  # ONNX operators of 2023, which the runtimes on phones and in browsers support
CALIBRATION_BATCH = 64
QUANTIZED = ["Conv", "Gemm", "MatMul"]  # nearly all of the time; softmax in 8 bits would give only 256 probabilities


def program_of(model: nn.Module, data: DataDescription) -> ExportedProgram:
    """Export the model by `torch.export` to a graph of torch's operators, for any batch size.

    Raises:
        RuntimeError, or another error of torch: the network cannot be exported.
    """
    example = torch.zeros((2, *data.shape), dtype=torch.uint8)  # a batch of one would fix the batch size to one
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def save_pt2(program: ExportedProgram, path: Path, about: Mapping[str, Any]) -> None:
    """Write torch.export's format, with the metadata as an extra file, about.json."""
    content = io.BytesIO()  # torch writes the path, if given one, into the file
    torch.export.save(program, content, extra_files={"about.json": json.dumps(about, indent=2)})
    path.write_bytes(content.getvalue())


def save_onnx(program: ExportedProgram, path: Path, data: DataDescription, about: Mapping[str, Any]) -> None:
    """Write ONNX with metadata; texts as they are, other values as JSON."""
    with warnings.catch_warnings():  # torch warns of its own code
        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)
        exported = torch.onnx.export(
            program,
            dynamic_shapes=({0: "batch"},),
            input_names=["images"],
            output_names=[output_name(data)],
            opset_version=OPSET,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def save_quantized(path: Path, source: Path, images: np.ndarray) -> None:
    """Write an ONNX file with 8-bit weights and inputs of convolutions and matrix products.

    Args:
        path: to write to.
        source: the ONNX file in float32.
        images: (N, C, H, W) uint8, training images to calibrate the ranges of the activations.
    """
    batches = iter([{"images": images[at : at + CALIBRATION_BATCH]} for at in range(0, len(images), CALIBRATION_BATCH)])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    with tempfile.TemporaryDirectory() as folder:
        inferred = Path(folder) / "inferred.onnx"
        quantization.quant_pre_process(source, inferred, skip_symbolic_shape=True)  # torch has inferred the shapes
        quantization.quantize_static(
            inferred,
            path,
            Reader(),
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            reduce_range=True,  # weights to 7 bits: products of 8 bits overflow on processors without VNNI
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )


def load_pt2(path: Path) -> Runner:
    """Load a file in torch.export's format."""
    runner: Runner = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return runner


def load_onnx(path: Path) -> Runner:
    """Load an ONNX file, to run on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (outputs,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(outputs)

    return run


def about(model: ModelDescription) -> dict[str, Any]:
    """Describe the model for the metadata of the files."""
    data = model.data
    metadata: dict[str, Any] = {
        "version": model.project,
        "dataset": data.dataset,
        "network": model.architecture.model,
        "weights_sha256": model.weights_sha256,
        "input": f"images: uint8 (batch, {', '.join(map(str, data.shape))}), pixels of 0 to 255",
        "output": f"{output_name(data)}: float32 (batch, {data.outputs})",
    }
    if data.classes:
        metadata["classes"] = data.classes
    else:
        metadata["quantities"] = [quantity.name for quantity in data.quantities]
    return metadata
