"""`bert-jax record`: a config's batches, masked once and written as plain numpy files. Needs no TensorFlow."""

from pathlib import Path

from tqdm import tqdm

from bert_jax import recorded
from launch.config import ConfigError
from launch.data import make_source, open_data, pair_objective, resolve_lengths, resolve_vocabulary
from launch.phases import phases_of
from launch.run import check_own_files


def record(config: dict, output: Path, *, batches: int | None = None, epochs: int | None = None, phase: int = 0) -> None:
    """Records the first `batches` of a phase, or as many as hold every sequence in `epochs` different orders and masks: classic static masking."""
    phases = phases_of(resolve_lengths(config))
    if not 0 <= phase < len(phases):
        raise ConfigError(f"--phase={phase}: the config has {len(phases)} phase(s), 0 to {len(phases) - 1}")
    config = phases[phase].config
    if config["batch_ramp"]["start"]:
        raise ConfigError(
            f"batch_ramp.start is {config['batch_ramp']['start']}, and all batches of a recording have one size; set --config."
            f"{'phases.%d.' % phase if phases[phase].name else ''}batch_ramp.start=0 here and in training from it"
        )
    data = open_data(config)
    if data.recorded:
        raise ConfigError(f"{data} already holds recorded batches; record from a token store")
    config = resolve_vocabulary(config, data)
    pair_objective(config)
    source = make_source(config, data, None)
    if epochs is not None:
        batches = -(-epochs * source.num_sequences // config["batch_size"])
    if batches < 1:
        raise ConfigError(f"there is nothing to record in {batches} batches; give --batches or --epochs of at least 1")
    stream = tqdm(map(source.batch, range(batches)), total=batches, unit="batch", disable=None)
    description = {
        "vocab_size": data.vocab_size, "tokenizer_hash": data.tokenizer_hash, "special": data.special, "store_fingerprint": data.fingerprint, "seed": config["seed"],
        "data": config["data"] | {"path": ",".join(path.name for path in data.paths)}, "masking": config["masking"],
        "source_names": source.source_names,
    }
    if data.tokenizer_dir is not None:
        check_own_files(data.tokenizer_dir)
    recorded.write(output, stream, description, data.tokenizer_dir)
    print(f"{batches} batches of {config['batch_size']} x {config['length']} in {output}")
