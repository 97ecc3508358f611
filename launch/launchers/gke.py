"""TPU slices on Google Kubernetes Engine: a JobSet for kubectl, or the command line of xpk, which makes one.

One pod per machine of the slice; GKE tells JAX its place. Exit statuses that need mending (`exit_codes.MEND`: errors, bad usage, a full disk) fail the JobSet at once; anything
else, such as 75, a killed or an evicted pod, recreates all pods, `restarts` times at most.
"""

import base64
import dataclasses
import math
import re

from bert_jax.plan.chips import CHIPS
from bert_jax.plan.topology import Slice
from launch.exit_codes import AGAIN, MEND
from launch.launchers import worker
from launch.launchers.steps import Command, Step, check_name, check_words, quote

ACCELERATORS = {
    "v3": "tpu-v3-slice", "v4": "tpu-v4-podslice", "v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice",
}
NAME = r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?"  # pods are NAME-worker-SLICE-HOST-xxxxx, 63 characters at most
DIRECTORY = "/bert-jax"
GRACE = 300  # seconds to save in
TRAIN = """\
set -eu
requirement=$1
shift
if [ -n "$requirement" ]; then python3 -m pip install --quiet "$requirement"; fi
exec bert-jax "$@"
"""


@dataclasses.dataclass(frozen=True)
class Workload:
    """A JobSet's name, slices and their set-up. `topology` in chips: "2x2x4" for v4-32."""

    name: str
    generation: str
    topology: str
    image: str
    slices: int = 1
    spot: bool = False
    restarts: int = 20
    package: str | None = None
    store: str | None = None
    mount: str | None = None
    service_account: str | None = None
    fetch_image: str = "gcr.io/google.com/cloudsdktool/google-cloud-cli:slim"

    def __post_init__(self):
        check_name("the name", self.name, NAME, "bert-large")
        check_name("--topology", self.topology, r"[0-9]+x[0-9]+(x[0-9]+)?", "2x2x4")
        for image in (self.image, self.fetch_image):
            check_name("the image", image, r"[a-z0-9][A-Za-z0-9._/:@-]*", "us-docker.pkg.dev/cloud-tpu-images/jax-ai-image/tpu:latest")
        if self.service_account is not None:
            check_name("--service-account", self.service_account, r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "trainer")
        if self.slices < 1 or self.restarts < 0:
            raise ValueError(f"give at least one slice and no negative number of restarts, not {self.slices} and {self.restarts}")
        per_host = CHIPS[self.generation].host_chips
        if self.chips > 1 and self.chips % per_host:
            raise ValueError(f"--topology={self.topology} has {self.chips} chips, which is no multiple of {per_host}, a machine's")

    @property
    def chips(self) -> int:
        """Of one slice."""
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        """Machines of one slice: of four chips, but for v5e and v6e also of eight or one, if that is the whole slice."""
        return Slice(CHIPS[self.generation], self.shape).hosts

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self.topology.split("x"))


def requirement_of(package: str | None) -> str:
    """For pip, empty where the image has bert_jax."""
    if package is None:
        return ""
    read = worker.read_package(package, "tpu")
    if read.archive:
        raise ValueError(f"package {package}: pods cannot see this machine's files; give a git URL or an https:// address, or build an image with bert_jax in it")
    return read.requirement


def container_words(words: list[str]) -> list[str]:
    """An argument list as Kubernetes reads it: it expands $(NAME), takes $$ for $, and garbles a letter outside of ASCII that follows a lone $."""
    return [re.sub(r"\$(?=[$(]|[^\0-\x7f])", "$$", word) for word in words]


