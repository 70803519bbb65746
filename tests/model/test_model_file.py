"""The model file: a round trip, equal bytes, and files that are refused."""

from pathlib import Path

import pytest
import torch

from stages.lib.core.errors import UserError
from stages.lib.core.sealed import seal, unseal
from stages.lib.model import model_file
from stages.lib.splits.description import DataDescription

DATA = DataDescription(dataset="made up", classes=["a", "b"], shape=(1, 4, 4), mean=[0.5], std=[0.25])
ARCHITECTURE = model_file.Architecture(model="mlp", hidden=[8], activation="tanh", dropout=0.5)


def save(path: Path, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = model_file.build(ARCHITECTURE, DATA)
    model_file.save(
        path, network.state_dict(), ARCHITECTURE, DATA, {"train": 3, "val": 1}, {"lr": 0.1, "arithmetic": "portable"}
    )
    return network.eval()


def test_a_model_is_loaded_without_params_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = save(Path("model.safetensors"))
    loaded, description = model_file.load(Path("model.safetensors"))
    images = torch.randn(5, 1, 4, 4)
    assert torch.equal(loaded(images), network(images))
    assert description.parameters == {"lr": 0.1, "arithmetic": "portable"}
    assert description.environment is None, "portable results depend on neither torch nor threads"


@pytest.mark.parametrize("model", ["cnn", "resnet18", "mnasnet0_5", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_networks_with_buffers_are_loaded(tmp_path: Path, model: str) -> None:
    """mnasnet asks its files for a version, which a file of tensors alone does not have."""
    architecture = ARCHITECTURE.model_copy(update={"model": model})
    data = DATA.model_copy(update={"shape": (1, 32, 32)})
    network = model_file.build(architecture, data)
    network(torch.randn(4, 1, 32, 32))  # changes running statistics
    path = tmp_path / "model.safetensors"
    recorded = {"arithmetic": "native", "threads": 1}
    model_file.save(path, network.state_dict(), architecture, data, {"train": 3, "val": 1}, recorded)
    loaded, _ = model_file.load(path)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_equal_models_have_equal_files(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors")
    save(tmp_path / "b.safetensors")
    for ending in ("safetensors", "json"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors")
    save(tmp_path / "b.safetensors", seed=1)
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes())
    with pytest.raises(UserError, match="a.safetensors: not the weights that .*a.json describes"):
        model_file.load(tmp_path / "a.safetensors")


def test_a_description_of_another_network_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors")
    path = tmp_path / "model.json"
    for changed in ({"hidden": [9]}, {"model": "cnn"}, {"activation": "prelu"}, {"model": "resnet"}):
        content = unseal(path.read_text())
        content["architecture"] |= changed
        path.write_text(seal(content))
        with pytest.raises(UserError, match="model.json: does not match .*model.safetensors"):
            model_file.load(tmp_path / "model.safetensors")


def test_a_changed_number_in_the_description_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors")
    path = tmp_path / "model.json"
    path.write_text(path.read_text().replace('"dropout": 0.5', '"dropout": 0.4'))
    with pytest.raises(UserError, match="model.json: damaged .changed since it was written"):
        model_file.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("content", ["", "{}", "[1]", "[" * 10**5, seal({"format": 2}), seal({"weights_sha256": 7})])
def test_a_damaged_description_is_refused(tmp_path: Path, content: str) -> None:
    save(tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UserError, match="model.json: damaged .*`dvc repro --force train`"):
        model_file.load(tmp_path / "model.safetensors")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model.json: No such file or directory; run `dvc repro`"):
        model_file.load(tmp_path / "model.safetensors")
    save(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors: No such file or directory"):
        model_file.load(tmp_path / "model.safetensors")
