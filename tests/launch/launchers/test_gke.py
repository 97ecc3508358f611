"""`launch gke` and `xpk`: the JobSet's structure, and arguments through YAML, Kubernetes' expansion and the shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch import exit_codes
from launch.cli import main
from launch.launchers.gke import TRAIN, Workload, apply, container_words, job_set, to_yaml, xpk_command
from tests.launch.launchers.conftest import HOSTILE

PAYLOAD = ["pretrain", "--config=bert_large", "--workdir=bucket/large", "--config.data.path=store"]
SHARED = ["pretrain", "--config=bert_large", "--workdir=/mnt/runs/large", "--config.data.path=/mnt/store"]  # where no bucket is mounted
WORKLOAD = ["bert-large", "--generation=v4", "--topology=2x2x4", "--image=python:3.11"]
FULL = [
    "--package=git+https://github.com/me/bert_jax@v1", "--store=gs://my-bucket/store", "--mount=gs://my-bucket/runs", "--service-account=trainer", "--spot",
    "--slices=2", "--restarts=7", "--context=my-cluster", "--namespace=training",
]


def kubernetes_expands(word: str, variables: dict[str, str]) -> str:
    """What a container gets for a word of its `command`: $(NAME) replaced where NAME is known, $$ read as $, and of another letter after $ its first byte as a letter
    (third_party/forked/golang/expansion in Kubernetes)."""
    result, at = "", 0
    while at < len(word):
        if word.startswith("$$", at):
            result, at = result + "$", at + 2
        elif word.startswith("$(", at) and ")" in word[at:]:
            name = word[at + 2 : word.index(")", at)]
            result, at = result + variables.get(name, f"$({name})"), at + 3 + len(name)
        elif word[at] == "$" and ord(word[at + 1 :][:1] or "x") > 127:
            result, at = result + "$" + chr(word[at + 1].encode()[0]), at + 2
        else:
            result, at = result + word[at], at + 1
    return result


def pod_of(shown: dict) -> dict:
    return shown["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def recorder(directory: Path) -> None:
    program = directory / "bert-jax"
    program.write_text(f"#!{sys.executable} -IS\nimport json, sys; json.dump(sys.argv[1:], open({str(directory / 'ran')!r}, 'w')); sys.exit(75)\n")
    program.chmod(0o755)


@pytest.mark.parametrize("options, name", [([], "plain"), (FULL, "full")])
def test_the_printed_job_set_is_golden(options, name, stand_ins, golden, capsys):
    assert main(["launch", "gke", *WORKLOAD, *options, "--", *(PAYLOAD if options else SHARED)]) == 0
    shown = capsys.readouterr().out
    golden(f"gke_{name}.txt", shown)
    subprocess.run(["bash", "-n"], input=shown, text=True, check=True)
    assert not stand_ins.calls()


def test_kubectl_gets_the_job_set(stand_ins):
    stand_ins.make("kubectl", f"open({str(stand_ins.directory / 'stdin')!r}, 'w').write(sys.stdin.read())")
    assert main(["launch", "gke", *WORKLOAD, *FULL, "--execute", "--", *PAYLOAD]) == 0
    assert stand_ins.calls() == [["kubectl", "--context=my-cluster", "--namespace=training", "apply", "--filename=-"]]
    workload = Workload(
        "bert-large", "v4", "2x2x4", "python:3.11", slices=2, spot=True, restarts=7, package="git+https://github.com/me/bert_jax@v1", store="gs://my-bucket/store",
        mount="gs://my-bucket/runs", service_account="trainer",
    )
    assert yaml.safe_load((stand_ins.directory / "stdin").read_text()) == job_set(workload, PAYLOAD)


def test_the_job_set_has_the_structure_that_its_controller_reads():
    """Field by field after jobset.x-k8s.io/v1alpha2, batch/v1 and core/v1."""
    shown = yaml.safe_load(to_yaml(job_set(Workload("large", "v4", "2x2x4", "i:1", store="gs://my-bucket/s", mount="gs://my-bucket"), PAYLOAD)))
    assert shown["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and shown["kind"] == "JobSet" and set(shown) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(shown["spec"]) <= {"replicatedJobs", "network", "successPolicy", "failurePolicy", "suspend", "coordinator", "ttlSecondsAfterFinished"}
    policy = shown["spec"]["failurePolicy"]
    assert set(policy) <= {"maxRestarts", "restartStrategy", "rules"} and isinstance(policy["maxRestarts"], int)
    for rule in policy["rules"]:
        assert set(rule) <= {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"} and rule["action"] in ("FailJobSet", "RestartJobSet")
    (replicated,) = shown["spec"]["replicatedJobs"]
    assert set(replicated) <= {"name", "replicas", "template"}
    job = replicated["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4 and job["backoffLimit"] == 0 and job["completionMode"] == "Indexed"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and 75 not in rule["onExitCodes"]["values"] and rule["onExitCodes"]["operator"] == "In"
    pod = pod_of(shown)
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy needs it
    assert pod["terminationGracePeriodSeconds"] >= 120
    names = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert all(isinstance(word, str) for word in container["command"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= names
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    resources = pod["containers"][0]["resources"]
    assert resources["limits"] == resources["requests"] == {"google.com/tpu": 4}
    assert all(isinstance(value, str) for value in pod["nodeSelector"].values())
    annotations = job["template"]["metadata"]["annotations"]
    assert all(isinstance(value, str) for value in annotations.values()) and annotations["gke-gcsfuse/volumes"] == "true"


@pytest.mark.parametrize(
    "generation, topology, hosts, chips",
    [
        ("v5e", "1x1", 1, 1), ("v5e", "2x2", 1, 4), ("v5e", "2x4", 1, 8), ("v6e", "2x4", 1, 8), ("v5e", "4x4", 4, 4), ("v3", "2x2", 1, 4), ("v4", "2x2x1", 1, 4),
        ("v4", "2x2x2", 2, 4), ("v4", "2x2x4", 4, 4), ("v5p", "4x4x8", 32, 4),
    ],
)  # fmt: skip
def test_a_pod_for_each_machine(generation, topology, hosts, chips):
    job = job_set(Workload("large", generation, topology, "i:1"), SHARED)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == hosts
    assert job["template"]["spec"]["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}


def test_hostile_arguments_arrive_byte_for_byte(stand_ins, tmp_path):
    recorder(stand_ins.directory)
    (step,) = apply(Workload("large", "v4", "2x2x4", "i:1"), ["pretrain", *HOSTILE], None, None)
    command = pod_of(yaml.safe_load(step.stdin))["containers"][0]["command"]
    words = [kubernetes_expands(word, {"HOME": "/root", "x": "y"}) for word in command]
    assert subprocess.run(words, cwd=tmp_path).returncode == 75
    assert json.loads((stand_ins.directory / "ran").read_text()) == ["pretrain", *HOSTILE]
    assert not list(tmp_path.rglob("owned"))


def test_what_kubernetes_would_expand_is_escaped():
    for word in ("$(HOME)", "$$(HOME)", "$$$(HOME)", "$", "$$", "$é", "$$é", "a$(b$(HOME)", TRAIN):
        assert kubernetes_expands(container_words([word])[0], {"HOME": "/root"}) == word
    assert kubernetes_expands("$(HOME)", {"HOME": "/root"}) == "/root"  # or the above would say nothing


def test_a_pod_installs_before_it_runs(stand_ins, tmp_path):
    recorder(stand_ins.directory)
    stand_ins.make("python3")
    command = pod_of(job_set(Workload("large", "v4", "2x2x4", "i:1", package="bert-jax==0.1.0"), SHARED))["containers"][0]["command"]
    assert subprocess.run(command, cwd=tmp_path).returncode == 75
    assert stand_ins.calls() == [["python3", "-m", "pip", "install", "--quiet", "bert-jax[tpu]==0.1.0"]]
    stand_ins.make("python3", "sys.exit(3)")
    (stand_ins.directory / "ran").unlink()
    assert subprocess.run(command, cwd=tmp_path).returncode == 3 and not (stand_ins.directory / "ran").exists()


def test_xpk_is_called_with_a_command_that_no_template_can_break(stand_ins, golden, tmp_path, capsys, monkeypatch):
    assert main(["launch", "xpk", "bert-large", "--cluster=my-cluster", "--tpu-type=v4-32", "--image=python:3.11", "--spot", "--", *SHARED]) == 0
    golden("xpk.txt", capsys.readouterr().out)
    recorder(stand_ins.directory)
    (step,) = xpk_command("large", "c", "v4-32", "i:1", ["pretrain", *HOSTILE], slices=1, restarts=2, package=None, spot=False)
    line = step.argv[-1].removeprefix("--command=")
    assert not set(line) & set("\"'$\\`\n{}!*?~;#:")
    line = line.replace("/tmp/bert_jax.sh", str(tmp_path / "bert_jax.sh"))
    assert subprocess.run(["bash", "-c", line], cwd=tmp_path).returncode == 75
    assert json.loads((stand_ins.directory / "ran").read_text()) == ["pretrain", *HOSTILE]
    assert not list(tmp_path.rglob("owned"))


def test_xpk_hands_the_notice_on_to_the_run(stand_ins, tmp_path):
    """Around the command as src/xpk/core/docker_container.py has it; without `exec` the signal ends the subshell alone, and the container with it."""
    program = stand_ins.directory / "bert-jax"
    program.write_text(
        f"#!{sys.executable} -IS\nimport signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print('saved', flush=True), sys.exit(75)))\nprint('up', flush=True); time.sleep(60)\n"
    )
    program.chmod(0o755)
    (step,) = xpk_command("large", "c", "v4-32", "i:1", SHARED, slices=1, restarts=2, package=None, spot=False)
    command = step.argv[-1].removeprefix("--command=").replace("/tmp/bert_jax.sh", str(tmp_path / "bert_jax.sh"))
    script = (
        "_sigterm() (kill -SIGTERM $! 2>/dev/null;);\ntrap _sigterm SIGTERM;\n"
        f"({command}) & PID=$!;\nwhile kill -0 $PID 2>/dev/null; do sleep 0.1; done;\nwait $PID;\nEXIT_CODE=$?;\nexit $EXIT_CODE\n"
    )
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert (process.communicate(timeout=30)[0], process.returncode) == ("saved\n", 75)


def test_xpk_restarts_after_what_a_run_says_is_worth_it():
    (step,) = xpk_command("large", "c", "v4-32", "i:1", SHARED, slices=1, restarts=2, package=None, spot=False)
    assert f"--restart-on-exit-codes={','.join(map(str, exit_codes.AGAIN))}" in step.argv  # `xpk workload create` of 0.7.1 and later; 127 to 255 it adds itself


@pytest.mark.parametrize("workdir", ["bucket/large", "runs/large"])
def test_a_workdir_in_a_bucket_that_is_not_mounted_is_refused(workdir, stand_ins, capsys):
    payload = ["pretrain", "--config=bert_large", f"--workdir={workdir}"]
    assert main(["launch", "gke", *WORKLOAD, "--execute", "--", *payload]) == 1
    assert "no bucket is mounted" in capsys.readouterr().err
    assert main(["launch", "xpk", "bert-large", "--cluster=my-cluster", "--tpu-type=v4-32", "--image=i:1", "--execute", "--", *payload]) == 1
    assert "no bucket is mounted" in capsys.readouterr().err and not stand_ins.calls()


def test_a_single_machine_of_v3_has_another_name():
    for topology, name in (("2x2", "tpu-v3-device"), ("4x4", "tpu-v3-slice")):
        assert pod_of(job_set(Workload("large", "v3", topology, "i:1"), SHARED))["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == name


@pytest.mark.parametrize(
    "change, message",
    [
        (["--topology=2x3"], "no multiple of 4"),
        (["--topology=4"], "--topology"),
        (["--image=a b"], "the image"),
        (["--store=/local"], "--store"),
        (["--mount=gs://b/x,only-dir=y"], "--mount"),
        (["--service-account=A B"], "--service-account"),
        (["--context=--as=admin"], "--context"),
        (["--slices=0"], "at least one slice"),
        (["--package=" + __file__], "package file"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, stand_ins, capsys):
    assert main(["launch", "gke", *WORKLOAD, *change, "--execute", "--", *SHARED]) == 1
    assert message in capsys.readouterr().err and not stand_ins.calls()


def test_pods_cannot_see_a_local_package(stand_ins, tmp_path, capsys):
    (tmp_path / "bert_jax-0.1.0.tar.gz").write_text("")
    assert main(["launch", "gke", *WORKLOAD, f"--package={tmp_path}/bert_jax-0.1.0.tar.gz", "--", *SHARED]) == 1
    assert "build an image" in capsys.readouterr().err
