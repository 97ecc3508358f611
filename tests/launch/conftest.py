"""One small run, made by the commands a user types, shared by the tests of the command line."""

import pydoc_data.topics
import types
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from launch.cli import main

# A model small enough that compiling it is all the time it takes.
SMALL = [
    "--config=configs/quickstart.py", "--config.steps=12", "--config.batch_size=8", "--config.length=32", "--config.masking.rate=0.15", "--config.masking.predictions=6",
    "--config.model.hidden_size=32", "--config.model.num_heads=2", "--config.model.intermediate_size=64", "--config.model.max_positions=64",
    "--config.log_every=2", "--config.eval.every=6", "--config.eval.sequences=16", "--config.eval.batch_size=8", "--config.checkpoint.every=4",
]


def run(*arguments: str) -> None:
    assert main(list(arguments)) == 0


@pytest.fixture(scope="module")
def quick_compilation(tmp_path_factory):
    """For runs whose compilation is all the time they take: without most optimisations, and what several of them compile only once."""
    settings = {  # name: (here, before and after)
        "jax_disable_most_optimizations": (True, False),
        "jax_compilation_cache_dir": (str(tmp_path_factory.mktemp("compiled")), jax.config.jax_compilation_cache_dir),
        "jax_persistent_cache_min_compile_time_secs": (0.0, jax.config.jax_persistent_cache_min_compile_time_secs),
    }
    for when in (0, 1):
        for name, values in settings.items():
            jax.config.update(name, values[when])
        compilation_cache.reset_cache()
        if when == 0:
            yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Python's help topics: real English, a document a topic."""
    path = tmp_path_factory.mktemp("corpus") / "topics.txt"
    paragraphs = (" ".join(text.split()) for text in pydoc_data.topics.topics.values())
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def prepared(corpus, tmp_path_factory):
    """A tokenizer and a token store, by the command line."""
    root = tmp_path_factory.mktemp("prepared")
    run("tokenizer", f"--input={corpus}", "--vocab-size=1000", f"--output={root / 'tokenizer'}")
    run("prepare", f"--input={corpus}", f"--tokenizer={root / 'tokenizer'}", f"--output={root / 'store'}", "--workers=1", "--holdout=0.2")
    return types.SimpleNamespace(tokenizer=root / "tokenizer", store=root / "store")


@pytest.fixture(scope="session")
def byte_bpe_store(corpus, tmp_path_factory) -> Path:
    """A token store of the same text with a byte-level BPE tokenizer of 700 entries."""
    root = tmp_path_factory.mktemp("byte_bpe")
    run("tokenizer", f"--input={corpus}", "--kind=byte_bpe", "--vocab-size=700", f"--output={root / 'tokenizer'}")
    run("prepare", f"--input={corpus}", f"--tokenizer={root / 'tokenizer'}", f"--output={root / 'store'}", "--workers=1", "--holdout=0.2")
    return root / "store"


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory) -> Path:
    """The workdir of a finished run of 12 steps."""
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    run("pretrain", *SMALL, f"--workdir={workdir}", f"--config.data.path={prepared.store}")
    return workdir
