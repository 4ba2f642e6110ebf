"""The scripts for pods and clusters: their syntax, and that they name only what exists."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from didicm_jax import config as configuration
from tests import commands

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = ("tpu_pod.sh", "slurm.sbatch", "jobset.yaml")


@pytest.mark.parametrize("name", ["tpu_pod.sh", "slurm.sbatch"])
def test_shell_scripts_parse(name):
    done = subprocess.run(["bash", "-n", LAUNCH / name], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["tpu_pod.sh", "slurm.sbatch"])
def test_without_arguments_they_say_what_they_expect(name):
    environment = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(LAUNCH)}
    environment |= {"PROJECT": "p", "ZONE": "z", "BUCKET": "b", "REPOSITORY": "r", "COMMIT": "c"}
    done = subprocess.run(
        ["bash", LAUNCH / name], capture_output=True, env=environment, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "expected the arguments of launch/main.py, found none\n"


def jobset():
    return {part["kind"]: part for part in yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text())}


def test_the_jobset_is_one_run_of_indexed_pods():
    parts = jobset()
    job = parts["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completionMode"] == "Indexed"  # how a process knows which one it is
    assert job["parallelism"] == job["completions"] > 1
    pod = job["template"]["spec"]
    assert pod["serviceAccountName"] == parts["ServiceAccount"]["metadata"]["name"]
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", SCRIPTS)
def test_only_flags_and_keys_that_exist_are_named(name):
    """Comments included, as they are what people copy."""
    text = (LAUNCH / name).read_text()
    used = set(re.findall(r"--((?:config\.)?[\w.]+)=?", arguments(text)))
    assert used
    keys = {flag.removeprefix("config.") for flag in used if flag.startswith("config.")}
    assert keys <= configuration.flatten(configuration.default()).keys()
    assert {flag for flag in used if not flag.startswith("config.")} <= commands.flags("main")
    for path in re.findall(r"(?:configs|launch)/\w+\.(?:py|sh|yaml|sbatch)", text):
        assert (LAUNCH.parent / path).exists(), path


def arguments(text):
    """What stands behind `launch/main.py` or, in a usage line, behind the script's own name."""
    joined = text.replace("\\\n#", " ").replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if re.search(r"--config|main\.py|- --", line)]
    return " ".join(re.split(r"main\.py|tpu_pod\.sh|slurm\.sbatch", line)[-1] for line in lines)
