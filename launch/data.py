"""From a resolved config to its batches: what `data.path` holds, whether it fits the run, and the source of batches."""

import dataclasses
import functools
import glob
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bert_jax.recorded import RecordedBatches
from bert_jax.sharding import process_rows
from launch.config import ConfigError
from launch.lengths import batch_sizes_of
from launch.phases import phases_of, with_numbers

PAIR_OBJECTIVES = {"segment_pairs": "nsp", "sentence_order": "sop"}  # data.sequences -> what its labels train


@dataclasses.dataclass(frozen=True)
class Data:
    """Where batches come from: token stores (several are a mixture), or recorded batches.

    held_out: the stores with a split for evaluation. shares: float64 [S], of the stores in the mixture. fingerprint: of the contents. special: ids of the
    special tokens. unigram_shares: float64 [vocab_size] of the training text, None for recorded batches.
    """

    paths: tuple[Path, ...]
    recorded: bool
    held_out: tuple[Path, ...]
    shares: np.ndarray
    vocab_size: int
    tokenizer_hash: str
    fingerprint: str
    tokenizer_dir: Path | None
    unigram_shares: np.ndarray | None
    special: dict[str, int]

    def __str__(self) -> str:
        return ",".join(map(str, self.paths))

    @property
    def absolute(self) -> str:
        """As data.path of a config that may be read from anywhere."""
        return ",".join(str(path.absolute()) for path in self.paths)

    @property
    def baseline_token(self) -> int:
        """The most frequent token of the training text that can be a target."""
        shares = self.unigram_shares.copy()
        shares[list(self.special.values())] = 0
        return int(np.argmax(shares))


def open_data(config: dict[str, Any]) -> Data:
    """Reads what kind of data `data.path` holds; ConfigError or the data's own error names the path and the fix."""
    paths = data_paths(config["data"]["path"])
    if RecordedBatches.is_at(paths[0]):
        return open_recorded(config, paths)
    from data_pipeline.batches.mixture import shares_of
    from data_pipeline.stores.store import TokenStore

    stores = [TokenStore(path, split="train") for path in paths]
    for store in stores:
        store.verify_once()
    first = stores[0]
    for store in stores[1:]:
        check_alike(first, store)
    shares = shares_of([store.num_tokens for store in stores], weights=weights_of(config), alpha=config["data"]["alpha"])
    fingerprints = [store.fingerprint for store in stores]
    return Data(
        paths=paths,
        recorded=False,
        held_out=tuple(path for path, store in zip(paths, stores) if "eval" in store.manifest["splits"]),
        shares=shares,
        vocab_size=first.vocab_size,
        tokenizer_hash=first.manifest["tokenizer"]["hash"],
        fingerprint=fingerprints[0] if len(paths) == 1 else hashlib.sha256(",".join(fingerprints).encode()).hexdigest()[:16],
        tokenizer_dir=Path(first.tokenizer_dir),
        unigram_shares=sum(share * store.unigram_counts / store.unigram_counts.sum() for share, store in zip(shares, stores)),
        special=first.special,
    )


def open_recorded(config: dict[str, Any], paths: tuple[Path, ...]) -> Data:
    if len(paths) > 1:
        raise ConfigError(f"data.path names {len(paths)} places, and {paths[0]} holds recorded batches; a mixture is made of token stores (and then recorded)")
    recorded = RecordedBatches(paths[0])
    about = description_of(recorded)
    check_recorded_settings(config, recorded)
    return Data(
        paths, True, (), np.ones(1), about["vocab_size"], about["tokenizer_hash"], recorded.fingerprint, recorded.tokenizer_dir, None, about["special"]
    )


def description_of(recorded: RecordedBatches) -> dict[str, Any]:
    """What a recording says of how it was made; ConfigError unless `bert-jax record` wrote it."""
    missing = [name for name in ("vocab_size", "tokenizer_hash", "special", "data", "masking", "seed") if name not in recorded.description]
    if missing:
        raise ConfigError(f"the recorded batches in {recorded.directory} do not say their {', '.join(missing)}; record them with `bert-jax record`")
    return recorded.description


