"""Worker processes of `prepare`. Enters: numbered lists of documents. Leaves: the units' records, in the order in which they finish.

Each worker holds one pipe to the parent and at most one unit, so memory is bounded by the number of workers; a worker whose parent was
killed reads the end of its pipe and exits.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

from data_pipeline import tokenizers
from data_pipeline.units import UnitSettings, write_unit


class WorkerPool:
    """Runs `write_unit` in up to `count` processes, started as they are needed; count 1 means in this process.

    Raises what the worker raised if that was an OSError (a full disk), else RuntimeError with its text; ChildProcessError if it died.
    """

    def __init__(self, count: int, tokenizer_dir: Path, settings: UnitSettings):
        self._count = count
        self._arguments = (tokenizer_dir, settings)
        self._processes: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self._idle: list[Connection] = []
        self._tokenizer: tokenizers.Tokenizer | None = None

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *error: object) -> None:
        for connection in self._processes:
            connection.close()
        for process in self._processes.values():
            process.join(timeout=None if error[0] is None else 0.1)
            if process.is_alive():
                process.terminate()
                process.join()

    def submit(self, number: int, documents: list[str]) -> Iterator[tuple[int, dict]]:
        """Hands a unit to an idle worker; yields (number, record) of units that had to be waited for. Exhaust the iterator."""
        if self._count == 1:
            if self._tokenizer is None:
                self._tokenizer = tokenizers.load(self._arguments[0])
            yield number, write_unit(number, documents, self._tokenizer, self._arguments[1])
            return
        if not self._idle and len(self._processes) < self._count:
            self._idle.append(self._start())
        while not self._idle:
            yield from self._receive()
        connection = self._idle.pop()
        try:
            connection.send((number, documents))
        except BrokenPipeError:
            self._died(connection)

    def drain(self) -> Iterator[tuple[int, dict]]:
        """Yields what is still to come."""
        while len(self._idle) < len(self._processes):
            yield from self._receive()

    def _start(self) -> Connection:
        # Not fork: the parent may hold threads (TensorFlow, JAX), and a forked child would also inherit the other workers' pipes.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, *self._arguments), daemon=True)
        process.start()
        there.close()
        self._processes[here] = process
        return here

    def _receive(self) -> Iterator[tuple[int, dict]]:
        for connection in wait([connection for connection in self._processes if connection not in self._idle]):
            try:
                number, result = connection.recv()
            except (EOFError, ConnectionResetError):
                self._died(connection)
            if isinstance(result, Exception):
                raise result
            self._idle.append(connection)
            yield number, result

    def _died(self, connection: Connection) -> None:
        process = self._processes[connection]
        process.join()
        raise ChildProcessError(
            f"a worker process of prepare died (exit code {process.exitcode}; -9 often means too little memory): "
            "run the same command again to continue, with fewer --workers if need be"
        )


def _work(connection: Connection, tokenizer_dir: Path, settings: UnitSettings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent's end closes the pipe
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = tokenizers.load(tokenizer_dir)
    while True:
        try:
            number, documents = connection.recv()
        except EOFError:
            return
        try:
            result = write_unit(number, documents, tokenizer, settings)
        except OSError as error:
            result = OSError(error.errno, error.strerror)
        except Exception as error:
            result = RuntimeError(f"shard {number} failed: {type(error).__name__}: {error}")
        del documents
        try:
            connection.send((number, result))
        except BrokenPipeError:
            return
