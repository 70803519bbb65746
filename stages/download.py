"""Stage 1, download: the source -> data/raw/dataset/

    python -m stages.download

In:  the data set that `dataset` names: a file of an installed package, files that others publish, or the user's own
     folder or archive, which `source` names.
Out: data/raw/dataset/: files/, the original files byte for byte, and dataset.json, the data set's name and each file's
     sha256.
Published files are accepted only with the recorded checksum. They come from DVC's cache, from `DATASET_MIRROR` (an
http(s) address or a folder) or from their publishers, in this order. An interrupted download resumes: until it is
complete, its files are in .state/download/. A user's folder of more than 1 GiB is not copied, on a disk or in a bucket,
nor are the archives of ImageNet, which have to be in the folder `DATASET_MIRROR`.
"""

from stages.lib.core.process import run

import shutil
from functools import partial
from pathlib import Path

from pydantic import Field

from stages.lib.core.files import STATE, replacing_folder
from stages.lib.core.parameters import StageParameters, load
from stages.lib.datasets.kind import Download, File
from stages.lib.datasets.raw import FILES, mirror, write_manifest
from stages.lib.datasets.table import DATASETS
from stages.lib.fetching.mirrors import RemoteFile, fetch
from stages.lib.fetching.sources import bring

RAW = Path("data/raw/dataset")
DVC_CACHE = Path(".dvc/cache/files/md5")  # outputs of earlier runs, each file under its md5
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
        description="folder or archive of your own images, or s3://bucket/folder, for dataset folder, csv and arrays",
    )


def main() -> None:
    parameters = load(Parameters)
    with replacing_folder(RAW) as folder:
        target = folder / FILES
        target.mkdir()
        download = Download(target, partial(fetch_into, target), partial(bring, parameters.source, target))
        files = DATASETS[parameters.dataset].fetch(download)
        total = files.size()
        write_manifest(folder, parameters.dataset, files)
    shutil.rmtree(UNFINISHED, ignore_errors=True)
    where = f"in {RAW}" if files.root == target else f"left in {files.recorded_root}"
    print(f"{parameters.dataset}: {len(files.names):,} file(s), {total:,} bytes {where}")


def fetch_into(folder: Path, file: File) -> None:
    """Put a published file into `folder`. A copy of it stays in .state/ until the whole download is complete."""
    shutil.copyfile(fetch(remote_file(file), UNFINISHED), folder / file.name)


def remote_file(file: File) -> RemoteFile:
    """Return the file with all its addresses: in DVC's cache, at DATASET_MIRROR, at its publisher's."""
    addresses = list(file.addresses)
    if folder := mirror():
        addresses.insert(0, f"{folder.rstrip('/')}/{file.name}")
    # DVC removes data/raw/dataset/ before this stage runs again, for example after a change of its code.
    cached = DVC_CACHE / file.md5[:2] / file.md5[2:]
    if cached.exists():
        addresses.insert(0, str(cached))
    return RemoteFile(file.name, file.md5, file.size, tuple(addresses))


if __name__ == "__main__":
    run(main)
