"""What the page is told are the model's own numbers: those of `bert-jax fill-mask`, of the encoder's attention, of `bert-jax embed`, of a fine-tuned head."""

import concurrent.futures
import dataclasses
import json

import jax
import numpy as np
import pytest

from bert_jax.interop.tasks import Task
from bert_jax.model.families import build_spec
from bert_jax.training.state import make_blueprint
from launch.config import ConfigError
from launch.demo import demo_model
from launch.fill_mask import print_predictions
from launch.finetune.embed import embed_texts
from launch.finetune.use import open_encoder
from launch.load_model import load_model
from tests.launch.demo.conftest import NAMED, random_params, serving

TEXT = "the [MASK] of a [MASK] is not a statement"


def answered(found, path, question):
    status, answer = found.ask(path, question)
    assert status == 200, answer
    return answer


def test_predictions_are_those_of_fill_mask(served, capsys):
    answer = answered(served, "/api/fill-mask", {"text": TEXT})
    assert answer["mask"] == "[MASK]" and [len(slot) for slot in answer["masks"]] == [8, 8]
    print_predictions(served.path, [TEXT], 8)
    shown = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "%" in line]
    assert shown == [[f"{one['probability']:.1%}", one["token"]] for slot in answer["masks"] for one in slot]


def test_probabilities_of_all_tokens_add_up_to_one(served, monkeypatch):
    monkeypatch.setattr(demo_model, "TOP", 10**6)
    for slot in answered(served, "/api/fill-mask", {"text": TEXT})["masks"]:
        assert len(slot) > 300 and sum(one["probability"] for one in slot) == pytest.approx(1, abs=1e-4)


def test_attention_is_the_encoders(served):
    question = {"text": "the module is imported", "pair": "an assertion fails", "layer": 2}
    heads = [answered(served, "/api/attention", question | {"head": head}) for head in (1, 2, 3, 4)]
    mean = answered(served, "/api/attention", question | {"head": None})
    tokens = [one["text"] for one in mean["tokens"]]
    assert [one["text"] for one in mean["tokens"] if one["special"]] == ["[CLS]", "[SEP]", "[SEP]"] and "import" in "".join(tokens)
    weights = np.array([head["weights"] for head in heads])
    assert weights.shape == (4, len(tokens), len(tokens))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-4)
    np.testing.assert_allclose(weights.mean(0), mean["weights"], atol=1e-5)
    np.testing.assert_allclose(np.array(mean["focus"])[1], weights.max(-1).mean(-1), atol=1e-4)
    loaded = load_model(served.path)
    ids = loaded.tokenizer().encode("the module is imported"), loaded.tokenizer().encode("an assertion fails")
    row = [2, *ids[0], 3, *ids[1], 3]
    batch = {
        "input_ids": np.array([row]), "segment_ids": np.ones((1, len(row)), np.int32),
        "token_type_ids": np.array([[0] * (len(ids[0]) + 2) + [1] * (len(ids[1]) + 1)]),
    }
    direct = jax.jit(lambda params: loaded.blueprint.model(params).encoder.attention_probabilities(batch))(loaded.params)
    np.testing.assert_allclose(weights, direct[1, 0], atol=1e-5)


def test_a_mask_is_one_token_where_attention_is_shown(served):
    tokens = answered(served, "/api/attention", {"text": TEXT, "pair": "", "layer": 1, "head": 1})["tokens"]
    assert [one["text"] for one in tokens].count("[MASK]") == 2


def test_similarities_are_those_of_embed(served):
    lines = ["the module is imported", "a module is not imported", "assert expression", "the module is imported"]
    answer = answered(served, "/api/compare", {"lines": [*lines[:2], "", *lines[2:]]})
    vectors = embed_texts(open_encoder(served.path), lines, normalise=True)
    np.testing.assert_allclose(answer["cosines"], vectors @ vectors.T, atol=1e-4)
    assert answer["lines"] == lines and answer["nearest"] == [0, 3] and answer["cut"] == 0
    assert answered(served, "/api/compare", {"lines": ["a", "module " * 90]})["cut"] == 1


def test_lengths_nearby_share_a_compiled_program(served):
    for words in (1, 3, 5):
        answered(served, "/api/attention", {"text": "a " * words, "pair": "", "layer": 1, "head": 1})
    shapes = served.model._attend._cache_size()
    for words in (2, 4, 6):
        answered(served, "/api/attention", {"text": "a " * words, "pair": "", "layer": 1, "head": 1})
    assert served.model._attend._cache_size() == shapes


def test_questions_at_once_have_the_answers_of_questions_alone(served):
    questions = [{"text": f"the {word} of a [MASK]"} for word in ("module", "statement", "name", "import")] * 3
    alone = [served.ask("/api/fill-mask", one) for one in questions[:4]]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda one: served.ask("/api/fill-mask", one), questions)) == alone * 3


