"""Exported models, by the real command, and in the programs that load them."""

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from torch import nn

from commands import export
from commands.lib import exported
from commands.lib.end_to_end import end_to_end
from stages.lib.core.errors import UserError
from stages.lib.model import networks, tensors
from stages.lib.splits import shards
from stages.lib.splits.description import DataDescription, Quantity
from tests.conftest import ROOT, Project

pytestmark = pytest.mark.xdist_group("shipped")
FILES = ["models/model.pt2", "models/model.onnx", "models/model.int8.onnx"]


def described(shape: tuple[int, int, int], quantities: tuple[str, ...] = ()) -> DataDescription:
    return DataDescription(
        dataset="made up",
        classes=[] if quantities else ["a", "b", "c"],
        shape=shape,
        mean=[0.4] * shape[0],
        std=[0.3] * shape[0],
        quantities=[Quantity(name=name, mean=10.0, std=2.0) for name in quantities],
    )


def test_every_file_has_the_predictions_of_evaluate(shipped: Project) -> None:
    """In onnxruntime and torch alone, from pixels, one image or many at a time."""
    test = shards.read(shipped.root / "data/normalized/test")
    images = test.images(0, len(test))
    expected = pd.read_csv(shipped.root / "reports/predictions.csv")
    report = json.loads((shipped.root / "reports/export.json").read_text())
    program = torch.export.load(io.BytesIO((shipped.root / FILES[0]).read_bytes())).module()
    outputs = {FILES[0]: program(torch.from_numpy(images)).detach().numpy()}
    for path in FILES[1:]:
        session = onnxruntime.InferenceSession(shipped.root / path)
        (outputs[path],) = session.run(None, {"images": images})
        (one,) = session.run(["probabilities"], {"images": images[:1]})
        np.testing.assert_allclose(one, outputs[path][:1], atol=1e-5)
    for path, probabilities in outputs.items():
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
        same = probabilities.argmax(1) == expected["predicted"]
        reported = report["files"][path]
        assert reported["other_classes"] == (~same).sum()
        assert reported["accuracy"] == (probabilities.argmax(1) == expected["actual"]).mean()
        assert reported["bytes"] == (shipped.root / path).stat().st_size
        assert reported["latency_ms"] > 0
        if path in FILES[:2]:
            assert same.all()
            assert reported["max_difference"] < 1e-5
            np.testing.assert_allclose(probabilities.max(1), expected["confidence"], atol=1e-5)
    whole, quantized = (report["files"][path] for path in FILES[1:])
    assert quantized["bytes"] < 0.4 * whole["bytes"]
    assert 1e-4 < quantized["max_difference"] < 0.2, "8 bits round, but not much"
    assert report["test_images"] == 1000


def test_the_files_have_the_description_of_the_model(shipped: Project) -> None:
    description = json.loads((shipped.root / "models/model.json").read_text())
    for path in FILES[1:]:
        model = onnx.load(shipped.root / path)
        assert {opset.domain: opset.version for opset in model.opset_import}[""] == exported.OPSET == 20
        (images,), (output,) = model.graph.input, model.graph.output
        dimensions = [side.dim_param or side.dim_value for side in images.type.tensor_type.shape.dim]
        assert (images.name, dimensions) == ("images", ["batch", 1, 28, 28])
        assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert output.name == "probabilities"
        assert output.type.tensor_type.shape.dim[0].dim_param == "batch"
        about = onnxruntime.InferenceSession(shipped.root / path).get_modelmeta().custom_metadata_map
        assert json.loads(about["classes"]) == description["data"]["classes"]
        assert about["version"] == description["project"]
        assert about["weights_sha256"] == description["weights_sha256"]
        assert about["input"] == "images: uint8 (batch, 1, 28, 28), pixels of 0 to 255"
    extra = {"about.json": ""}
    torch.export.load(io.BytesIO((shipped.root / FILES[0]).read_bytes()), extra_files=extra)
    assert json.loads(extra["about.json"])["dataset"] == "mnist-5k"


def test_another_folder_gives_the_same_bytes_and_no_local_path(shipped: Project, project: Project) -> None:
    project.command("export")
    for path in FILES:
        content = (project.root / path).read_bytes()
        assert content == (shipped.root / path).read_bytes(), path
        for folder in (project.root, shipped.root, ROOT, Path(os.__file__).parent, Path(torch.__file__).parent):
            assert str(folder).encode() not in content, path


