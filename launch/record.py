"""`bert-jax record`: a config's batches, masked once and written as plain numpy files."""

from pathlib import Path

from tqdm import tqdm

from bert_jax import recorded
from launch.config import ConfigError
from launch.run import check_nsp, make_source, open_data, resolve_vocabulary


def record(config: dict, output: Path, *, batches: int) -> None:
    data = open_data(config)
    if data.recorded:
        raise ConfigError(f"{data.path} already holds recorded batches; record from a token store")
    config = resolve_vocabulary(config, data)
    check_nsp(config)
    source = make_source(config, data, None)
    stream = tqdm(source.batches(0, batches), total=batches, unit="batch", disable=None)
    description = {
        "vocab_size": data.vocab_size, "tokenizer_hash": data.tokenizer_hash, "store_fingerprint": data.fingerprint, "seed": config["seed"],
        "data": config["data"] | {"path": data.path.name}, "masking": config["masking"],
    }
    recorded.write(output, stream, description, data.tokenizer_dir)
    print(f"{batches} batches of {config['batch_size']} x {config['length']} in {output}")
