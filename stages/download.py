"""Stage 1, download: the source -> data/raw/

    python -m stages.download

In:  the data set that `dataset` names: a file of an installed package, or the mirrors that torchvision knows.
Out: data/raw/, the original files byte for byte, and dataset.json, the data set's name.
Only bytes whose checksum is known get in. `DATASET_MIRROR` (an http(s) address or a folder) is asked before the other
mirrors, DVC's cache before all. An interrupted download goes on where it stopped: until all is there, its files live in
.state/download/.
"""

from stages.lib.stage import STATE, UserError, run

# isort: split

import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path

from pydantic import Field

from stages.lib.datasets import DATASETS, Packaged, Torchvision
from stages.lib.files import replacing_folder, write_text
from stages.lib.mirrors import RemoteFile, fetch
from stages.lib.parameters import StageParameters, load

RAW = Path("data/raw")
DVC_CACHE = Path(".dvc/cache/files/md5")  # what DVC keeps of earlier runs, each file under its md5
UNFINISHED = STATE / "download"


class Parameters(StageParameters):
    """What download reads of params.yaml."""

    dataset: str = Field(
        description="name of the data set, from the table in stages/lib/datasets.py",
        json_schema_extra={"enum": list(DATASETS)},
    )


def main() -> None:
    parameters = load(Parameters)
    dataset = DATASETS[parameters.dataset]

    if isinstance(dataset, Packaged):
        files = [packaged_file(dataset)]
    else:
        files = [fetch(file, UNFINISHED) for file in remote_files(dataset, os.environ.get("DATASET_MIRROR"))]

    with replacing_folder(RAW) as folder:
        for file in files:
            shutil.copyfile(file, folder / file.name)
        write_text(folder / "dataset.json", json.dumps({"dataset": parameters.dataset}) + "\n")
    shutil.rmtree(UNFINISHED, ignore_errors=True)
    print(
        f"{parameters.dataset}: {len(files)} file(s), {sum(f.stat().st_size for f in RAW.iterdir()):,} bytes in {RAW}"
    )


def packaged_file(dataset: Packaged) -> Path:
    """The path of the file inside the installed package, once its sha256 is as recorded."""
    package = importlib.util.find_spec(dataset.package)  # finds the folder without running the package's code
    if package is None or package.origin is None:
        raise UserError(f"the package {dataset.package} is not installed; `make .venv` or `uv sync` installs it")
    path = Path(package.origin).parent / dataset.path
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != dataset.sha256:
        raise UserError(
            f"{dataset.file_name} of the package {dataset.package} has sha256 {found}, expected {dataset.sha256}; "
            f"install the version of {dataset.package} that requirements.lock names"
        )
    return path


def remote_files(dataset: Torchvision, mirror: str | None) -> list[RemoteFile]:
    """The files of a torchvision data set with torchvision's own md5 and mirrors, behind `mirror` if there is one."""
    import torchvision  # takes seconds, and the default data set does without it

    source = getattr(torchvision.datasets, dataset.class_name)
    resources = source.resources  # (name, md5) pairs; QMNIST: {"train": (address, md5) pairs, "test": ...}
    if isinstance(resources, dict):
        resources = [*resources["train"], *resources["test"]]
    files = []
    for (place, md5), size in zip(resources, dataset.sizes, strict=True):
        name = place.rsplit("/", 1)[-1]
        addresses = [place] if "://" in place else [f"{address.rstrip('/')}/{name}" for address in source.mirrors]
        if mirror:
            addresses.insert(0, f"{mirror.rstrip('/')}/{name}")
        # DVC clears data/raw/ before this stage runs again, after a change of its code for example.
        cached = DVC_CACHE / md5[:2] / md5[2:]
        if cached.exists():
            addresses.insert(0, str(cached))
        files.append(RemoteFile(name, md5, size, tuple(addresses)))
    return files


if __name__ == "__main__":
    run(main)
