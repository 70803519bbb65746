"""normalize with the workers of a Dask cluster, real processes on the loopback: the bytes of one machine, or a line."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.lib.cluster import connection, tasks
from stages.lib.core.errors import UserError
from tests.cluster import Cluster, cluster
from tests.conftest import ROOT, Project, artifacts, checkout

pytestmark = pytest.mark.xdist_group("normalize on a cluster")
# A worker's plugin that acts on the start of a task, put into its place by Dask's preloading.
PRELOAD = """
import os, signal
from distributed.diagnostics.plugin import WorkerPlugin

class OnTask(WorkerPlugin):
    started = 0
    def transition(self, key, start, finish, **more):
        if finish == "executing":
            self.started += 1
            if self.started == {number}:
                os.kill(os.getpid(), signal.{name})

async def dask_setup(worker):
    await worker.plugin_add(OnTask())
"""


def preload(path: Path, number: int, name: str) -> dict[str, str]:
    """Return variables with which a worker sends itself a signal when it starts its task of this number."""
    path.write_text(PRELOAD.format(number=number, name=name))
    return {"DASK_DISTRIBUTED__WORKER__PRELOAD": f'["{path}"]'}


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with 200 photographs in data/raw/dataset/: 13 blocks to decode, 4 shards to write."""
    project = checkout(tmp_path_factory.mktemp("session") / "photos")
    random = np.random.default_rng(0)
    for number in range(200):
        pixels = random.integers(0, 256, (6, 8, 3), np.uint8)
        path = project.root / f"photos/{'ab'[number % 2]}/{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((300 + number, 400), Image.Resampling.BICUBIC).save(path)
    (project.root / "photos/a/broken.jpg").write_bytes(b"no image")
    project.set(dataset="folder", source="photos", image_size=512, unreadable_allowed=1)
    project.stage("download")
    return project


@pytest.fixture(scope="module")
def expected(downloaded: Project) -> tuple[dict[str, str], str]:
    """What normalize writes and prints without a cluster."""
    printed = downloaded.stage("normalize").stdout
    assert "skipped: 1 of 201 files" in printed
    return results(downloaded), printed


@pytest.fixture
def photos(downloaded: Project) -> Iterator[Project]:
    """The project without data/normalized, and with nothing left behind after the test."""
    shutil.rmtree(downloaded.root / "data/normalized", ignore_errors=True)
    yield downloaded
    left = [path.name for path in (downloaded.root / ".state").iterdir() if not path.name.endswith(".lock")]
    assert not left


