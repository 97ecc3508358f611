"""From a resolved config to the objects of a run: blueprint, optimizer, mesh, batch sources. Used by every command that runs a model."""

import dataclasses
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.model.families import build_spec
from bert_jax.model.spec import Compute
from bert_jax.recorded import RecordedBatches
from bert_jax.sharding import make_mesh, process_rows
from bert_jax.training.objectives import MaskedLm
from bert_jax.training.optim import OptimizerSpec, Schedule, make_optimizer
from bert_jax.training.state import Blueprint, TrainState, abstract_state, make_blueprint
from launch.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config describes, without arrays."""

    blueprint: Blueprint
    objective: MaskedLm
    schedule: Schedule
    tx: Any
    compute: Compute
    mesh: Mesh
    abstract: TrainState


def build_run(config: dict[str, Any]) -> Run:
    if config["model"]["vocab_size"] == 0:
        raise ConfigError("model.vocab_size is 0 (the tokenizer's), and no data was given to take it from: set --config.data.path")
    if config["length"] > config["model"]["max_positions"]:
        raise ConfigError(f"length {config['length']} is over model.max_positions {config['model']['max_positions']}")
    slots, wanted = config["masking"]["predictions"], round(config["masking"]["rate"] * (config["length"] - 3))
    if slots < wanted:
        raise ConfigError(
            f"masking.predictions is {slots}, but rate {config['masking']['rate']} of length {config['length']} are {wanted} predictions; "
            f"set --config.masking.predictions={wanted}"
        )
    blueprint = make_blueprint(build_spec(config["model"]))
    mesh = make_mesh(**config["mesh"])
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if config["accumulate"] < 1 or config["batch_size"] % (config["accumulate"] * shards):
        raise ConfigError(
            f"batch_size {config['batch_size']} does not divide into accumulate = {config['accumulate']} micro-batches over {shards} devices "
            f"(data x fsdp); use a multiple of {max(config['accumulate'], 1) * shards}"
        )
    schedule = Schedule(**config["schedule"])
    tx = make_optimizer(OptimizerSpec(**config["optimizer"] | {"exclude": tuple(config["optimizer"]["exclude"])}), schedule, blueprint.axes)
    return Run(
        blueprint=blueprint,
        objective=MaskedLm(nsp=blueprint.spec.nsp),
        schedule=schedule,
        tx=tx,
        compute=Compute(**config["compute"]),
        mesh=mesh,
        abstract=abstract_state(blueprint, tx, mesh),
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """Where batches come from.

    held_out: whether there is a split for evaluation. fingerprint: of the contents. special: ids of the special tokens and unigram_counts: int64
    [vocab_size], both None for recorded batches.
    """

    path: Path
    recorded: bool
    held_out: bool
    vocab_size: int
    tokenizer_hash: str
    fingerprint: str
    tokenizer_dir: Path | None
    unigram_counts: np.ndarray | None
    special: dict[str, int] | None

    @property
    def baseline_token(self) -> int:
        """The most frequent token of the training split that can be a target."""
        counts = self.unigram_counts.copy()
        counts[list(self.special.values())] = 0
        return int(np.argmax(counts))


def open_data(config: dict[str, Any]) -> Data:
    """Reads what kind of data `data.path` holds; ConfigError or the data's own error names the path and the fix."""
    path = Path(config["data"]["path"])
    if not config["data"]["path"]:
        raise ConfigError("data.path is empty: make a token store with `bert-jax prepare` and set --config.data.path=STORE")
    if RecordedBatches.is_at(path):
        recorded = RecordedBatches(path)
        about = recorded.description
        missing = [name for name in ("vocab_size", "tokenizer_hash", "data", "masking", "seed") if name not in about]
        if missing:
            raise ConfigError(f"the recorded batches in {path} do not say their {', '.join(missing)}; record them with `bert-jax record`")
        check_recorded_settings(config, path, recorded)
        return Data(path, True, False, about["vocab_size"], about["tokenizer_hash"], recorded.fingerprint, recorded.tokenizer_dir, None, None)
    from data_pipeline.store import TokenStore

    store = TokenStore(path, split="train")
    return Data(
        path, False, "eval" in store.manifest["splits"], store.vocab_size, store.manifest["tokenizer"]["hash"], store.fingerprint,
        Path(store.tokenizer_dir), store.unigram_counts, store.special,
    )


