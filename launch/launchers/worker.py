"""What is done on a machine of a pod: bert_jax installed, the store fetched, the bucket mounted, the command run.

Every script takes its values as arguments, so that none is ever pasted into it. On a worker all lies in `~/bert-jax`, where the payload runs, so its paths are relative:
`venv/`, `store/` (the token store), `bucket/` (the mounted bucket, for the workdir) and `mount` (how to mount it again), `run.log`, `lock` and `pid` of the process.
"""

import dataclasses
import re
import shlex
from pathlib import Path

from launch.launchers.steps import check_name, check_words

BUCKET = r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[A-Za-z0-9._=-]+)*/?"
ARCHIVE = r"[A-Za-z0-9][A-Za-z0-9._+-]*\.(whl|tar\.gz|zip)"

# After `pid` was started in the background and a trap passes signals on to it: leaves its exit status in `status`, which an interrupted wait does not have.
WAIT = """\
while :; do
  wait "$pid"; status=$?
  kill -0 "$pid" 2> /dev/null || break
done
wait "$pid" 2> /dev/null; last=$?
[ "$last" = 127 ] || status=$last
"""

SETUP = """\
set -euo pipefail
requirement=$1 archive=$2 store=$3 bucket=$4 prefix=$5 python=$6
mkdir -p "$HOME/bert-jax"
cd "$HOME/bert-jax"
if [ -n "$archive" ]; then requirement="bert-jax[tpu] @ file://$HOME/$archive"; fi
python3 -m pip install --quiet --user uv
[ -x venv/bin/python ] || python3 -m uv venv --quiet --python "$python" venv
python3 -m uv pip install --quiet --python venv/bin/python --reinstall-package bert-jax "$requirement"
venv/bin/bert-jax --help > /dev/null
if [ -n "$store" ]; then
  mkdir -p store
  gcloud storage rsync --recursive "$store" store
fi
if [ -n "$bucket" ]; then
  if ! command -v gcsfuse > /dev/null; then
    curl --fail --silent --show-error --location https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc > /dev/null
    echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main" \\
      | sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
    sudo apt-get -o DPkg::Lock::Timeout=600 --quiet update
    sudo apt-get -o DPkg::Lock::Timeout=600 --quiet --yes install gcsfuse
  fi
  mkdir -p bucket
  flags=(--implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0)  # all workers see at once what one has written
  if [ -n "$prefix" ]; then flags+=(--only-dir "$prefix"); fi
  printf "%s\\n" "${flags[@]}" "$bucket" > mount.new
  if mountpoint --quiet bucket && ! cmp --silent mount.new mount; then fusermount -u bucket; fi  # another one than now
  mv mount.new mount
  mountpoint --quiet bucket || gcsfuse "${flags[@]}" "$bucket" bucket
fi
echo "$(hostname): ready"
"""

# A connection that breaks leaves the process running; the next run asks it to save and stop, and waits for it. A machine that was started anew has lost its mounts:
# without the bucket its workdir would be an empty one on its own disk.
RUN = """\
set -u
cd "$HOME/bert-jax" || exit 1
if [ -f mount ] && ! mountpoint --quiet bucket; then
  mapfile -t flags < mount
  gcsfuse "${flags[@]}" bucket || { echo "$(hostname): the bucket could not be mounted" >&2; exit 69; }  # as where a process does not come: worth another try
fi
case " $* " in
  *" --workdir"?bucket/*) mountpoint --quiet bucket || { echo "$(hostname): no bucket is mounted as ~/bert-jax/bucket; repeat setup with --mount" >&2; exit 1; } ;;
esac
exec 9>> lock
if ! flock --nonblock 9; then
  echo "$(hostname): an earlier run is alive here; asking it to save and stop" >&2
  kill -TERM "$(cat pid)" 2> /dev/null
  flock --timeout 600 9 || { echo "$(hostname): it did not stop in 600 s" >&2; exit 1; }
fi
touch run.log
seen=$(wc -c < run.log)
setsid venv/bin/bert-jax "$@" >> run.log 2>&1 < /dev/null &
pid=$!
echo "$pid" > pid
trap "kill -TERM $pid" TERM INT HUP
tail --bytes "+$((seen + 1))" --follow --pid="$pid" run.log 9>&- &
follower=$!
""" + WAIT + """\
wait "$follower"
exit "$status"
"""

STOP = """\
cd "$HOME/bert-jax" 2> /dev/null || exit 0
if [ -f pid ] && ! flock --nonblock lock true; then kill -TERM "$(cat pid)"; fi
"""


@dataclasses.dataclass(frozen=True)
class Package:
    """How a worker gets bert_jax: `requirement` for pip, or `archive`, a local wheel or source archive to be copied to it."""

    requirement: str
    archive: Path | None


def read_package(text: str, extra: str) -> Package:
    """`text` is a git URL (git+https://...), the URL of a wheel or source archive, a local one, or a released version such as bert-jax==0.1.0.

    `extra` is the optional dependency for the accelerator: tpu or gpu.
    """
    check_words([text])
    if re.fullmatch(r"bert-jax(==[A-Za-z0-9.!+-]+)?", text):
        return Package(text.replace("bert-jax", f"bert-jax[{extra}]", 1), None)
    if re.match(r"(git\+(https|ssh)|https)://", text) and not re.search(r"[\s;]", text):
        return Package(f"bert-jax[{extra}] @ {text}", None)
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"package {text!r} is neither git+https://HOST/REPOSITORY@REVISION, an https:// address of a wheel, bert-jax==VERSION, nor a file that exists")
    check_name("the package file", path.name, ARCHIVE, "bert_jax-0.1.0-py3-none-any.whl or a .tar.gz of the source")
    return Package("", path.resolve())


def read_bucket(what: str, text: str) -> tuple[str, str]:
    """gs://BUCKET/PREFIX as (BUCKET, PREFIX)."""
    check_name(what, text, BUCKET, "gs://my-bucket/runs")
    bucket, _, prefix = text.removeprefix("gs://").partition("/")
    return bucket, prefix.strip("/")


def remote_command(script: str, *arguments: str) -> str:
    """One line for a remote login shell that runs the script with exactly these arguments."""
    check_words(arguments)
    return shlex.join(["bash", "-c", script, "bert-jax", *arguments])


def check_shared_workdir(payload: list[str], bucket: bool = True) -> None:
    """ValueError for a workdir that would be on one machine's own disk, which the others do not see and which goes with the machine. bucket: one is mounted as bucket/."""
    for word, following in zip(payload, [*payload[1:], ""]):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if name == "--workdir" and not value.startswith(("bucket/", "/") if bucket else "/"):
            wanted = "write --workdir=bucket/NAME (see --mount), or" if bucket else "no bucket is mounted as bucket/: give"
            raise ValueError(f"--workdir={value} would lie on each machine's own disk; {wanted} an absolute path that all machines share")
