"""Fine-tuned models of every architecture and kind: stock transformers computes what ours do, going out and coming in."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util

from bert_jax.interop import huggingface, tasks
from bert_jax.interop.architectures import ARCHITECTURES
from bert_jax.interop.tasks import Task
from bert_jax.interop.verify import verify
from bert_jax.interop.weights import shapes
from bert_jax.model.families import FAMILY_FIELDS

SMALL = {"num_layers": 2, "max_positions": 32}
SECTIONS = {  # what a family needs besides the sizes that all have
    "bert": {},
    "roberta": {"position_offset": 1},
    "xlm_roberta_xl": {"position_offset": 1},
    "albert": {"embedding_size": 16},
    "distilbert": {},
    "electra_discriminator": {"embedding_size": 16},
    "modernbert": {"window": 8},
    "deberta": {"max_distance": 20},
    "deberta_v2": {"max_distance": 20, "position_buckets": 8},
    "longformer": {"position_offset": 1, "window": 8},
    "big_bird": {"block_size": 16},
}
TASKS = {
    "classification": Task("classification", 3, "cls", 0.2, ("bad", "fair", "good"), 32),
    "multilabel": Task("multilabel", 3, "cls", 0.2, ("long", "old", "sad"), 32),
    "regression": Task("regression", 1, "cls", 0.2, None, 32),
    "ranking": Task("ranking", 1, "cls", 0.2, None, 32),
    "tokens": Task("tokens", 3, "cls", 0.2, ("O", "B-X", "I-X"), 32),
    "span": Task("span", 2, "cls", 0.2, None, 32),
    "choice": Task("choice", 1, "cls", 0.2, None, 32),
}
KINDS_OF_HEADS = ("classification", "tokens", "span", "choice")  # one for each class of transformers
LACKING = {("deberta", "choice"): "transformers has no DebertaForMultipleChoice", ("big_bird", "span"): "BigBirdForQuestionAnswering has another head"}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is most of the time that these take."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def tokenizer_dir(tokenizer_dir, tmp_path_factory):
    """With the names of its special tokens, which not every architecture has a tokenizer class for."""
    directory = tmp_path_factory.mktemp("named") / "tokenizer"
    shutil.copytree(tokenizer_dir, directory)
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | names))
    return directory


@pytest.fixture(scope="module")
def section_of(base_section):
    def make(family: str) -> dict:
        given = base_section | SMALL | {"family": family}
        return {name: value for name, value in given.items() if name in (*FAMILY_FIELDS[family], "family")} | SECTIONS[family]

    return make


@pytest.fixture(scope="module")
def exported(section_of, tokenizer_dir, tmp_path_factory):
    """(family, task) -> (directory, section, params), each made once."""
    made = {}

    def make(family: str, task: Task):
        if (family, task) not in made:
            section, directory = section_of(family), tmp_path_factory.mktemp(family) / "model"
            params = random_params(section, task)
            huggingface.export(params, section, tokenizer_dir, directory, task=task)
            made[family, task] = directory, section, params
        return made[family, task]

    return make


def random_params(section: dict, task: Task) -> dict:
    random = np.random.default_rng(0)
    flat = {path: random.normal(float(path.endswith("scale")), 0.2, shape).astype(np.float32) for path, shape in shapes(task.spec(section)).items()}
    return traverse_util.unflatten_dict(flat, sep=".")


def test_every_architecture_is_here():
    aliases = {"xlm_roberta": "roberta", "electra_generator": "electra_discriminator", "deberta_v3_discriminator": "deberta_v2"}  # the same rows
    assert {aliases.get(family, family) for family in ARCHITECTURES} == set(SECTIONS)
    assert all(ARCHITECTURES[family].tasks == ARCHITECTURES[same].tasks for family, same in aliases.items())


@pytest.mark.parametrize("kind", KINDS_OF_HEADS)
@pytest.mark.parametrize("family", SECTIONS)
def test_transformers_computes_the_same(exported, section_of, texts, family, kind, tokenizer_dir, tmp_path):
    task = TASKS[kind]
    if (family, kind) in LACKING:
        with pytest.raises(ValueError, match=LACKING[family, kind]):
            huggingface.export({}, section_of(family), tokenizer_dir, tmp_path / "model", task=task)
        return
    directory, section, params = exported(family, task)
    report = verify(directory, params, section, texts, task=task)
    assert report.comparisons[-1].name == ("token scores" if kind in ("tokens", "span") else "scores")
    assert all(one.difference < 1e-4 and one.magnitude > 0.1 for one in report.comparisons)

    imported = huggingface.load(directory, key=jax.random.key(0), with_task=True)
    assert imported.notes == [] and dataclasses.replace(imported.task, dropout=0.2) == task
    assert imported.task.dropout == (0.2 if tasks.class_of(ARCHITECTURES[family], task).dropout else task.spec(section).encoder.dropout)
    assert_same(imported.params, params)


def assert_same(ours: dict, params: dict) -> None:
    """All but the rows of the vocabulary that only fill it up."""
    for tree in (ours, params):
        tree["encoder"]["embed"]["tokens"]["embedding"] = tree["encoder"]["embed"]["tokens"]["embedding"][:300]
    jax.tree.map(np.testing.assert_array_equal, ours, params)


@pytest.mark.parametrize(("family", "kind"), [(family, kind) for family, kind in zip(SECTIONS, 3 * KINDS_OF_HEADS) if (family, kind) not in LACKING])
def test_a_model_of_transformers_comes_in(exported, texts, family, kind, tmp_path):
    directory, _, _ = exported(family, TASKS[kind])
    theirs = getattr(transformers, tasks.model_class(ARCHITECTURES[family], TASKS[kind]))(transformers.AutoConfig.from_pretrained(directory))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path)
    imported = huggingface.load(tmp_path, key=jax.random.key(0), with_task=True)
    assert imported.task.kind == kind and imported.task.labels == TASKS[kind].labels and imported.task.length == 32
    report = verify(tmp_path, imported.params, imported.model_section, texts, task=imported.task)
    assert report.comparisons[-1].magnitude > 0.1


@pytest.mark.parametrize("kind", ["multilabel", "regression", "ranking"])
def test_kinds_with_a_classifier_of_sequences(exported, texts, kind):
    directory, section, params = exported("bert", TASKS[kind])
    verify(directory, params, section, texts, task=TASKS[kind])
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()) and model.config.num_labels == TASKS[kind].outputs
    assert model.config.problem_type == {"regression": "regression"}.get(kind, "multi_label_classification")
    assert tuple(model.config.id2label.values()) == (TASKS[kind].labels or ("LABEL_0",))
    assert huggingface.load(directory, key=jax.random.key(0), with_task=True).task == TASKS[kind]


def test_pooling_is_kept_or_refused(section_of, tokenizer_dir, texts, tmp_path):
    mean = dataclasses.replace(TASKS["classification"], pooling="mean")
    section = section_of("modernbert")
    params = random_params(section, mean)
    huggingface.export(params, section, tokenizer_dir, tmp_path / "model", task=mean)
    assert verify(tmp_path / "model", params, section, texts, task=mean).comparisons[-1].name == "scores"
    assert huggingface.load(tmp_path / "model", key=jax.random.key(0), with_task=True).task == mean
    for family, pooling, reads in (("bert", "mean", "reads cls"), ("modernbert", "max", "reads cls or mean")):
        task = dataclasses.replace(mean, pooling=pooling)
        with pytest.raises(ValueError, match=f"reads the {pooling} of all tokens, but transformers' .*ForSequenceClassification {reads} .*--config.head.pooling=cls"):
            huggingface.export({}, section_of(family), tokenizer_dir, tmp_path / "other", task=task)
    assert not (tmp_path / "other").exists()
