"""LoRA, bottleneck adapters and freezing by the commands a user types: learnt, resumed, put to use, exported."""

import json
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest
import tokenizers
from flax import traverse_util

from bert_jax.model.families import build_spec
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import make_blueprint
from launch.cli import main
from launch.first_weights import write_start
from launch.load_model import load_model
from tests.launch.conftest import run
from tests.launch.finetune.stopping import digests_of, stopped_and_resumed

pytestmark = pytest.mark.usefixtures("quick_compilation")
SECTION = {"family": "bert", "vocab_size": 300, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48, "max_positions": 64, "initializer_range": 0.2}
SMALL = [
    "--config=configs/finetune/classification.py", "--config.steps=4", "--config.batch_size=8", "--config.length=16", "--config.compute.dtype=float32", "--config.log_every=2",
    "--config.eval.every=2", "--config.eval.batch_size=16", "--config.seeds=0", "--config.task.metric=", "--config.schedule.peak=1e-2",
]  # fmt: skip
LORA = [
    "--config.adapt.kind=lora", "--config.adapt.rank=4", "--config.adapt.targets=query,value,mlp", "--config.steps=80", "--config.eval.every=40",
    "--config.optimizer.layer_decay=0.9", "--config.accumulate=2",
]  # fmt: skip
SENTENCES = [text for topic in topics.values() for text in " ".join(topic.split()).split(". ") if 40 < len(text) < 100][:40]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A workdir with fresh weights and a tokenizer of 300 words."""
    directory = tmp_path_factory.mktemp("pretrained")
    tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator([*topics.values()], vocab_size=300, min_frequency=1, show_progress=False)
    (directory / "tokenizer").mkdir()
    tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
    write_start(directory / "workdir", SECTION, make_blueprint(build_spec(SECTION)).init(jax.random.key(0)), directory / "tokenizer")
    return directory / "workdir"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Whether a text ends with a word: what any encoder's vectors tell."""
    directory = tmp_path_factory.mktemp("data")
    rows = [{"text": f"{word} {text[:16]} {word}", "label": word} for text in SENTENCES for word in ("class", "number")]
    for name, part in (("train", rows[:64]), ("eval", rows[64:])):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return directory


def arguments(pretrained, data, workdir, *more) -> list[str]:
    files = [f"--config.task.{name}={data / f'{name}.jsonl'}" for name in ("train", "eval")]
    return ["finetune", *SMALL, *files, f"--init={pretrained}", f"--workdir={workdir}", *more]


def flat(params) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(jax.device_get(params), sep=".")


@pytest.fixture(scope="module")
def lora(pretrained, data, tmp_path_factory):
    """The workdir of a run of two seeds."""
    workdir = tmp_path_factory.mktemp("lora") / "workdir"
    run(*arguments(pretrained, data, workdir, *LORA, "--config.seeds=0,1"))
    return workdir


