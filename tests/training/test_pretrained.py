"""Weights to begin with, from a file."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from stages.lib.core.errors import UserError
from stages.lib.model import networks
from stages.lib.training import pretrained

SHAPE = (1, 8, 8)


def small(outputs: int = 3, shape: tuple[int, int, int] = SHAPE, hidden: int = 6, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return networks.build("mlp", shape=shape, outputs=outputs, hidden=[hidden, 5], activation="relu", dropout=0.0)


def load(network: nn.Module, path: Path) -> None:
    pretrained.load(network, path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file])
def test_the_network_begins_with_them(tmp_path: Path, save: Callable[..., None]) -> None:
    source, network = small(seed=1), small(seed=2)
    path = tmp_path / ("a.safetensors" if save is safetensors.torch.save_file else "a.pth")
    save(source.state_dict(), path)
    load(network, path)
    images = torch.randn(4, *SHAPE)
    assert torch.equal(network(images), source(images))
    pretrained.load(small(), path, hashlib.sha256(path.read_bytes()).hexdigest().upper())


@pytest.mark.parametrize(("change", "fresh"), [({"outputs": 7}, "layers.7"), ({"shape": (3, 8, 8)}, "layers.1")])
def test_other_classes_or_channels_begin_fresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, int], fresh: str
) -> None:
    path = tmp_path / "a.pth"
    source, network = small(seed=1), small(seed=2, **change)  # type: ignore[arg-type]
    torch.save(source.state_dict(), path)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    load(network, path)
    for name, weight in network.state_dict().items():
        same_shape = weight.shape == source.state_dict()[name].shape
        assert torch.equal(weight, source.state_dict()[name] if same_shape else before[name])
        assert same_shape or name.startswith(fresh)
    assert f"; fresh: {fresh}" in capsys.readouterr().out


def test_of_torchvision_with_another_head(tmp_path: Path) -> None:
    """As torchvision publishes them: 1000 classes, three channels."""
    path = tmp_path / "shufflenet.pth"
    torch.manual_seed(0)
    source = networks.build(
        "shufflenet_v2_x0_5", shape=(3, 32, 32), outputs=1000, hidden=[], activation="relu", dropout=0
    )
    torch.save(source.state_dict(), path)
    network = networks.build(
        "shufflenet_v2_x0_5", shape=(1, 32, 32), outputs=4, hidden=[], activation="relu", dropout=0
    )
    load(network, path)
    ours, theirs = network.state_dict(), source.state_dict()
    other = {name for name in ours if not torch.equal(ours[name].float(), theirs[name].float())}
    assert other == {"conv1.0.weight", "fc.weight", "fc.bias"}


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"

    def refused(content: object, words: str) -> None:
        torch.save(content, path)
        with pytest.raises(UserError) as error:
            load(small(), path)
        assert words in str(error.value)
        assert "\n" not in str(error.value)

    refused(
        small(hidden=9).state_dict(), "is of another model, or of images of another size: layers.4.weight is (5, 9)"
    )
    refused({"a": torch.zeros(1)}, "is of another model: has a (1 too many)")
    refused({}, "is of another model: has no layers.1.bias (6 missing)")
    deeper = networks.build("mlp", shape=SHAPE, outputs=3, hidden=[6, 5, 5], activation="relu", dropout=0.0)
    refused(deeper.state_dict(), "is of another model: has layers.10.bias (2 too many)")
    sparse = {name: weight.to_sparse() for name, weight in small().state_dict().items()}
    refused(sparse, "holds weights that cannot be loaded")
    refused({"a": 1}, "no weights that can be read; expected tensors by name")
    refused(small(), "no weights that can be read")  # a whole module, which would have to be unpickled
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="no weights that can be read"):
        load(small(), path)
    with pytest.raises(UserError, match=r"has sha256 .*, expected 00 \(`weights.sha256` in params.yaml\)"):
        pretrained.load(small(), path, "00")
    with pytest.raises(UserError, match="b.pth: No such file or directory; set `weights.file` in params.yaml"):
        pretrained.load(small(), tmp_path / "b.pth", "00")