def data_paths(text: str) -> tuple[Path, ...]:
    """The places that data.path names: parted by commas, globs in sorted order."""
    names = [text] if os.path.isdir(text) else [name.strip() for name in text.split(",") if name.strip()]  # a directory may have a comma in its name
    if not names:
        raise ConfigError("data.path is empty: make a token store with `bert-jax prepare` and set --config.data.path=STORE")
    paths: list[Path] = []
    for name in names:
        found = sorted(glob.glob(name)) if glob.has_magic(name) and not os.path.isdir(name) else [name]
        if not found:
            raise ConfigError(f"data.path: nothing matches {name!r}; check the pattern, and quote it so that the shell leaves it alone")
        paths += [Path(match) for match in found if os.path.isdir(match) or match == name]
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise ConfigError(f"data.path names a store twice: {', '.join(map(str, paths))}; give it more weight with data.weights instead")
    return tuple(paths)


def weights_of(config: dict[str, Any]) -> tuple[float, ...]:
    if len(config["data"]["weights"]) and config["data"]["alpha"] != 1.0:
        raise ConfigError(f"data.weights and data.alpha={config['data']['alpha']} both say how stores are sampled; give one of them (alpha 1.0 with weights)")
    try:
        return tuple(float(weight) for weight in config["data"]["weights"])
    except ValueError:
        raise ConfigError(f"data.weights={config['data']['weights']} are not numbers; write them like 0.7,0.3, one for each store") from None


def check_alike(first, other) -> None:
    """ConfigError unless two stores have the same tokenizer."""
    one, two = first.manifest["tokenizer"], other.manifest["tokenizer"]
    if one["hash"] != two["hash"]:
        raise ConfigError(
            f"{first.directory} and {other.directory} were prepared with different tokenizers ({one['kind']} of {one['vocab_size']} entries, {one['hash'][:12]}; "
            f"{two['kind']} of {two['vocab_size']}, {two['hash'][:12]}), so the same id means different words; prepare both with one tokenizer"
        )


def check_recorded_settings(config: dict[str, Any], recorded: RecordedBatches) -> None:
    """ConfigError unless the config states what the recording was made with: shapes, masking, sequences and seed."""
    about = recorded.description
    sections = {name: about[name] for name in ("data", "masking")}
    held = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items() if name != "path"}
    held |= {"seed": about["seed"], "batch_size": recorded.batch_size, "length": recorded.length, "masking.predictions": recorded.predictions}
    held["batch_ramp.start"] = 0  # all batches of a recording have one size
    for field, value in held.items():
        section, _, name = field.rpartition(".")
        asked = config[section].get(name) if section else config[name]
        asked = list(asked) if isinstance(asked, tuple) else asked  # as JSON has it
        if asked != value:
            raise ConfigError(
                f"{recorded.directory} was recorded with {field}={value}, but the config has {asked}; set --config.{field}={value} or record again"
            )


def check_same_tokenizer(data: Data, tokenizer_dir: Path) -> None:
    """ConfigError if the data was made with another tokenizer than the one beside the model."""
    if not tokenizer_dir.is_dir():
        return
    from data_pipeline.tokenization import tokenizers

    held = tokenizers.load(tokenizer_dir).hash
    if held != data.tokenizer_hash:
        raise ConfigError(
            f"{data} was prepared with another tokenizer ({data.tokenizer_hash[:12]}) than the model's in {tokenizer_dir} ({held[:12]}), so its ids mean "
            f"other words; prepare the text with the model's: bert-jax prepare --tokenizer={tokenizer_dir} ..."
        )


def resolve_lengths(config: dict[str, Any]) -> dict[str, Any]:
    """The config with its lengths, the phases' included, as numbers of updates where they are said in sequences, tokens, epochs or shares."""
    return with_numbers(config, phases_of(config, sequences_per_epoch))


