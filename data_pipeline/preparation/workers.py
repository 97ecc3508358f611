"""`prepare` on the processes of one machine. Enters: a job and its groups. Leaves: shards in the output, and the tally of them.

Each worker holds one pipe to the parent and at most one unit, so memory is bounded by the number of workers; the parent holds a chunk of
text. A worker whose parent was killed reads the end of its pipe and exits.
"""

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait

from tqdm import tqdm

from data_pipeline.preparation.groups import Job, Tally, cut, load_tokenizer, one_unit, whole_group
from data_pipeline.preparation.output import LocalOutput
from data_pipeline.preparation.units import joined, parted
from data_pipeline.sources.corpus import CorpusError, Source
from data_pipeline.sources.duplicates import Seen
from data_pipeline.stores.store import StoreError

# From so many groups per worker on, workers read for themselves; with fewer, some would idle at the end.
GROUPS_PER_WORKER = 4


def run_local(job: Job, groups: Sequence[Sequence[Source]], deduplicate: bool, workers: int, progress: bool) -> Tally:
    """Few groups, or duplicates to find: this process reads, and hands out units. Many: workers take whole groups, and reading scales."""
    tally = Tally()
    size = sum(source.size for group in groups for source in group)
    by_group = not deduplicate and len(groups) >= GROUPS_PER_WORKER * workers > GROUPS_PER_WORKER
    bar = tqdm(total=size, unit="B", unit_scale=True, desc="prepare", disable=None if progress else True)
    with bar, WorkerPool(workers, job) as pool:
        for finished in _by_group(pool, groups) if by_group else _by_unit(pool, job, groups, deduplicate, tally.read):
            tally.add(finished)
            bar.update(tally.read["bytes"] - bar.n)
        for finished in pool.drain():
            tally.add(finished)
            bar.update(tally.read["bytes"] - bar.n)
    return tally


def _by_group(pool: "WorkerPool", groups: Sequence[Sequence[Source]]) -> Iterator[Tally]:
    for number, group in enumerate(groups):
        yield from pool.submit(whole_group, number, group, ())


def _by_unit(pool: "WorkerPool", job: Job, groups: Sequence[Sequence[Source]], deduplicate: bool, read: Counter) -> Iterator[Tally]:
    # Beside the output there is space; a temporary directory may lie in memory.
    seen = Seen(job.output.directory if isinstance(job.output, LocalOutput) else None) if deduplicate else None
    for number, group in enumerate(groups):
        documents = job.corpus.read(group, read)
        for unit_number, chunks in cut(documents if seen is None else _first_copies(documents, seen, read), job.shard_size):
            yield from pool.submit(one_unit, number, unit_number, chunks=chunks)


def _first_copies(documents: Iterable[str], seen: Seen, counts: Counter) -> Iterator[str]:
    for document in documents:
        if seen.add(document):
            yield document
        else:
            counts["duplicates"] += 1


class WorkerPool:
    """Runs tasks, functions of (..., job, tokenizer), in up to `count` processes, started as they are needed; 1 means in this process.

    Raises what the worker raised if that was an OSError (a full disk), CorpusError or StoreError, else RuntimeError with its text;
    ChildProcessError if it died.
    """

    def __init__(self, count: int, job: Job):
        self._count = count
        self._job = job
        self._processes: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self._idle: list[Connection] = []

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

    def submit(self, task: Callable[..., Tally], *arguments: object, chunks: Iterable[list[str]] | None = None) -> Iterator[Tally]:
        """Hands a task to an idle worker; `chunks` of documents come behind its arguments.

        Yields the tallies of tasks that had to be waited for. Exhaust the iterator.
        """
        if self._count == 1:
            yield task(*arguments, *([] if chunks is None else [chunks]), self._job, load_tokenizer(self._job))
            return
        if not self._idle and len(self._processes) < self._count:
            self._idle.append(self._start())
        while not self._idle:
            yield from self._receive()
        connection = self._idle.pop()
        try:
            connection.send((task, arguments, chunks is not None))
            if chunks is not None:
                for chunk in chunks:
                    connection.send_bytes(joined(chunk))
                connection.send_bytes(b"")
        except (BrokenPipeError, ConnectionResetError):
            self._died(connection)

    def drain(self) -> Iterator[Tally]:
        """Yields what is still to come."""
        while len(self._idle) < len(self._processes):
            yield from self._receive()

    def _start(self) -> Connection:
        # Not fork: the parent may hold threads (TensorFlow, JAX), and a forked child would also inherit the other workers' pipes. The fork
        # server imports once for all, which saves each worker half a second and much of its memory.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self._job), daemon=True)
        process.start()
        there.close()
        self._processes[here] = process
        return here

    def _receive(self) -> Iterator[Tally]:
        for connection in wait([connection for connection in self._processes if connection not in self._idle]):
            try:
                result = connection.recv()
            except (EOFError, ConnectionResetError):
                self._died(connection)
            if isinstance(result, Exception):
                raise result
            self._idle.append(connection)
            yield result

    def _died(self, connection: Connection) -> None:
        process = self._processes[connection]
        process.join()
        raise ChildProcessError(
            f"a worker process of prepare died (exit code {process.exitcode}; -9 often means too little memory): "
            "run the same command again to continue, with fewer --workers if need be"
        )


def _work(connection: Connection, job: Job) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent's end closes the pipe
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = load_tokenizer(job)
    while True:
        try:
            task, arguments, has_chunks = connection.recv()
            if has_chunks:  # taken off the pipe at once, so that the parent can go on reading; as bytes, which are compact
                messages = deque(iter(connection.recv_bytes, b""))
                arguments = *arguments, _chunks(messages)
        except (EOFError, ConnectionResetError):
            return
        try:
            result = task(*arguments, job, tokenizer)
        except OSError as error:
            result = OSError(error.errno, error.strerror or str(error))
        except (CorpusError, StoreError) as error:
            result = type(error)(str(error))
        except Exception as error:
            result = RuntimeError(f"prepare failed: {type(error).__name__}: {error}")
        del arguments
        try:
            connection.send(result)
        except (BrokenPipeError, ConnectionResetError):
            return


def _chunks(messages: deque[bytes]) -> Iterator[list[str]]:
    while messages:
        yield parted(messages.popleft())
