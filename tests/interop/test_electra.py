"""ELECTRA: one set of parameters leaves as discriminator and generator, which stock transformers loads, and comes back as one."""

import jax
import numpy as np
import pytest
import transformers
from flax import nnx, traverse_util

from bert_jax.interop import architectures, huggingface
from bert_jax.interop.architectures import electra
from bert_jax.interop.verify import VerifyError, verify
from bert_jax.model.families import build_spec
from bert_jax.model.heads import build

GENERATOR = {"generator_hidden_size": 16, "generator_layers": 1, "generator_heads": 2, "generator_intermediate_size": 24}
# Tables of another width than both encoders, and of the discriminator's (ELECTRA-base), which then has no projection.
WIDTHS = {"narrow": 24, "as the encoder": 32}
CLASSES = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}


@pytest.fixture(scope="module", params=WIDTHS)
def exported(request, base_section, tokenizer_dir, tmp_path_factory):
    """(directory, section, params, parts)."""
    section = base_section | GENERATOR | {"family": "electra", "num_layers": 2, "embedding_size": WIDTHS[request.param], "detection_weight": 50.0}
    shapes = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: build(build_spec(section), rngs=nnx.Rngs(params=0))))[1])
    random = np.random.default_rng(0)
    params = jax.tree.map_with_path(lambda path, leaf: random.normal(float(path[-1].key == "scale"), 0.2, leaf.shape).astype(np.float32), shapes)
    directory, parts = tmp_path_factory.mktemp("electra"), architectures.parts_of(section, params)
    for name, (own, arrays) in parts.items():
        huggingface.export(arrays, own, tokenizer_dir, directory / name)
    return directory, section, params, parts


def load(directory):
    def part(name):
        imported = huggingface.load(directory / name, key=jax.random.key(0))
        assert imported.notes == []
        return imported.model_section, imported.params

    return part


def test_true_exports_pass(exported, texts):
    directory, _, _, parts = exported
    for name, heads, layers in (("discriminator", "detection logits", 2), ("generator", "MLM logits", 1)):
        section, params = parts[name]
        report = verify(directory / name, params, section, texts)
        assert [one.name for one in report.comparisons] == ["embeddings", *(f"layer {index}" for index in range(layers)), heads]
        assert all(one.difference < 1e-4 and one.magnitude > 0.1 for one in report.comparisons)


def test_stock_transformers_loads_every_weight(exported):
    directory = exported[0]
    models = {}
    for name, class_name in CLASSES.items():
        models[name], info = getattr(transformers, class_name).from_pretrained(directory / name, output_loading_info=True)
        assert not any(info.values()) and models[name].config.architectures == [class_name]
    tables = [model.electra.embeddings.word_embeddings.weight.detach().numpy() for model in models.values()]
    np.testing.assert_array_equal(*tables)
    assert models["generator"].generator_lm_head.weight is models["generator"].electra.embeddings.word_embeddings.weight
    card = (directory / "discriminator" / "README.md").read_text()
    assert "replaced-token detection" in card and "fill-mask" not in card and "add_pooling_layer" not in card
    assert "fill-mask" in (directory / "generator" / "README.md").read_text()


def test_a_damaged_discriminator_is_found(exported, texts):
    directory, _, _, parts = exported
    section, params = parts["discriminator"]
    head = params["detection_head"]
    wrong = params | {"detection_head": head | {"score": jax.tree.map(lambda leaf: leaf + 0.1, head["score"])}}
    with pytest.raises(VerifyError, match="first output that is off is detection logits"):
        verify(directory / "discriminator", wrong, section, texts)


def test_both_come_back_as_one(exported):
    directory, section, params, _ = exported
    found_section, found = electra.whole(load(directory))
    assert build_spec(found_section) == build_spec(section)
    found, expected = (traverse_util.flatten_dict(tree, sep=".") for tree in (found, params))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        rows = section["vocab_size"] if name in ("encoder.embed.tokens.embedding", "generator.mlm_head.bias") else None
        np.testing.assert_array_equal(found[name][:rows], array[:rows], err_msg=name)


def test_parts_of_different_models_are_refused(exported):
    directory = exported[0]

    def change(change_section, change_params):
        def part(name):
            section, params = load(directory)(name)
            return (section | change_section, change_params(params)) if name == "generator" else (section, params)

        return part

    with pytest.raises(ValueError, match=r"differ in vocab_size \(300 and 301\)"):
        electra.whole(change({"vocab_size": 301}, lambda params: params))
    moved = lambda params: params | {"encoder": jax.tree.map(lambda leaf: leaf + 1, params["encoder"])}  # noqa: E731
    with pytest.raises(ValueError, match="differ in their embeddings"):
        electra.whole(change({}, moved))


def test_the_encoder_alone_is_imported(exported, tmp_path):
    """As transformers saves an ElectraModel; the head is new."""
    directory, _, params, _ = exported
    transformers.ElectraModel.from_pretrained(directory / "discriminator").save_pretrained(tmp_path)
    imported = huggingface.load(tmp_path, key=jax.random.key(0))
    assert imported.model_section["family"] == "electra_discriminator"
    jax.tree.map(np.testing.assert_array_equal, imported.params["encoder"]["layers"], params["encoder"]["layers"])
    assert [note.split(":")[0] for note in imported.notes] == ["detection_head"]