def sequences_per_epoch(config: dict[str, Any]) -> int:
    """Of the data of a config whose lengths need not be numbers yet."""
    return make_source(config | {"steps": 1}, open_data(config), None, batch_size=1).num_sequences


def resolve_vocabulary(config: dict[str, Any], data: Data) -> dict[str, Any]:
    """The config with model.vocab_size (and a teacher's) filled in from the data, or checked against it, as is model.position_offset."""
    check_position_offset(config["model"], data)
    sections = [section for section in ("model", "teacher") if section in config]
    for section in sections:
        given = config[section]["vocab_size"]
        if given not in (0, data.vocab_size):
            raise ConfigError(
                f"{section}.vocab_size is {given}, but the tokenizer of {data} has {data.vocab_size} entries; "
                f"set --config.{section}.vocab_size={data.vocab_size} (or 0 to take the tokenizer's), or prepare the data with the other tokenizer"
            )
    return config | {section: config[section] | {"vocab_size": data.vocab_size} for section in sections}


def check_position_offset(model: dict[str, Any], data: Data) -> None:
    """ConfigError unless a model whose positions begin after the padding token's id has the id of the data's tokenizer."""
    if "position_offset" not in model:
        return
    pad = data.special["pad"]
    if model["position_offset"] != pad + 1:
        raise ConfigError(
            f"model.position_offset is {model['position_offset']}, but the tokenizer of {data} pads with id {pad}, and transformers counts the positions of "
            f"this family from that id + 1; set --config.model.position_offset={pad + 1}"
        )


def pair_objective(config: dict[str, Any]) -> str | None:
    """What the sentence-pair head is trained for: "nsp", "sop", or None without the head. ConfigError if the sequences have no labels for it."""
    if not config["model"].get("nsp"):  # not every family can have the head
        return None
    sequences = config["data"]["sequences"]
    if sequences not in PAIR_OBJECTIVES:
        raise ConfigError(
            f"model.nsp is true, but data.sequences is {sequences!r}, which has no sentence-pair labels; "
            f"set --config.model.nsp=false or --config.data.sequences={' or '.join(PAIR_OBJECTIVES)}"
        )
    return PAIR_OBJECTIVES[sequences]


def make_source(config: dict[str, Any], data: Data, mesh: Mesh | None, *, split: str = "train", batch_size: int | None = None):
    """This process's share of the batches, as a pure function of the step. mesh=None: all rows. batch_size=None: the config's, and its ramp.

    The held-out split keeps its masks, and is masked at the rate with which the run ends."""
    training = split == "train"
    rows_of = None if mesh is None else functools.partial(process_rows, mesh)
    if data.recorded:
        return RecordedBatches(data.paths[0], rows=rows_of and rows_of(batch_size or config["batch_size"]))
    from data_pipeline.batches.loader import Loader
    from data_pipeline.batches.masking import MaskingSpec

    cut, settings = sequence_settings(config, split), dict(config["masking"])
    end_rate = settings.pop("end_rate") or settings["rate"]
    rates = {"end_rate": end_rate} if training else {"rate": end_rate}
    paths, shares = data.paths, data.shares
    if not training:
        paths, shares = data.held_out, shares[[path in data.held_out for path in paths]]
    return Loader(
        paths,
        shares=tuple((shares / shares.sum()).tolist()),
        split=split,
        batch_size=batch_size or batch_sizes_of(config),
        sequences=cut.pop("kind"),
        **cut,
        masking=MaskingSpec(**settings | rates),
        rate_steps=config["steps"],
        dynamic=training,
        rows=rows_of,
    )


def sequence_settings(config: dict[str, Any], split: str = "train") -> dict[str, Any]:
    """How a config cuts a store into sequences: settings of `packing.Sequences`."""
    data = config["data"]
    return {
        "kind": data["sequences"],
        "length": config["length"],
        "short_seq_prob": data["short_seq_prob"],
        "duplicates": data["duplicates"] if split == "train" and data["sequences"] in PAIR_OBJECTIVES else 1,
        "seed": config["seed"],
    }
