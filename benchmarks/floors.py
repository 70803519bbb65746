"""Lower bounds for the stages: scripts that only read, compute and write what a stage has to.

python -m benchmarks.floors prepare MIRROR FOLDER     read the gz files, write tensors
python -m benchmarks.floors evaluate PROJECT          load model and test tensors, one forward pass
"""

import sys
from pathlib import Path


def prepare(mirror: Path, folder: Path) -> None:
    """Convert the four files of MNIST to tensor files of bytes."""
    import gzip

    import numpy as np
    from safetensors.numpy import save_file

    for part in ("train", "t10k"):
        with gzip.open(mirror / f"{part}-images-idx3-ubyte.gz") as file:
            images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        with gzip.open(mirror / f"{part}-labels-idx1-ubyte.gz") as file:
            targets = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
        save_file({"images": images, "targets": targets}, folder / f"{part}.safetensors")


def evaluate(project: Path) -> None:
    """Print the accuracy on the test split, with the network as plain modules."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    torch.set_num_threads(1)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 96), nn.Tanh(), nn.Linear(96, 256), nn.Sigmoid(), nn.Linear(256, 10)
    )
    weights = list(load_file(project / "models/model.safetensors").items())
    layers = [model[1], model[3], model[5]]
    for (name, weight), layer in zip(sorted(weights), [layer for layer in layers for _ in range(2)], strict=True):
        getattr(layer, name.rpartition(".")[2]).data = weight
    test = load_file(project / "data/tensors/test/00000.safetensors")
    with torch.inference_mode():
        images = test["images"].float().sub_(33.3).div_(78.6)
        print(float((model(images).argmax(1) == test["targets"]).double().mean()))


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        evaluate(Path(sys.argv[2]))
