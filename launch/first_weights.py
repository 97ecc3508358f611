"""Workdirs whose first weights are another model's: as they are, with a larger vocabulary, tiled to a larger model, or lengthened."""

import logging
import os
import tempfile
from pathlib import Path

import jax

from bert_jax.interop.vocabulary import extend_vocabulary
from bert_jax.model.families import build_spec
from bert_jax.model.lengthening import differences, lengthened_params
from bert_jax.model.tiling import layer_sources, tiled_params
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import make_blueprint
from launch.config import ConfigError
from launch.load_model import load_model
from launch.model_section import write_model_section

log = logging.getLogger("bert_jax")


def write_start(workdir: Path, section: dict, params: dict, tokenizer_dir: Path) -> None:
    """A workdir to pretrain in, with these parameters as its checkpoint of step 0. It appears only when whole."""
    workdir = workdir.absolute()
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{workdir.name}.", suffix=".tmp", dir=workdir.parent) as temporary:
        part = Path(temporary) / "workdir"
        part.mkdir()
        save_tokenizer(tokenizer_dir, part / "tokenizer")
        write_model_section(part, section)
        checkpoints = Checkpoints(part / "checkpoints")
        checkpoints.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)})
        checkpoints.wait()
        os.replace(part, workdir)


def with_vocabulary_of(extended: Path, section: dict, params: dict, tokenizer_dir: Path) -> tuple[dict, dict, str]:
    """(section, parameters, a note for the reader) of the model with the words that the tokenizer in `extended` has beyond its own. ConfigError if it has others before."""
    from data_pipeline.tokenization import tokenizers

    old, new = tokenizers.load(tokenizer_dir), tokenizers.load(extended)
    tokens, held = ([tokenizer.hf.id_to_token(number) for number in range(tokenizer.vocab_size)] for tokenizer in (new, old))
    if (new.kind, new.special, tokens[: len(held)]) != (old.kind, old.special, held) or len(tokens) == len(held):
        raise ConfigError(f"--tokenizer={extended} does not go on from the model's own in {tokenizer_dir}: extend that one with `bert-jax extend-tokenizer`")
    after = section | {"vocab_size": new.vocab_size}
    pieces = [old.encode(token).tolist() or [old.special["unk"]] for token in tokens[len(held) :]]
    blueprints = [make_blueprint(build_spec(each)) for each in (section, after)]
    note = f"{len(pieces):,} further words: ids {len(held):,} to {len(tokens) - 1:,} begin as the mean of the pieces that they were cut into"
    return after, extend_vocabulary(params, *blueprints, pieces), note


def grow_model(source: Path, config: dict, workdir: Path) -> None:
    """Makes the config's model of a smaller one, a workdir's or a Hugging Face directory's, by tiling, or of one for shorter inputs by copying its positions; a new
    workdir with a checkpoint of step 0."""
    check_empty(workdir)
    smaller = load_model(source)
    section = config["model"] | {"vocab_size": smaller.section["vocab_size"]}
    if config["model"]["vocab_size"] not in (0, section["vocab_size"]):
        raise ConfigError(f"model.vocab_size is {config['model']['vocab_size']}, but {source} has {section['vocab_size']} entries; tiling keeps the vocabulary")
    larger = make_blueprint(build_spec(section))
    unlike = differences(larger.spec, smaller.blueprint.spec)
    if section["family"] != smaller.section["family"] and unlike:
        raise ConfigError(
            f"{source} is a {smaller.section['family']}, the config's model a {section['family']}; tiling makes a model of the same family, and copied positions one for "
            "longer inputs that is otherwise the same, which these are not (the config's, the other's):\n  " + "\n  ".join(unlike)
        )
    if smaller.tokenizer_dir is None:
        raise ConfigError(f"{source} has no tokenizer; put the model's own beside its weights")
    fresh, params = jax.device_get((jax.jit(larger.init)(jax.random.key(config["seed"])), smaller.params))
    if not unlike:
        write_start(workdir, section, lengthened_params(fresh, larger.spec, params, smaller.blueprint.spec), smaller.tokenizer_dir)
        log.info("%s, of %d positions, lengthened to %d in %s", smaller.origin, smaller.section["max_positions"], section["max_positions"], workdir.absolute())
        return
    params = tiled_params(fresh, larger.spec, params, smaller.blueprint.spec)
    write_start(workdir, section, params, smaller.tokenizer_dir)
    sources = layer_sources(smaller.section["num_layers"], section["num_layers"])
    log.info("%s (%s) tiled to %s in %s", smaller.origin, parameters_of(smaller.section), parameters_of(section), workdir.absolute())
    log.info("its layers begin as layers %s", ", ".join(map(str, sources)))


def check_empty(workdir: Path) -> None:
    if workdir.exists() and any(workdir.iterdir()):
        raise ConfigError(f"--workdir={workdir} is not empty; give a new one")


def parameters_of(section: dict) -> str:
    return f"{make_blueprint(build_spec(section)).num_params / 1e6:.1f}M parameters"


def save_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer files of a directory, and tokenizer.json made from vocab.txt where there is none."""
    from data_pipeline.tokenization import tokenizers

    tokenizers.load(source).save(target)