def check_recorded_settings(config: dict[str, Any], path: Path, recorded: RecordedBatches) -> None:
    """ConfigError unless the config states what the recording was made with: shapes, masking, sequences and seed."""
    about = recorded.description
    sections = {name: about[name] for name in ("data", "masking")}
    held = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items() if name != "path"}
    held |= {"seed": about["seed"], "batch_size": recorded.batch_size, "length": recorded.length, "masking.predictions": recorded.predictions}
    for field, value in held.items():
        section, _, name = field.rpartition(".")
        asked = config[section][name] if section else config[name]
        if asked != value:
            raise ConfigError(f"{path} was recorded with {field}={value}, but the config has {asked}; set --config.{field}={value} or record again")


def check_same_tokenizer(data: Data, tokenizer_dir: Path) -> None:
    """ConfigError if the data was made with another tokenizer than the one beside the model."""
    if not tokenizer_dir.is_dir():
        return
    from data_pipeline import tokenizers

    held = tokenizers.load(tokenizer_dir).hash
    if held != data.tokenizer_hash:
        raise ConfigError(
            f"{data.path} was prepared with another tokenizer ({data.tokenizer_hash[:12]}) than the model's in {tokenizer_dir} ({held[:12]}), so its ids mean "
            f"other words; prepare the text with the model's: bert-jax prepare --tokenizer={tokenizer_dir} ..."
        )


def resolve_vocabulary(config: dict[str, Any], data: Data) -> dict[str, Any]:
    """The config with model.vocab_size filled in from the data, or checked against it."""
    given = config["model"]["vocab_size"]
    if given not in (0, data.vocab_size):
        raise ConfigError(
            f"model.vocab_size is {given}, but the tokenizer of {data.path} has {data.vocab_size} entries; "
            f"set --config.model.vocab_size={data.vocab_size} (or 0 to take the tokenizer's), or prepare the data with the other tokenizer"
        )
    return config | {"model": config["model"] | {"vocab_size": data.vocab_size}}


def make_source(config: dict[str, Any], data: Data, mesh: Mesh | None, *, split: str = "train", batch_size: int | None = None):
    """This process's share of the batches, as a pure function of the step. mesh=None: all rows. batch_size=None: the config's."""
    training = split == "train"
    batch_size = batch_size or config["batch_size"]
    rows = None if mesh is None else process_rows(mesh, batch_size)
    if data.recorded:
        return RecordedBatches(data.path, rows=rows)
    from data_pipeline.loader import Loader
    from data_pipeline.masking import MaskingSpec

    return Loader(
        data.path,
        split=split,
        batch_size=batch_size,
        length=config["length"],
        sequences=config["data"]["sequences"],
        short_seq_prob=config["data"]["short_seq_prob"],
        duplicates=config["data"]["duplicates"] if training and config["data"]["sequences"] == "segment_pairs" else 1,
        masking=MaskingSpec(**config["masking"]),
        seed=config["seed"],
        dynamic=training,
        rows=rows,
    )


def check_nsp(config: dict[str, Any]) -> None:
    if config["model"]["nsp"] and config["data"]["sequences"] != "segment_pairs":
        raise ConfigError(
            f"model.nsp is true, but data.sequences is {config['data']['sequences']!r}, which has no next-sentence labels; "
            "set --config.model.nsp=false or --config.data.sequences=segment_pairs"
        )


def copy_tokenizer(source: Path | None, workdir: Path) -> None:
    """The tokenizer beside the checkpoints, so that a workdir is complete in itself."""
    target = workdir / "tokenizer"
    if source is None or target.exists():
        return
    temporary = workdir / "tokenizer.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    temporary.rename(target)


def environment() -> dict[str, Any]:
    """Software and hardware, for the report."""
    packages = {name: version(package) for name, package in {"jax": "jax", "flax": "flax", "optax": "optax", "orbax": "orbax-checkpoint"}.items()}
    device = jax.devices()[0]
    return packages | {
        "bert_jax": version("bert-jax"),
        "python": platform.python_version(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "operating_system": f"{platform.system()} {platform.machine()}",
        "command": " ".join(["bert-jax", *sys.argv[1:]]),
    }
