"""Stage 1, download: the source -> data/raw/

    python -m stages.download

In:  the data set that `dataset` names: a file of an installed package, the mirrors of those who publish it, or a folder
     or archive of one's own, which `source` names.
Out: data/raw/files/, the original files byte for byte, and dataset.json, the data set's name and the files' sha256.
Of data sets that others have published only bytes of known checksum get in. `DATASET_MIRROR` (an http(s) address or a
folder) is asked before the other mirrors, DVC's cache before all. An interrupted download goes on where it stopped:
until all is there, its files live in .state/download/. A folder of one's own of more than 1 GiB is not copied, nor are
the archives of ImageNet, which have to be in `DATASET_MIRROR` already.
"""

from stages.lib.core.process import run

import hashlib
import importlib.util
import shutil
from pathlib import Path

from pydantic import Field

from stages.lib.core.errors import UserError
from stages.lib.core.files import STATE, replacing_folder
from stages.lib.core.parameters import StageParameters, load
from stages.lib.datasets.raw import FILES, MIRROR, mirror, write_manifest
from stages.lib.datasets.table import DATASETS, File, Idx, ImageNet, Own, Packaged, Torchvision
from stages.lib.fetching.mirrors import RemoteFile, fetch
from stages.lib.fetching.sources import bring, files_below

RAW = Path("data/raw")
DVC_CACHE = Path(".dvc/cache/files/md5")  # what DVC keeps of earlier runs, each file under its md5
UNFINISHED = STATE / "download"


class Parameters(StageParameters):
    """What download reads of params.yaml."""

    dataset: str = Field(
        default="mnist-5k",
        description="name of the data set, from the table in stages/lib/datasets/table.py",
        json_schema_extra={"enum": list(DATASETS)},
    )
    source: str = Field(
        default="data/source",
        min_length=1,
        description="folder or archive of your own images, for dataset folder, csv and arrays",
    )


def main() -> None:
    parameters = load(Parameters)
    dataset = DATASETS[parameters.dataset]

    published: list[Path] = []
    if isinstance(dataset, Packaged):
        published = [packaged_file(dataset)]
    elif isinstance(dataset, Idx | Torchvision):
        published = [fetch(remote_file(file, mirror()), UNFINISHED) for file in dataset.files]

    with replacing_folder(RAW) as folder:
        root = folder / FILES
        root.mkdir()
        for file in published:
            shutil.copyfile(file, root / file.name)
        recorded, where = FILES, f"in {RAW}"
        if isinstance(dataset, Own) and (found := bring(Path(parameters.source), root)) != root:
            root, recorded, where = found, parameters.source, f"left in {parameters.source}"
        elif isinstance(dataset, ImageNet):
            root, recorded, where = official_archives(dataset, mirror()), MIRROR, f"left in {MIRROR}"
        names = sorted(dict(dataset.archives)) if isinstance(dataset, ImageNet) else files_below(root)
        total = sum((root / name).stat().st_size for name in names)
        write_manifest(folder, parameters.dataset, names, root, recorded)
    shutil.rmtree(UNFINISHED, ignore_errors=True)
    print(f"{parameters.dataset}: {len(names):,} file(s), {total:,} bytes {where}")


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


def official_archives(dataset: ImageNet, place: str | None) -> Path:
    """The folder with ImageNet's archives, once their md5 are the official ones.

    Raises:
        UserError: there is no such folder, or an archive is missing or another one.
    """
    known = dict(dataset.archives)
    if place is None or not Path(place).is_dir():
        raise UserError(f"{MIRROR}: found {place or 'nothing'}, expected the folder that holds {', '.join(known)}")
    for name, expected in known.items():
        try:
            with (Path(place) / name).open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
        except FileNotFoundError as error:
            raise UserError(f"{Path(place) / name}: not found; image-net.org gives it to who registers") from error
        if found != expected:
            raise UserError(f"{Path(place) / name}: md5 {found}, expected {expected}; download it again")
    return Path(place)


def remote_file(file: File, place: str | None) -> RemoteFile:
    """A published file with all its addresses, `place` before its makers' if there is one."""
    addresses = [f"{place.rstrip('/')}/{file.name}", *file.addresses] if place else list(file.addresses)
    # DVC clears data/raw/ before this stage runs again, after a change of its code for example.
    cached = DVC_CACHE / file.md5[:2] / file.md5[2:]
    if cached.exists():
        addresses.insert(0, str(cached))
    return RemoteFile(file.name, file.md5, file.size, tuple(addresses))


if __name__ == "__main__":
    run(main)
