"""Where a process learns that it is one of several: options, variables, Slurm, OpenMPI, TPU pods; and which GPUs are its own."""

import importlib.util

import pytest

from launch.config import ConfigError
from launch.distributed import Setting, find, tasks_per_node

ALONE = {"TPU_SKIP_MDS_QUERY": "1"}  # as jax sets it where there is no TPU
SLURM = ALONE | {"SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
                 "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}
OPEN_MPI = ALONE | {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1:5000", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3",
                    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
EIGHT = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}


@pytest.mark.parametrize(
    "environ, expected",
    [
        (ALONE, None),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"} | EIGHT, None),  # all GPUs, and no service
        ({name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}, None),  # a batch script, outside srun
        (SLURM, Setting("Slurm (job 4711)", None, 2, 1, None, "slurm")),
        (OPEN_MPI, Setting("OpenMPI", None, 4, 3, None, "ompi")),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        (SLURM | {"BERT_JAX_NUM_PROCESSES": "1"}, None),
        (ALONE | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_found(environ, expected):
    assert find({"CUDA_VISIBLE_DEVICES": ""} | environ) == expected


def test_options_go_before_variables_and_variables_before_slurm():
    explicit = SLURM | {"BERT_JAX_COORDINATOR": "a:1", "BERT_JAX_NUM_PROCESSES": "3", "BERT_JAX_PROCESS_ID": "2"}
    origin = "options or BERT_JAX_ variables"
    assert find(explicit) == Setting(origin, "a:1", 3, 2, None, "deactivate")
    assert find(explicit, "[::1]:7", 5, 4) == Setting(origin, "[::1]:7", 5, 4, None, "deactivate")
    assert find(explicit, num_processes=1) is None


def test_a_coordinator_alone_takes_its_numbers_from_the_launcher():
    five = {name: value for name, value in OPEN_MPI.items() if name != "OMPI_MCA_orte_hnp_uri"}
    found = find(five | {"CUDA_VISIBLE_DEVICES": "0,1"}, "a:1")
    assert (found.coordinator, found.num_processes, found.process_id, found.local_device_ids) == ("a:1", 4, 3, (1,))
    with pytest.raises(ConfigError, match="names no coordinator.*--coordinator=HOST:PORT"):
        find(five)


def test_a_tpu_slice(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert find({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}).origin.startswith("the TPU slice")
    assert find({}).origin == "the TPU VM's metadata"
    assert find({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None
    assert find({"JAX_PLATFORMS": "cpu"}) is None


@pytest.mark.parametrize(
    "change, devices",
    [
        ({}, (0, 1, 2, 3, 4, 5, 6, 7)),  # a task on each node: not one GPU of eight
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "5"}, (5,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,4", "SLURM_LOCALID": "1"}, (2, 3)),  # node 1 has four tasks
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_LOCALID": "5", "CUDA_VISIBLE_DEVICES": "5", "SLURM_GPUS_ON_NODE": "8"}, (0,)),  # bound by Slurm
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_PER_TASK": "4"}, (0, 1, 2, 3)),
        ({"JAX_LOCAL_DEVICE_IDS": "3"}, None),
        ({"JAX_PLATFORMS": "cpu"}, None),
    ],
)
def test_gpus_of_a_slurm_task(change, devices):
    assert find(SLURM | EIGHT | change).local_device_ids == devices


@pytest.mark.parametrize(
    "options, environ, words",
    [
        (("a:1", None, None), {}, "--num-processes and --process-id must be given.*BERT_JAX_NUM_PROCESSES and BERT_JAX_PROCESS_ID"),
        ((None, 2, 0), {}, "--coordinator must be given"),
        (("a", 2, 0), {}, "--coordinator=a is not HOST:PORT"),
        (("a:1", 2, 2), {}, "--process-id=2 does not fit --num-processes=2"),
        (("a:1", 0, 0), {}, "--num-processes=0"),
        ((), {"BERT_JAX_NUM_PROCESSES": "two"}, "BERT_JAX_NUM_PROCESSES='two'"),
        ((), SLURM | EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "3(x2)"}, "3 processes share this machine's 8 GPUs"),
        ((), SLURM | EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "many"}, "SLURM_STEP_TASKS_PER_NODE='many'"),
    ],
)
def test_refused(options, environ, words):
    with pytest.raises(ConfigError, match=words):
        find(ALONE | environ, *options)


def test_tasks_per_node():
    assert tasks_per_node("4(x2),3") == [4, 4, 3]