@pytest.fixture(scope="module")
def running(downloaded: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and one worker in the project's folder."""
    with cluster(tmp_path_factory.mktemp("session") / "cluster", workers=1, cwd=downloaded.root) as started:
        yield started


def results(project: Project) -> dict[str, str]:
    return {path: md5 for path, md5 in artifacts(project).items() if path.startswith("data/normalized")}


def test_any_number_of_workers_writes_the_bytes_of_none(
    photos: Project, expected: tuple[dict[str, str], str], running: Cluster, tmp_path: Path
) -> None:
    assert sum(path.endswith(".safetensors") for path in expected[0]) == 4
    for workers in (1, 2, 3):
        running.add_workers(workers - len(running.workers))
        done = photos.stage("normalize", CLUSTER=running.address)
        assert (results(photos), done.stdout) == expected, workers
        assert re.fullmatch(
            rf"cluster: {workers} worker\(s\), {workers} thread\(s\); dashboard http://.+\n", done.stderr
        )


def test_arrays(downloaded: Project, running: Cluster, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (downloaded.root / "arrays").mkdir()
    np.save(downloaded.root / "arrays/images.npy", random.integers(0, 256, (1200, 30, 40, 3), np.uint8))
    np.save(downloaded.root / "arrays/targets.npy", random.integers(0, 5, 1200, np.uint8))
    text = (downloaded.root / "params.yaml").read_text()
    shutil.copytree(downloaded.root / "data/raw", tmp_path / "raw")
    try:
        downloaded.set(dataset="arrays", source="arrays", image_size=256, drop_duplicates="true")
        downloaded.stage("download")
        alone = downloaded.stage("normalize").stdout, results(downloaded)
        assert sum(path.endswith(".safetensors") for path in alone[1]) > 4
        assert (downloaded.stage("normalize", CLUSTER=running.address).stdout, results(downloaded)) == alone
    finally:
        (downloaded.root / "params.yaml").write_text(text)
        shutil.rmtree(downloaded.root / "data/raw")
        shutil.move(tmp_path / "raw", downloaded.root / "data/raw")


def test_the_work_of_a_killed_worker_is_done_by_others(
    photos: Project, expected: tuple[dict[str, str], str], tmp_path: Path
) -> None:
    with cluster(tmp_path / "cluster", workers=1, cwd=photos.root) as started:
        started.variables |= preload(tmp_path / "kill.py", 3, "SIGKILL")
        [victim] = started.add_workers(1)
        done = photos.stage("normalize", CLUSTER=started.address)
        assert victim.process.wait(timeout=30) == -signal.SIGKILL
        assert (results(photos), done.stdout) == expected


def test_a_task_that_kills_its_workers_is_given_up(photos: Project, tmp_path: Path) -> None:
    variables = preload(tmp_path / "kill.py", 1, "SIGKILL") | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with cluster(tmp_path / "cluster", workers=2, cwd=photos.root, variables=variables) as started:
        stderr = photos.stage("normalize", fails=True, CLUSTER=started.address).stderr.splitlines()
    assert len(stderr) == 2
    assert re.match(r"normalize: error: CLUSTER: 1 worker\(s\) died of the same task, last tcp://127", stderr[1])
    assert not results(photos)


def test_an_interruption_takes_the_work_from_the_cluster(photos: Project, tmp_path: Path) -> None:
    variables = preload(tmp_path / "stop.py", 1, "SIGSTOP")
    with cluster(tmp_path / "cluster", workers=1, cwd=photos.root, variables=variables) as started:
        running = photos.start("python", "-m", "stages.normalize", CLUSTER=started.address)
        os.waitid(os.P_PID, started.workers[0].process.pid, os.WSTOPPED)
        running.wait_for("cluster: 1 worker(s)")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(timeout=30) == 130
        assert running.output.read_text().splitlines()[-1].endswith("interrupted")
        started.workers[0].send(signal.SIGCONT)
        from distributed import Client

        with Client(started.address, set_as_default=False) as client:
            assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0
    assert not results(photos)


def test_a_worker_that_does_not_see_the_folder(photos: Project, tmp_path: Path) -> None:
    shutil.copytree(photos.root / "stages", tmp_path / "elsewhere/stages")
    with cluster(tmp_path / "first", workers=1) as started:
        error = photos.stage("normalize", fails=True, CLUSTER=started.address).stderr.splitlines()[-1]
    assert error.startswith(
        "normalize: error: CLUSTER: a worker does not find the code of this project (No module named 'stages"
    )
    with cluster(tmp_path / "second", workers=1, cwd=tmp_path / "elsewhere") as started:
        error = photos.stage("normalize", fails=True, CLUSTER=started.address).stderr.splitlines()[-1]
    assert re.match(
        r"normalize: error: CLUSTER: worker tcp://127.0.0.1:\d+ in \S+elsewhere does not see the folder of "
        "this project; start it there",
        error,
    )


def test_a_worker_that_comes_later_without_the_source_or_with_other_code_or_versions(
    photos: Project, running: Cluster
) -> None:
    state = photos.root / ".state/running-test"
    state.touch()
    try:
        with connection.connected(running.address) as client:
            found = client.submit(tasks.code_here).result(), tasks.versions_here()
            others = (*found[1][:-1], ("torchvision", "0.1"))
            for source, code, versions, message in (
                (Path("/nowhere"), *found, "does not see /nowhere; mount it there by the same path"),
                (None, "other", found[1], "was started with other code in stages; start it again"),
                (None, found[0], others, "has torchvision .*, expected 0.1; install requirements.lock there"),
            ):
                wanted = tasks.Expected(Path(".state/running-test"), source, code, versions)
                with pytest.raises(UserError, match=message):
                    connection.result_of(client, client.submit(tasks.run_checked, b"", wanted, pure=False))
    finally:
        state.unlink()


def test_a_worker_with_another_version_of_a_package(photos: Project, tmp_path: Path) -> None:
    other = tmp_path / "packages/safetensors-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: 0.0.1\n")
    with cluster(
        tmp_path / "cluster", workers=1, cwd=photos.root, variables={"PYTHONPATH": str(other.parent)}
    ) as started:
        error = photos.stage("normalize", fails=True, CLUSTER=started.address).stderr
    assert re.fullmatch(
        r"normalize: error: CLUSTER: worker tcp://\S+ has safetensors 0.0.1, expected \S+ as here; install "
        "requirements.lock there\n",
        error,
    )


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tls://127.0.0.1:1"])
def test_no_scheduler(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTING", 0.5)
    message = f"^CLUSTER: no Dask scheduler answers at {address} "
    with pytest.raises(UserError, match=message) as refused, connection.connected(address):
        pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8786", "http://127.0.0.1:8786", "tcp://127.0.0.1", "somewhere", "tcp://a b:1"]
)
def test_no_address_of_a_scheduler(address: str) -> None:
    with pytest.raises(UserError, match=f"^CLUSTER: found `{address}`, expected"), connection.connected(address):
        pass


def test_encrypted_connections(photos: Project, expected: tuple[dict[str, str], str], tmp_path: Path) -> None:
    """With certificates where Dask's configuration looks for them; without, nobody is let in."""
    from distributed import Security

    certificate = Security.temporary()
    path = tmp_path / "certificate.pem"
    path.write_text(f"{certificate.tls_ca_file}\n{certificate.tls_client_key}\n{certificate.tls_client_cert}")
    variables = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(path),
    }
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        variables[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(path)
    with cluster(tmp_path / "cluster", workers=2, cwd=photos.root, variables=variables, protocol="tls") as started:
        assert started.address.startswith("tls://")
        done = photos.run("python", "-m", "stages.normalize", CLUSTER=started.address, **variables)  # type: ignore[arg-type]
        assert (results(photos), done.stdout) == expected
        error = photos.stage("normalize", fails=True, CLUSTER=started.address).stderr
        assert error.startswith(f"normalize: error: CLUSTER: no Dask scheduler answers at {started.address} (")


def test_no_worker(running: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WAITING", 0.1)
    with cluster(tmp_path / "cluster", workers=0) as started:
        message = f"the scheduler at {started.address} has no worker; start some: `dask worker"
        with pytest.raises(UserError, match=message), connection.connected(started.address):
            pass


def test_without_a_cluster_nothing_of_dask_is_imported() -> None:
    project = Project(ROOT)
    script = "import sys, stages.normalize; sys.exit(any(name in sys.modules for name in ('dask', 'distributed')))"
    project.run("python", "-c", script)