def test_git_and_dvc_ignore_the_files(shipped: Project) -> None:
    assert shipped.run("git", "status", "--porcelain").stdout == ""
    assert shipped.repro() == []


@pytest.mark.parametrize(("name", "size"), [("cnn", 8), ("resnet18", 32)])
def test_other_networks_in_colour(tmp_path: Path, name: str, size: int) -> None:
    data = described((3, size, size))
    torch.manual_seed(0)
    network = networks.build(name, shape=data.shape, outputs=3, hidden=[8], activation="relu", dropout=0.5).eval()
    whole = end_to_end(network, data)
    images = torch.randint(0, 256, (5, *data.shape), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(tensors.Standardize(data)(images)).softmax(1)
        torch.testing.assert_close(whole(images), expected)
    program = exported.program_of(whole, data)
    exported.save_onnx(program, tmp_path / "a.onnx", data, {})
    exported.save_quantized(tmp_path / "b.onnx", tmp_path / "a.onnx", images.numpy())
    torch.testing.assert_close(exported.load_onnx(tmp_path / "a.onnx")(images), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(exported.load_onnx(tmp_path / "b.onnx")(images), expected, atol=0.1, rtol=0)


def test_a_regression_outputs_quantities_in_their_units(tmp_path: Path) -> None:
    data = described((1, 8, 8), ("angle", "size"))
    torch.manual_seed(0)
    network = networks.build("mlp", shape=data.shape, outputs=2, hidden=[8], activation="relu", dropout=0.0).eval()
    program = exported.program_of(end_to_end(network, data), data)
    exported.save_onnx(program, tmp_path / "a.onnx", data, {})
    images = torch.randint(0, 256, (5, *data.shape), dtype=torch.uint8)
    split = tensors.Split(images, 10 + 2 * torch.randn(5, 2).double(), torch.arange(5), data, "")
    with torch.inference_mode():
        expected = network(tensors.Standardize(data)(images)) * 2 + 10
    runner = exported.load_onnx(tmp_path / "a.onnx")
    torch.testing.assert_close(runner(images), expected, atol=1e-4, rtol=0)
    runners = {Path("right"): runner, Path("wrong"): lambda batch: runner(batch) + torch.tensor([0.0, 1.0])}
    runners[Path("nan")] = lambda batch: runner(batch) * float("nan")
    comparison = export.compare(network, runners, split)
    assert comparison[Path("right")]["max_difference"] < 1e-5
    assert comparison[Path("wrong")]["max_difference"] == pytest.approx(0.5, abs=1e-5), "in standard deviations"
    assert comparison[Path("right")]["r2"] != comparison[Path("wrong")]["r2"]
    assert math.isnan(comparison[Path("nan")]["max_difference"])


class Sharper(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * 1.01


def test_a_file_that_differs_is_not_written(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def end_to_end_of_another(network: nn.Module, data: DataDescription) -> nn.Module:
        return end_to_end(nn.Sequential(network, Sharper()), data)

    monkeypatch.chdir(project.root)
    monkeypatch.setattr(export, "end_to_end", end_to_end_of_another)
    with pytest.raises(UserError, match=r"models/model.pt2: differs from PyTorch by 0\.00.* no file was written"):
        export.main()
    assert not [path for path in (*FILES, "reports/export.json") if (project.root / path).exists()]
    assert sorted(path.name for path in (project.root / "models").iterdir() if path.name[0] != ".") == [
        "model.json",
        "model.safetensors",
    ]


def test_errors_are_one_line(project: Project) -> None:
    (project.root / "models/model.safetensors").write_bytes(b"other")
    assert "not the weights that models/model.json describes" in project.command("export", fails=True).stderr
    without = "import sys; sys.modules['onnx'] = None; from commands import export; export.run(export.main)"
    error = project.run("python", "-c", without, fails=True).stderr
    assert error == "-c: error: onnx: not installed; pip install onnx onnxruntime onnxscript\n"


def test_the_program_of_the_documentation(shipped: Project) -> None:
    """It does not import this project."""
    page = (shipped.root / "docs/using_the_model.md").read_text()
    program = page.split("```python\n", 1)[1].split("```", 1)[0]
    (shipped.root.parent / "program.py").write_text(program)
    printed = shipped.run("python", "-W", "error", "-I", str(shipped.root.parent / "program.py")).stdout.split()
    documented = program.rsplit("# ", 1)[1].split()
    assert printed[0] == documented[0]
    assert float(printed[1]) == pytest.approx(float(documented[1]), abs=1e-4)
