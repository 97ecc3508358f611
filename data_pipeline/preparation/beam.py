"""`prepare` on Apache Beam: Dataflow, Flink, Spark, or this process (DirectRunner). See docs/scale.md.

Enters: a job and its groups. Leaves: the token store that a local run writes, byte for byte. Beam is a door here: it hands out groups and
adds up tallies, and everything else is `groups.py`. The text itself is never shuffled; exact duplicates are found by sending every
document's hash and place to one spot and the places of all copies but the first back to the groups that hold them.
"""

import contextlib
import copy
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from data_pipeline.preparation.groups import Job, Tally, hash_group, load_tokenizer, whole_group
from data_pipeline.sources.corpus import Corpus, CorpusError, Source
from data_pipeline.stores.store import StoreError

if TYPE_CHECKING:
    import apache_beam

# They ask a job server, which knows more flags than Beam's Python.
_WITH_JOB_SERVER = {"PortableRunner", "FlinkRunner", "SparkRunner", "PrismRunner"}
_LOG_LEVEL = "--default_sdk_harness_log_level"
_REMARK = re.compile(r" \[while running '[^']*'\]")
_one_at_a_time = threading.Lock()


def new_pipeline(runner: str, flags: Sequence[str]) -> "apache_beam.Pipeline":
    """An empty pipeline. Raises ImportError without apache-beam, ValueError for a runner or a flag that Beam does not know."""
    try:
        with _without_import_warnings():
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ImportError(f"--runner={runner} needs Apache Beam: pip install 'bert-jax[beam]' (or --runner=local)") from None
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    if runner == "DirectRunner" and not any(flag.startswith(_LOG_LEVEL) for flag in flags):
        flags = [*flags, f"{_LOG_LEVEL}=ERROR"]  # its worker processes write to this terminal
    options = PipelineOptions([f"--runner={runner}", *flags])
    for before, flag in zip(["", *flags], flags):
        if not flag.startswith("-") and not (before.startswith("--") and "=" not in before):
            raise ValueError(f"--runner-flag={flag} is no flag: write --runner-flag=--NAME=VALUE")
    if runner not in _WITH_JOB_SERVER:
        unknown = sorted(options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys())
        if unknown:
            raise ValueError(
                f"--runner-flag=--{unknown[0]} is no flag of Beam {beam.__version__}; check its spelling "
                "(beam.apache.org/releases/pydoc, apache_beam.options.pipeline_options)"
            )
    with _without_import_warnings():
        return beam.Pipeline(options=options)


@contextlib.contextmanager
def _without_import_warnings() -> Iterator[None]:
    """Without Beam's word on stderr, by way of the root logger, about packages of Google's cloud that are not installed."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return "apitools" not in record.getMessage()

    logging.getLogger().addFilter(is_wanted)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_wanted)


def run(
    pipeline: "apache_beam.Pipeline", job: Job, groups: Sequence[Sequence[Source]], deduplicate: bool, finish: Callable[[Job, Tally], Any]
) -> None:
    """Fills the pipeline, runs it and waits for it. Its last step, on one worker, is `finish(job, tally)`, a function of a module.

    Raises CorpusError and StoreError as a local run does where the runner hands them back, and else what the runner raises, often
    RuntimeError.
    """
    import apache_beam as beam

    corpus = copy.copy(job.corpus)
    corpus.sources = []  # the groups carry them
    job = Job(corpus, job.tokenizer_hash, job.shard_size, job.settings)
    numbered = pipeline | "groups" >> beam.Create([(number, list(group)) for number, group in enumerate(groups)])
    work = {"sources": numbered}
    if deduplicate:
        work["duplicates"] = (
            numbered
            | "spread to hash" >> beam.Reshuffle()
            | "hash" >> beam.FlatMap(_hash_group, corpus)
            | "same hash" >> beam.GroupByKey()
            | "later copies" >> beam.FlatMap(_later_copies)
        )
    tallies = work | "by group" >> beam.CoGroupByKey() | "write" >> beam.Map(_write_group, job)
    tallies | "add up" >> beam.CombineGlobally(_add_up) | "finish" >> beam.Map(_finish, job, finish)
    try:
        pipeline.run().wait_until_finish()
    except (CorpusError, StoreError, RuntimeError) as error:
        raise type(error)(_REMARK.sub("", str(error))) from None


def _hash_group(group: tuple[int, list[Source]], corpus: Corpus) -> Iterator[tuple[bytes, tuple[int, int]]]:
    return hash_group(corpus, *group)


def _later_copies(copies: tuple[bytes, Iterable[tuple[int, int]]]) -> Iterator[tuple[int, int]]:
    first = None
    for place in copies[1]:  # in any order, and perhaps more than fit in memory
        if first is None:
            first = place
        else:
            yield max(first, place)
            first = min(first, place)


def _write_group(element: tuple[int, dict], job: Job) -> Tally:
    number, parts = element
    (sources,) = parts["sources"]
    # A Beam worker runs many threads in a process. One group at a time bounds its memory, and the tokenizer's cache is for one thread.
    with _one_at_a_time:
        return whole_group(number, sources, frozenset(parts.get("duplicates", ())), job, load_tokenizer(job))


def _add_up(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _finish(tally: Tally, job: Job, finish: Callable[[Job, Tally], Any]) -> int:
    finish(job, tally)
    return len(tally.records)
