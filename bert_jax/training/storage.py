"""Storage that fails for a moment: what is tried again, how often, and what is said meanwhile."""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

PAUSES = (1.0, 4.0, 10.0)  # seconds before the second, third and fourth try
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)  # which do not pass by waiting
Value = TypeVar("Value")
log = logging.getLogger("bert_jax")


def patiently(what: str, function: Callable[[], Value]) -> Value:
    """The value of `function`, which is tried again after an error of the storage, with a warning each time. The last error is raised as it is."""
    for pause in PAUSES:
        try:
            return function()
        except OSError as error:
            if error.errno in LASTING:
                raise
            log.warning("%s failed (%s); trying again in %g s", what, error, pause)
            time.sleep(pause)
    return function()
