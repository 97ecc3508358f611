"""Seeds that are trained at the same time are the seeds that they are one after the other."""

import json
import os
import subprocess
import sys
import threading
import time
import types

import pytest

from bert_jax.sharding import make_mesh
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.stop import StopRequest
from bert_jax.training.watch import PATIENCE, Watch
from launch.config import ConfigError
from launch.finetune import at_once
from launch.finetune.seeds import summary
from tests.launch.finetune.test_finetune import SMALL, data_of


def test_on_parts_of_eight_devices_seeds_have_the_bits_that_they_have_alone(trained, tmp_path):
    """In a process of its own, since the number of devices is fixed when jax starts: seeds 0 and 2 at once on parts 0 and 1, then 2 by itself on part 0."""
    arguments = ["finetune", *SMALL, *data_of("classification", tmp_path), f"--init={trained}", "--config.mesh.seeds=8"]
    runs = [[*arguments, f"--workdir={tmp_path / name}", f"--config.seeds={seeds}"] for name, seeds in (("together", "0,2"), ("alone", "2"))]
    program = "import json, sys; from launch.cli import main; sys.exit(max(map(main, json.loads(sys.argv[1]))))"
    environment = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    ended = subprocess.run([sys.executable, "-c", program, json.dumps(runs)], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    digests = {(name, seed): Checkpoints(tmp_path / name / "seeds" / seed / "checkpoints").record(4)["digests"] for name, seed in (("together", "0"), ("together", "2"), ("alone", "2"))}
    assert digests["together", "2"] == digests["alone", "2"] != digests["together", "0"]
    assert [record["eval"] for record in summary(tmp_path / "together")["seeds"]][1] == summary(tmp_path / "alone")["seeds"][0]["eval"]


def oversight():
    return types.SimpleNamespace(watch=Watch(), stop=StopRequest(), holds=lambda last_durable: None)


JOBS = [types.SimpleNamespace(mesh=make_mesh(), number=number) for number in range(3)]


def test_every_seed_has_its_part_and_parts_go_on_side_by_side():
    met, ran = threading.Barrier(3, timeout=20), []

    def run_seed(job, seed, mine):
        if seed < 3:
            met.wait()  # broken unless three are here at once
        ran.append((job.number, seed))
        return True

    assert at_once.at_once(run_seed, JOBS, range(7), oversight())
    assert sorted(ran) == sorted((seed % 3, seed) for seed in range(7))


def test_an_error_of_one_stops_the_others_and_is_raised():
    saved = []

    def run_seed(job, seed, mine):
        if seed == 1:
            raise KeyError("the error of one")
        while not mine.stop.due():
            time.sleep(0.01)
        saved.append(seed)
        return False

    with pytest.raises(KeyError, match="the error of one"):
        at_once.at_once(run_seed, JOBS, range(3), oversight())
    assert sorted(saved) == [0, 2]


def test_a_signal_reaches_all_of_them():
    above = oversight()

    def run_seed(job, seed, mine):
        mine.watch.unsaved = True
        while not mine.stop.due():
            above.stop.signal = "SIGTERM" if above.watch.unsaved else None  # so the thread that looks after signals has seen that there is something to save
            time.sleep(0.01)
        return False

    assert not at_once.at_once(run_seed, JOBS, range(6), above)
    assert not above.watch.unsaved


def test_what_hangs_is_not_hidden_by_what_goes_on():
    hanging, compiling, busy, above = (Watch() for _ in range(4))
    for watch, slow, ago in ((hanging, False, 100), (compiling, True, 300), (busy, False, 0)):
        watch.begins(f"{ago} s", slow=slow)
        watch._now = (watch.doing, time.monotonic() - ago, slow)
    above.follows([busy, compiling, hanging])
    assert above.doing == "100 s" and above.overdue(99) and not above.overdue(150)
    above.follows([busy, compiling])
    assert above.doing == "300 s" and not above.overdue(300 / PATIENCE + 1)


def test_parts_must_be_equal():
    with pytest.raises(ConfigError, match="mesh.seeds is 2, and 1 devices do not divide .* use one of 1"):
        at_once.parts_of_devices(2)
