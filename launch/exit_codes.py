"""Exit statuses of `bert-jax pretrain`: what each means, and whether the same command is worth another try. Imports nothing of ours, so that launchers are quick.

"again" is a supervisor's question: true, the same command goes on from the last durable checkpoint; false, a person has to mend something first.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ExitCode:
    status: int
    name: str  # in WORKDIR/exit_reason.json
    again: bool
    meaning: str


FINISHED = ExitCode(0, "finished", False, "the run is at its last step")
ERROR = ExitCode(1, "error", False, "an error, told in one line")
USAGE = ExitCode(2, "usage", False, "an option that is not known or lacks its value")
DAMAGED = ExitCode(65, "damaged", False, "no usable checkpoint is left in a workdir that had some")
MISSING_PEER = ExitCode(69, "missing_peer", True, "not all processes came")
HUNG = ExitCode(70, "hung", True, "a step, a batch, an evaluation or a save did not end; the stacks are in WORKDIR/stacks-RANK.txt")
PEER_DIED = ExitCode(71, "peer_died", True, "another process is gone, or the connection to it")
NO_SPACE = ExitCode(73, "no_space", False, "the disk, or the quota, is full")
STORAGE = ExitCode(74, "storage", False, "checkpoints could not be written, several times in a row")
STOPPED = ExitCode(75, "stopped", True, "stopped by a signal, and no work is lost")
DIVERGED = ExitCode(76, "diverged", False, "the loss or the gradients are not finite")
CUT_SHORT = ExitCode(79, "cut_short", True, "stopped by a signal, and the grace time ended before the state was saved; the steps since the last checkpoint are done again")
INTERRUPTED = ExitCode(130, "interrupted", False, "Ctrl-C twice")
ABORTED = ExitCode(134, "aborted", True, "SIGABRT: JAX ends a process so when the one that coordinates is gone")
KILLED = ExitCode(137, "killed", True, "SIGKILL: by the machine's end, or for want of memory")
TERMINATED = ExitCode(143, "terminated", True, "SIGTERM, before the command had begun")

TABLE = (
    FINISHED, ERROR, USAGE, DAMAGED, MISSING_PEER, HUNG, PEER_DIED, NO_SPACE, STORAGE, STOPPED, DIVERGED, CUT_SHORT, INTERRUPTED, ABORTED, KILLED, TERMINATED,
)
BY_STATUS = {code.status: code for code in TABLE}
# Tried again by launchers that cannot tell why a process was killed: what a run says itself.
AGAIN = tuple(code.status for code in TABLE if code.again and code.status < 128)
# Never tried again.
MEND = tuple(code.status for code in TABLE if not code.again and code is not FINISHED)