def job_set(workload: Workload, payload: list[str]) -> dict:
    """The JobSet (jobset.x-k8s.io/v1alpha2) as nested plain values."""
    check_words(payload)
    worker.check_shared_workdir(payload, bucket=workload.mount is not None)
    mounts, volumes, fetch = [], [], []
    if workload.store is not None:
        worker.read_bucket("--store", workload.store)
        mounts.append({"name": "store", "mountPath": f"{DIRECTORY}/store"})
        volumes.append({"name": "store", "emptyDir": {}})
        fetch = [{
            "name": "fetch", "image": workload.fetch_image, "volumeMounts": mounts[:1],
            "command": ["gcloud", "storage", "rsync", "--recursive", workload.store, f"{DIRECTORY}/store"],
        }]
    if workload.mount is not None:
        bucket, prefix = worker.read_bucket("--mount", workload.mount)
        options = "implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0"  # all pods see at once what one has written
        options += f",only-dir={prefix}" if prefix else ""
        mounts.append({"name": "bucket", "mountPath": f"{DIRECTORY}/bucket"})
        volumes.append({"name": "bucket", "csi": {
            "driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": {"bucketName": bucket, "mountOptions": options},
        }})
    hosts = workload.hosts
    selector = {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v3-device" if workload.generation == "v3" and hosts == 1 else ACCELERATORS[workload.generation],
        "cloud.google.com/gke-tpu-topology": workload.topology,
    } | ({"cloud.google.com/gke-spot": "true"} if workload.spot else {})
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "nodeSelector": selector,
        **({"serviceAccountName": workload.service_account} if workload.service_account else {}),
        **({"initContainers": fetch} if fetch else {}),
        "containers": [{
            "name": "train", "image": workload.image, "workingDir": DIRECTORY,
            "command": container_words(["bash", "-c", TRAIN, "bert-jax", requirement_of(workload.package), *payload]),
            "env": [{"name": "PYTHONUNBUFFERED", "value": "1"}, {"name": "BERT_JAX_GRACE", "value": str(GRACE)}],
            "resources": {"requests": {"google.com/tpu": workload.chips // hosts}, "limits": {"google.com/tpu": workload.chips // hosts}},
            **({"volumeMounts": mounts} if mounts else {}),
        }],
        **({"volumes": volumes} if volumes else {}),
    }
    errors = {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": list(MEND)}}
    job = {
        "parallelism": hosts, "completions": hosts, "completionMode": "Indexed", "backoffLimit": 0, "podFailurePolicy": {"rules": [errors]},
        "template": {**({"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}} if workload.mount else {}), "spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": workload.name, "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}},
        "spec": {
            "failurePolicy": {
                "maxRestarts": workload.restarts,
                "rules": [{"name": "error", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "worker", "replicas": workload.slices, "template": {"spec": job}}],
        },
    }


def to_yaml(value: dict) -> str:
    """Without anchors, and with scripts as blocks of lines."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, represent)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=1000)


def apply(workload: Workload, payload: list[str], context: str | None, namespace: str | None) -> list[Step]:
    for option, value in (("--context", context), ("--namespace", namespace)):
        if value is not None:
            check_name(option, value, r"[A-Za-z0-9][A-Za-z0-9_.:@/-]*", "my-cluster")
    where = [f"--{option}={value}" for option, value in (("context", context), ("namespace", namespace)) if value]
    purpose = "start it on " + (f"the cluster of the context {context}" if context else "the cluster of kubectl's current context")
    return [Command(purpose, ("kubectl", *where, "apply", "--filename=-"), stdin=to_yaml(job_set(workload, payload)))]


def xpk_command(
    name: str, cluster: str, tpu_type: str, image: str, payload: list[str], *, slices: int, restarts: int, package: str | None, spot: bool
) -> list[Step]:
    """`xpk workload create`. xpk pastes its --command into YAML and a shell, so the script goes through base64. That shell hands SIGTERM to what it starts alone, hence exec."""
    check_words(payload)
    worker.check_shared_workdir(payload, bucket=False)
    check_name("the name", name, NAME, "bert-large")
    check_name("--cluster", cluster, NAME, "my-cluster")
    check_name("--tpu-type", tpu_type, r"v[0-9][a-z0-9]*-[0-9]+", "v4-32")
    check_name("--image", image, r"[a-z0-9][A-Za-z0-9._/:@-]*", "gcr.io/my-project/bert-jax:1")
    line = "exec " + worker.remote_command(TRAIN, requirement_of(package), *payload)
    encoded = base64.b64encode(line.encode()).decode()
    argv = (
        "xpk", "workload", "create", f"--workload={name}", f"--cluster={cluster}", f"--tpu-type={tpu_type}", f"--num-slices={slices}",
        f"--docker-image={image}", f"--max-restarts={restarts}", f"--restart-on-exit-codes={','.join(map(str, AGAIN))}", f"--termination-grace-period-seconds={GRACE}",
        *(("--spot",) if spot else ()), f"--command=echo {encoded} | base64 -d > /tmp/bert_jax.sh && exec bash /tmp/bert_jax.sh",
    )
    shown = " ".join(map(quote, payload)).replace("\n", "\\n")
    return [Command(f"start it with xpk; in base64: bert-jax {shown}", argv)]
