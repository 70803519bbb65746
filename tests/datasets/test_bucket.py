"""Sources in a bucket, on a real S3 server on the loopback."""

import io
import json
import re
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import s3fs
from PIL import Image

from stages import download, normalize
from stages.lib.core.errors import UserError
from stages.lib.fetching import sources
from tests.cluster import cluster
from tests.conftest import checkout, environment, set_parameters
from tests.datasets.test_folder import splits

LOGIN = {"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "team"


def photos(count: int = 90) -> dict[str, bytes]:
    """Return images in two folders, more than are decoded in one process."""
    random = np.random.default_rng(0)
    files = {}
    for number in range(count):
        content = io.BytesIO()
        pixels = random.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((40, 30), Image.Resampling.BICUBIC).save(content, "PNG")
        files[f"{'ab'[number % 2]}/{number:03} é.png"] = content.getvalue()
    return files


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server."""
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            env=environment(),
            stdout=output,
            stderr=output,
        )
    try:
        while not (match := re.search(r"http://127.0.0.1:\d+", log.read_text())):
            assert server.poll() is None, log.read_text()
        yield match[0]
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def login(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Variables with which this and other processes reach the server."""
    variables = LOGIN | {"AWS_ENDPOINT_URL": address}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield variables
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(login: dict[str, str]) -> Any:
    """A client of the server, which has one empty bucket."""
    client: Any = boto3.client("s3")
    if any(bucket["Name"] == BUCKET for bucket in client.list_buckets()["Buckets"]):
        for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    else:
        client.create_bucket(Bucket=BUCKET)
    return client


def put(s3: Any, files: dict[str, bytes], below: str = "photos/") -> None:
    for name, content in files.items():
        s3.put_object(Bucket=BUCKET, Key=below + name, Body=content)


def normalized(dataset: str = "folder", source: str = f"s3://{BUCKET}/photos", **more: object) -> dict[str, bytes]:
    """Run download and normalize; return the content of data/normalized."""
    set_parameters(Path("params.yaml"), dataset=dataset, source=source, image_size=24, **more)
    download.main()
    normalize.main()
    return {path.as_posix(): path.read_bytes() for path in Path("data/normalized").rglob("*.*")}


@pytest.fixture
def local(folder: Path) -> dict[str, bytes]:
    """What the same photographs in a folder give."""
    for name, content in photos().items():
        path = folder / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return normalized(source="local")


@pytest.mark.parametrize("large", [False, True])
def test_a_bucket_gives_what_a_folder_gives(
    folder: Path, local: dict[str, bytes], s3: Any, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    put(s3, photos() | {".DS_Store": b"clutter", "a/Thumbs.db": b"clutter"})
    put(s3, {"": b"", "a/": b""})  # as the consoles of object stores make folders
    if large:
        monkeypatch.setattr(sources, "LARGE", 1000)
    assert normalized() == local
    content = json.loads(Path("data/raw/dataset/dataset.json").read_text())
    assert content["root"] == (f"s3://{BUCKET}/photos" if large else "files")
    assert len(list(Path("data/raw").rglob("*.png"))) == (0 if large else 90)


def test_a_cluster_reads_the_bucket(
    tmp_path: Path, local: dict[str, bytes], s3: Any, login: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, photos())
    monkeypatch.setattr(sources, "LARGE", 1000)
    project = checkout(tmp_path / "project")
    monkeypatch.chdir(project.root)
    with cluster(tmp_path / "cluster", workers=2, cwd=project.root, variables=login) as running:
        monkeypatch.setenv("CLUSTER", running.address)
        assert normalized() == local


def test_a_large_object_that_changes_is_not_used(folder: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files = photos()
    put(s3, files)
    monkeypatch.setattr(sources, "LARGE", 1000)
    normalized()
    first, second, third = list(files)[:3]
    put(s3, {first: files[second]})
    message = f"^s3://{BUCKET}/photos/{first}: has changed since it was listed; run `dvc repro`"
    with pytest.raises(UserError, match=message):
        normalize.main()
    put(s3, {first: files[first]})
    s3.delete_object(Bucket=BUCKET, Key=f"photos/{third}")
    with pytest.raises(UserError, match=f"^s3://{BUCKET}/photos/{third}: is not there any more; run `dvc repro`"):
        normalize.main()
    download.main()
    normalize.main()
    assert sum(len(images) for images, _, _ in splits()[1].values()) == 89


def test_an_archive_a_table_and_arrays(
    folder: Path, local: dict[str, bytes], s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in photos().items():
            archive.writestr(name, content)
    put(s3, {"photos.zip": packed.getvalue()}, below="")
    assert normalized(source=f"s3://{BUCKET}/photos.zip") == local

    monkeypatch.setattr(sources, "LARGE", 1000)
    files = photos()
    table = "path,target\n" + "".join(f"{name},{number % 3}\n" for number, name in enumerate(files))
    put(s3, files | {"labels.csv": table.encode()}, below="table/")
    normalized("csv", f"s3://{BUCKET}/table")
    assert splits()[0] == ["0", "1", "2"]

    random = np.random.default_rng(0)
    for name, array in {
        "images": random.integers(0, 256, (100, 24, 24), np.uint8),
        "targets": np.arange(100) % 4,
    }.items():
        saved = io.BytesIO()
        np.save(saved, array)
        put(s3, {f"{name}.npy": saved.getvalue()}, below="arrays/")
    normalized("arrays", f"s3://{BUCKET}/arrays")
    assert sum(len(images) for images, _, _ in splits()[1].values()) == 100


def test_what_cannot_be_read_is_one_line(folder: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, photos())
    with pytest.raises(UserError, match=f"^s3://{BUCKET}/nothing: found no objects, expected images"):
        normalized(source=f"s3://{BUCKET}/nothing")
    with pytest.raises(UserError, match="^s3://nowhere/photos: the server gives no answer, or refuses"):
        normalized(source="s3://nowhere/photos")
    put(s3, {"a/../../b.png": b"outside"})
    with pytest.raises(UserError, match=r"found the object 'a/../../b.png', whose name cannot be that of a file"):
        normalized()
    with socket.socket() as closed:  # a port where nobody listens
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(UserError, match="the server gives no answer, or refuses") as refused:
            normalized()
    assert "\n" not in str(refused.value)


def test_dvc_notices_a_changed_object(tmp_path: Path, s3: Any, login: dict[str, str]) -> None:
    """By the listing, without reading an object."""
    files = photos()
    put(s3, files)
    project = checkout(tmp_path / "project")

    def stages_run(*arguments: str) -> list[str]:
        printed = project.run("dvc", *arguments, fails=False, **login).stdout
        return re.findall(r"Running stage '(\w+)'", printed)

    settings = [part for value in ("dataset=folder", f"source=s3://{BUCKET}/photos") for part in ("-S", value)]
    assert stages_run("exp", "run", "normalize", *settings) == ["check", "download", "normalize"]
    assert stages_run("repro", "normalize") == []
    first, second, third = list(files)[:3]
    put(s3, {first: files[second]})
    s3.delete_object(Bucket=BUCKET, Key=f"photos/{third}")
    assert stages_run("repro", "normalize") == ["download", "normalize"]
