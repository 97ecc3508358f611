"""The model section of a workdir (model.json): what is needed to rebuild the network, written by pretraining and by import."""

from pathlib import Path

from launch.config import ConfigError, check_value, read_json, read_run_config, write_json
from launch.fields import NOT_STRUCTURE
from launch.phases import phase_at, phases_of


def write_model_section(workdir: Path, model: dict) -> None:
    write_json(workdir / "model.json", model)


def read_model_section(workdir: Path, step: int | None = None) -> dict:
    """step: with what the phase that made this checkpoint changes of it (dropout, say), where the workdir is of pretraining."""
    path = workdir / "model.json"
    if not path.is_file():
        raise ConfigError(f"{workdir} holds no model (no model.json): give a workdir of `bert-jax pretrain` or `bert-jax import`")
    if step is not None and (workdir / "config.json").is_file():
        return phase_at(phases_of(read_run_config(workdir)), step).config["model"]
    section = read_json(path)
    try:
        for name, value in section.items():
            check_value(f"model.{name}", value)
        _ = section["family"]
    except (AttributeError, KeyError):
        raise ConfigError(f"{path} is no `model` section of a config; take the workdir's own") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return section


def check_same_model(held: dict, asked: dict, workdir: Path, section: str = "model") -> None:
    """ConfigError naming the fields in which a section of the config differs from the model in the workdir."""
    differing = [
        f"{section}.{name}: the workdir has {held.get(name)!r}, the config {asked.get(name)!r}"
        for name in sorted(held.keys() | asked.keys())
        if name not in NOT_STRUCTURE and held.get(name) != asked.get(name)
    ]
    if differing:
        fix = " ".join(
            f"--config.{section}.{name}={held[name]}" for name in held if name not in NOT_STRUCTURE and held[name] != asked.get(name)
        )
        raise ConfigError(f"the model in {workdir} is not the config's:\n  " + "\n  ".join(differing) + f"\nTo take that model: {fix}")
