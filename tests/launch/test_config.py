"""The config system: overrides, clear errors, and configs that all build without allocating a weight."""

import json
from pathlib import Path

import jax
import pytest
import torch
import transformers

from bert_jax.batch import check, device_fields, zeros
from bert_jax.interop import architectures, weights
from bert_jax.model.families import build_spec
from launch import config as configs
from launch.cli import main
from launch.config import ConfigError
from launch.fields import ADDED, PRETRAINING
from launch.finetune.fields import FINETUNING
from launch.phases import phases_of
from launch.run import build_run, step_of

CONFIGS = sorted(path for path in (Path(__file__).parents[2] / "configs").glob("*.py") if path.stem != "__init__")
BASE = "configs/bert_base.py"


def test_overrides_take_the_fields_type():
    config = configs.load(BASE, ["config.batch_size=64", "config.schedule.peak=3e-4", "config.model.nsp=false", "config.optimizer.exclude=bias"])
    assert config["batch_size"] == 64 and config["schedule"]["peak"] == 3e-4
    assert config["model"]["nsp"] is False and config["optimizer"]["exclude"] == ("bias",)
    assert configs.load(BASE, ["config.steps=1e6"])["steps"] == 1_000_000


def test_a_reference_follows_its_field():
    config = configs.load("configs/quickstart.py", ["config.steps=500"])
    assert config["schedule"]["warmup_steps"] == 50


@pytest.mark.parametrize(
    "override, message",
    [
        ("config.batchsize=64", "no field 'batchsize'; did you mean batch_size"),
        ("config.learning_rate=1", "no field 'learning_rate'"),
        ("config.optimizer.warmup_steps=1", "schedule.warmup_steps"),
        ("config.batch_size=many", "expected int, such as 12"),
        ("config.batch_size=1.5", "expected int"),
        ("config.model.nsp=maybe", "expected bool, such as true"),
        ("config.seed", "write --config.FIELD=VALUE"),
    ],
)
def test_a_wrong_override_is_explained(override, message):
    with pytest.raises(ConfigError, match=message):
        configs.load(BASE, [override])


def test_a_config_file_with_wrong_fields_is_refused(tmp_path):
    source = Path(BASE).read_text()
    for change, message in (
        ("config.seeds = 0", "no field 'seeds'; did you mean seed"),
        ("config.steps = 'ten'", "steps.*int"),
        ("del config.masking.rate", "lacks masking.rate"),
    ):
        path = tmp_path / "mine.py"
        path.write_text(source.replace("    return config", f"    {change}\n    return config"))
        with pytest.raises(ConfigError, match=message):
            configs.load(str(path), [])


def test_a_missing_file_names_the_configs_there_are():
    with pytest.raises(ConfigError, match="bert_base, bert_large"):
        configs.load("configs/bert_giant.py", [])


@pytest.mark.parametrize("command", ["pretrain", "doctor", "plan --topology=v4-8", "record --output=gone --batches=1", "grow --from=gone --workdir=gone"])
def test_print_config_is_the_resolved_config(command, capsys):
    assert main([*command.split(), "--config=bert_base", "--print-config", "--config.batch_size=64"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["batch_size"] == 64 and printed["model"]["hidden_size"] == 768


def test_an_unknown_argument_is_not_swallowed(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--workdir=x", "--config.batch_size=64"])
    assert "unknown argument" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds(path):
    """Every phase's abstract state and batch, by shape inference through the whole train step: nothing is allocated."""
    for phase in phases_of(configs.load(str(path), [])):
        config = phase.config
        config["model"]["vocab_size"] = config["model"]["vocab_size"] or 6_000
        run = build_run(config)
        batch = zeros(config["batch_size"], config["length"], config["masking"]["predictions"], nsp=config["model"].get("nsp", False))
        if run.objective.pairs == "sop":
            batch["sop_labels"] = batch.pop("nsp_labels")
        check(batch)
        assert config["masking"]["predictions"] >= int(config["masking"]["rate"] * config["length"])
        step = step_of(run, accumulate=config["accumulate"], first_step=phase.start)
        shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), device_fields(batch))
        state, metrics = jax.eval_shape(step, run.abstract, shapes, jax.eval_shape(lambda: jax.random.key(0)), *run.frozen)
        assert jax.tree.map(lambda leaf: leaf.shape, state) == jax.tree.map(lambda leaf: leaf.shape, run.abstract)
        assert "loss" in metrics


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_what_it_is(path):
    text = path.read_text()
    for word in ("Run: ", "Hardware:", "Score: ", "Laptop: "):
        assert word in text
    assert len(text.splitlines()) <= 60


@pytest.mark.parametrize("name, millions", [("bert_base", 110.1), ("bert_large", 336.2), ("roberta_base", 124.7), ("roberta_large", 355.4), ("albert_base_v2", 11.8), ("albert_xxlarge_v2", 223.2)])
def test_published_models_have_the_published_parameters(name, millions):
    """Every weight's name and shape is that of transformers' model of the same config, which is only described, not allocated."""
    section = configs.load(f"configs/{name}.py", [])["model"]
    described = architectures.config_from_section(section, pad=section.get("position_offset", 1) - 1, cls=0, sep=2)
    with torch.device("meta"):
        model = getattr(transformers, described["architectures"][0])(transformers.AutoConfig.for_model(**described))
    naming = architectures.ARCHITECTURES[section["family"]].naming
    ours = {weight_name: weight.stored_shape for weight in weights.weights(build_spec(section), naming) for weight_name in weight.names}
    tied = naming.tied
    assert ours == {weight_name: tuple(weight.shape) for weight_name, weight in model.state_dict().items() if weight_name not in tied}
    assert round(model.num_parameters() / 1e6, 1) == millions


def test_the_two_lengths_of_bert_follow_one_line():
    """The learning rate at the end of the first phase, at the beginning of the second and inside it."""
    first, second = (build_run(phase.config).schedule for phase in phases_of(configs.load(BASE, [])))
    whole = lambda step: 1e-4 * (1 - step / 1_000_000)  # noqa: E731
    places = [(first, 0, step) for step in (10_000, 899_999)] + [(second, 900_000, step) for step in (900_000, 950_000, 999_999)]
    for schedule, start, step in places:
        assert float(schedule(step - start)) == pytest.approx(whole(step), rel=1e-5)


def test_the_ablations_of_the_page_build():
    section = Path("docs/training.md").read_text().partition("### Ablations")[2].partition("\n## ")[0]
    commands = [line.split("#")[0].split() for line in section.splitlines() if line.startswith("    bert-jax pretrain")]
    assert len(commands) >= 7
    for _, _, config, *overrides in commands:
        changed = configs.load(config.removeprefix("--config="), [override.removeprefix("--") for override in overrides])
        assert changed != configs.load(config.removeprefix("--config="), [])
        for phase in phases_of(changed):
            build_run(phase.config)


@pytest.mark.parametrize(("path", "schema"), [(BASE, PRETRAINING), ("configs/finetune/rte.py", FINETUNING)], ids=["pretraining", "finetuning"])
def test_a_run_of_an_earlier_version_has_what_it_did_without_saying_so(path, schema, tmp_path):
    config, now = configs.load(path, [], schema), configs.load(path, [], schema)
    for field in ADDED.keys() & schema.fields.keys():
        *sections, name = field.split(".")
        del (config[sections[0]] if sections else config)[name]
    configs.write_json(tmp_path / "config.json", {name: value for name, value in config.items() if value != {}})
    assert configs.differences(configs.read_run_config(tmp_path, schema), now) == []
