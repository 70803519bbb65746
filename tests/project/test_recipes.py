"""The Slurm and Kubernetes recipes in docs/ are well formed and match the project."""

import re
import subprocess

import yaml

from tests.conftest import ROOT, STAGES

SLURM, KUBERNETES = ROOT / "docs/slurm.sbatch", ROOT / "docs/kubernetes.yaml"


def test_the_slurm_recipe_is_a_valid_batch_script() -> None:
    text = SLURM.read_text()
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=[\w:@-]+)?", line) for line in directives)
    before_commands = text[: text.index("set -euo")]
    assert before_commands.count("#SBATCH ") == len(directives), "Slurm ignores directives after the first command"


def test_the_kubernetes_recipe_is_consistent() -> None:
    service, job = yaml.safe_load_all(KUBERNETES.read_text())
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    pod = job["spec"]["template"]
    assert pod["metadata"]["labels"] == service["spec"]["selector"], "the service must select the pods of the job"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
    launcher = next(item["value"] for item in container["env"] if item["name"] == "TORCHRUN")
    assert f"--nnodes {job['spec']['completions']} " in launcher
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:29400" in launcher


def test_both_recipes_run_train_and_evaluate() -> None:
    for recipe in (SLURM, KUBERNETES):
        stages = re.findall(r"python -m stages\.(\w+)", recipe.read_text())
        assert stages == ["train", "evaluate"]
        assert set(stages) <= set(STAGES)