def test_low_rank_learns_and_keeps_little(lora, pretrained, data, capsys):
    assert json.loads((lora / "scores.json").read_text())["eval"]["accuracy"]["mean"] > 0.9
    leaves = Checkpoints(lora / "seeds" / "0" / "checkpoints").record(80)["leaves"]
    moments = [name for name in leaves if ".mu." in name]
    assert len(moments) == 2 * 4 + 4 and all(".lora." in name or ".encoder." not in name for name in moments)
    run("predict", f"--model={lora}", f"--input={data / 'eval.jsonl'}")
    best = json.loads((lora / "scores.json").read_text())["best_seed"]
    written = (lora / "seeds" / str(best) / "predictions-eval.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()] == [json.loads(line)["label"] for line in written]
    ours, base = flat(load_model(lora).params), flat(load_model(pretrained).params)
    differing = {path for path in ours.keys() & base.keys() if not np.array_equal(ours[path], base[path])}
    assert {path for path in differing if path.startswith("encoder.")} == {
        f"encoder.layers.{name}.kernel" for name in ("attention.query", "attention.value", "mlp.up", "mlp.down")
    }  # fmt: skip


def test_low_rank_leaves_as_an_ordinary_model(lora, tmp_path, data):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    run("export", f"--workdir={lora}", f"--output={tmp_path / 'model'}", "--verify")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    run("predict", f"--model={lora}", f"--input={data / 'eval.jsonl'}", f"--output={tmp_path / 'ours.jsonl'}")
    ours = [json.loads(line) for line in (tmp_path / "ours.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (data / "eval.jsonl").read_text().splitlines()]
    with torch.no_grad():
        inputs = tokenizer([row["text"] for row in rows], padding=True, truncation=True, max_length=16, return_tensors="pt")
        theirs = model(**inputs).logits.softmax(-1).numpy()
    assert [one["label"] for one in ours] == [model.config.id2label[number] for number in theirs.argmax(-1)]
    np.testing.assert_allclose([one["probability"] for one in ours], theirs.max(-1), atol=1e-4)  # of four decimals


def test_what_was_learnt_leaves_alone(lora, pretrained, tmp_path, capsys):
    run("export", f"--workdir={lora}", f"--output={tmp_path / 'adapter'}", "--adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4 and len(config["target_modules"]) == 2 * 4 and set(config["modules_to_save"]) == {"bert.pooler.dense", "classifier"}
    assert main(["export", f"--workdir={pretrained}", f"--output={tmp_path / 'other'}", "--adapter"]) == 1
    assert "was not trained with LoRA" in capsys.readouterr().err


def test_a_stopped_run_goes_on_to_the_same_bits(lora, pretrained, data, tmp_path):
    digests = stopped_and_resumed(arguments(pretrained, data, tmp_path / "stopped", *LORA), tmp_path / "stopped")
    assert digests == digests_of(lora) and any(".lora.a" in name for name in digests)


def test_bottlenecks_are_used_from_the_workdir_alone(pretrained, data, tmp_path, capsys, caplog):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"text": text[:20], "pair": text[20:40]}) + "\n" for text in SENTENCES[:16]))
    task = ["kind=embedding", "text_pair=pair", "label=", "loss=multiple_negatives", f"train={pairs}", f"eval={pairs}"]
    more = [f"--config.task.{setting}" for setting in task] + ["--config.adapt.kind=bottleneck", "--config.adapt.size=4", "--config.head.pooling=mean", "--config.eval.patience=1"]
    workdir = tmp_path / "workdir"
    with caplog.at_level("INFO"):
        run(*arguments(pretrained, data, workdir, *more))
    total = 2 * (2 * (32 * 4 + 4 + 4 * 32 + 32) + 4 * 32) + 2 * 32
    assert f"trained: {total:,} of " in caplog.text and "adapters of size 4 behind attention and mlp, norms, and the head" in caplog.text
    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES[:3]))
    for model, output in ((workdir, "with.npy"), (pretrained, "without.npy")):
        run("embed", f"--model={model}", f"--input={tmp_path / 'lines.txt'}", f"--output={tmp_path / output}", "--length=16", "--pooling=mean")
    assert np.abs(np.load(tmp_path / "with.npy") - np.load(tmp_path / "without.npy")).max() > 1e-3
    ours, base = flat(load_model(workdir).params), flat(load_model(pretrained).params)
    assert {path for path in base if path in ours and "norm" not in path and not np.array_equal(ours[path], base[path])} == set()
    capsys.readouterr()
    assert main(["export", f"--workdir={workdir}", f"--output={tmp_path / 'model'}"]) == 1
    assert "no class of transformers has" in capsys.readouterr().err and not (tmp_path / "model").exists()
    assert main(arguments(workdir, data, tmp_path / "next")) == 1
    assert "was trained with bottleneck adapters" in capsys.readouterr().err


def test_what_does_not_fit_is_told(pretrained, data, tmp_path, capsys):
    def refused(*more) -> str:
        assert main(arguments(pretrained, data, tmp_path / "run", *more)) == 1
        assert not (tmp_path / "run" / "config.json").exists()
        return capsys.readouterr().err

    assert "adapt.kind is 'prefix'; known: lora, bottleneck" in refused("--config.adapt.kind=prefix")
    assert "adapt.targets names 'qkv', but the matrices of a layer are attention.key" in refused("--config.adapt.kind=lora", "--config.adapt.targets=qkv")
    assert "freeze is '9 layers'" in refused("--config.freeze=9 layers")
    assert "adapt.kind=lora freezes the whole encoder" in refused("--config.freeze=embeddings", *LORA)
