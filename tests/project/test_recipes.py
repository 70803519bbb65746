"""The recipes in docs/ for Slurm and Kubernetes: well-formed, consistent, and with stages of this project."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, STAGES

SLURM, KUBERNETES = ROOT / "docs/slurm.sbatch", ROOT / "docs/kubernetes.yaml"
DASK_SLURM, DASK_KUBERNETES = ROOT / "docs/dask_slurm.py", ROOT / "docs/dask_kubernetes.yaml"


def test_the_slurm_recipe_is_a_shell_script_with_its_options_first() -> None:
    text = SLURM.read_text()
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=[\w:@-]+)?", line) for line in directives)
    before_commands = text[: text.index("set -euo")]
    assert before_commands.count("#SBATCH ") == len(directives), "Slurm reads none after the first command"


def test_the_kubernetes_recipe_is_consistent() -> None:
    service, job = yaml.safe_load_all(KUBERNETES.read_text())
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    pod = job["spec"]["template"]
    assert pod["metadata"]["labels"] == service["spec"]["selector"], "the service finds the pods"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
    launcher = next(item["value"] for item in container["env"] if item["name"] == "TORCHRUN")
    assert f"--nnodes {job['spec']['completions']} " in launcher
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:29400" in launcher


def test_both_recipes_run_train_and_evaluate() -> None:
    for recipe in (SLURM, KUBERNETES):
        named = re.findall(r"python -m stages\.(\w+)", recipe.read_text())
        assert named == ["train", "evaluate"]
        assert set(named) <= set(STAGES)


@pytest.mark.filterwarnings("ignore:Port 8787 is already in use")
def test_the_jobs_of_the_slurm_cluster_start_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that dask-jobqueue would hand to Slurm, which is not here."""
    spec = importlib.util.spec_from_file_location("dask_slurm", DASK_SLURM)
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    monkeypatch.chdir(tmp_path)
    keywords: dict[str, object] = {}
    monkeypatch.setattr(recipe, "SLURMCluster", lambda **more: keywords.update(more))
    recipe.slurm_cluster()
    from dask_jobqueue.slurm import SLURMJob

    options = {name: value for name, value in keywords.items() if name != "scheduler_options"}
    script = SLURMJob("tcp://first:8786", "worker", **options).job_script()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --cpus-per-task=16" in script
    command = script.splitlines()[-1]
    assert command.startswith(".venv/bin/python -m distributed.cli.dask_worker tcp://first:8786 ")
    assert "--nthreads 1 " in command
    assert "--nworkers 16 " in command


def test_the_cluster_on_kubernetes_is_consistent() -> None:
    cluster = yaml.safe_load(DASK_KUBERNETES.read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    scheduler, worker = (cluster["spec"][role] for role in ("scheduler", "worker"))
    for role, part in (("scheduler", scheduler), ("worker", worker)):
        (container,) = part["spec"]["containers"]
        assert container["name"] == role
        assert container["args"][:3] == [".venv/bin/python", "-m", f"distributed.cli.dask_{role}"]
        assert importlib.util.find_spec(container["args"][2])
        assert all(isinstance(argument, str) for argument in container["args"])
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in part["spec"]["volumes"]}
        assert container["workingDir"] == container["volumeMounts"][0]["mountPath"]
    assert scheduler["service"]["selector"] == {
        "dask.org/cluster-name": cluster["metadata"]["name"],
        "dask.org/component": "scheduler",
    }
    ports = {port["name"]: port["containerPort"] for port in scheduler["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"]: port["port"] for port in scheduler["service"]["ports"]} == ports
    assert f"CLUSTER=tcp://{cluster['metadata']['name']}-scheduler:{ports['tcp-comm']}" in DASK_KUBERNETES.read_text()
