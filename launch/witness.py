"""`python witness.py PID FILE`: waits for a process to end, and says so in its exit_reason.json if it could not: it was killed, or JAX aborted it.

A program of its own, of the standard library alone, so that nothing of the run ends with it and it costs next to nothing. Linux only; elsewhere the file goes on saying `running`.
"""

import json
import os
import select
import sys

GONE = "gone"
MESSAGE = (
    "the process ended without a chance to say why: killed (status 137: by the machine, by hand, for want of memory), crashed, or aborted by JAX "
    "because the process that coordinates was gone or out of reach (134)"
)


def main(pid: int, path: str) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:  # it was quicker
        pass
    else:
        select.select([process], [], [])
    with open(path) as file:
        reason = json.load(file)
    if reason["pid"] != pid or reason["name"] != "running":  # it has said why, or another has taken its place
        return
    temporary = f"{path}.{pid}.tmp"
    with open(temporary, "w") as file:
        file.write(json.dumps(reason | {"name": GONE, "message": MESSAGE}, indent=2) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