def test_electra_without_its_generator_tells_replaced_tokens_alone(export):
    with serving(export("electra_discriminator", embedding_size=16)) as found:
        parts = json.loads(found.send("GET", "/api/model")[2])["parts"]
        assert "no generator" in parts["fill_mask"] and parts["replaced"] is None and "classify" not in parts
        status, answer = found.ask("/api/fill-mask", {"text": TEXT})
        assert status == 400 and answer["error"] == parts["fill_mask"]
        tokens = answered(found, "/api/replaced", {"text": "the module is purple"})["tokens"]
        assert tokens[0]["text"] == "[CLS]" and all(0 < one["probability"] < 1 for one in tokens)
        assert len({one["probability"] for one in tokens}) > 3


def test_electra_with_its_generator_fills_masks_too(served, monkeypatch):
    generator = {f"generator_{name}": size for name, size in {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 24}.items()}
    section = served.model.loaded.section | generator | {"family": "electra", "embedding_size": 16}
    section.pop("nsp", None)
    blueprint = make_blueprint(build_spec(section))
    loaded = dataclasses.replace(served.model.loaded, section=section, blueprint=blueprint, params=random_params(blueprint))
    monkeypatch.setattr(demo_model, "load_model", lambda path: loaded)
    found = demo_model.DemoModel(served.path)
    assert found.parts == {"attention": None, "compare": None, "fill_mask": None, "replaced": None}
    assert len(found.fill_mask("a [MASK] is")["masks"][0]) == 8 and len(found.replaced("a module is")["tokens"]) >= 5
    assert np.sum(found.attention("a module is", "", 1, 1)["weights"][0]) == pytest.approx(1, abs=1e-4)


def test_a_classifier_gives_its_classes(export):
    with serving(export("bert", NAMED)) as found:
        about = json.loads(found.send("GET", "/api/model")[2])
        assert "fine-tuned for classification" in about["parts"]["fill_mask"] and about["parts"]["classify"] is None
        classes = answered(found, "/api/classify", {"text": "a fine module", "pair": ""})["classes"]
        assert {one["name"] for one in classes} == set(NAMED.labels)
        shares = [one["probability"] for one in classes]
        assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("task", [NAMED, Task("multilabel", 3, "cls", 0.0, NAMED.labels, 64), Task("regression", 1, "cls", 0.0, None, 64)], ids=lambda task: task.kind)
def test_an_exported_model_of_texts_or_of_pairs_takes_both(export, task):
    found = demo_model.DemoModel(export("bert", task))
    assert found.about()["pairs"] == "optional"
    model, encode = found.loaded.blueprint.model(found.loaded.params), found.tokenizer.encode
    for pair in ("", "an assertion fails"):
        first, second = encode("the module is imported"), [*encode(pair), 3] if pair else []
        row = [2, *first, 3, *second]
        batch = {"input_ids": row, "segment_ids": [1] * len(row), "token_type_ids": [0] * (len(first) + 2) + [1] * len(second)}
        scores = np.asarray(model({name: np.array([values]) for name, values in batch.items()}), np.float64)[0]
        answer = found.classify("the module is imported", pair or " ")
        if task.kind == "regression":
            assert answer["score"] == pytest.approx(scores[0], abs=1e-4)
            continue
        expected = 1 / (1 + np.exp(-scores)) if task.kind == "multilabel" else np.exp(scores) / np.exp(scores).sum()
        assert {one["name"]: one["probability"] for one in answer["classes"]} == pytest.approx(dict(zip(NAMED.labels, expected)), abs=1e-4)


@pytest.mark.parametrize("column, pairs", [(None, None), ("other", "needed")])
def test_a_workdir_knows_whether_it_was_trained_on_pairs(export, monkeypatch, column, pairs):
    loaded = load_model(export("bert", NAMED))
    loaded = dataclasses.replace(loaded, step=7, task=dataclasses.replace(loaded.task, columns=loaded.task.columns | {"text_pair": column}))
    monkeypatch.setattr(demo_model, "load_model", lambda path: loaded)
    found = demo_model.DemoModel(export("bert", NAMED))
    assert found.about()["pairs"] == pairs
    if pairs == "needed":
        with pytest.raises(ValueError, match="give the second text too"):
            found.classify("a fine module", " ")
    else:
        assert found.classify("a fine module", "ignored") == found.classify("a fine module", "")


def test_a_head_that_did_not_come_with_the_model_predicts_nothing(export):
    directory = export("bert", Task("embedding", 1, "mean", 0.0, None, 64))
    (directory / "modules.json").unlink()  # which leaves the encoder alone
    loaded = load_model(directory)
    assert loaded.task is None and not loaded.has_trained("mlm_head")
    with pytest.raises(ConfigError, match="without the head that predicts masks"):
        loaded.fill_mask()
