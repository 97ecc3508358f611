"""Longformer and BigBird compute what transformers' models compute, at lengths where windows and blocks leave most keys out."""

import numpy as np
import pytest
import torch
from flax import nnx
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

from bert_jax.interop import weights
from bert_jax.model.families import build_spec
from bert_jax.model.long_attention import random_blocks
from bert_jax.model.long_spec import BlockSparseSpec
from tests.model.test_parity import BASE, architecture_of, graph, inputs_of, jit, loss_and_gradients, random_batch, random_params, stock

LONG = BASE | {"max_positions": 80, "num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0}
LONGFORMER = LONG | {"family": "longformer", "window": 8}
CASES = {  # name -> (section, length, tokens that are marked as global in each row: None is the model's own choice)
    "window": (LONGFORMER, 37, None),
    "window, first token global": (LONGFORMER | {"global_tokens": 1}, 37, None),
    "window, several tokens global": (LONGFORMER | {"global_tokens": 5}, 37, [[0, 3, 4, 5], [1], [], [0, 11, 20], [0, 35, 36]]),
    "short with global tokens": (LONGFORMER | {"global_tokens": 2, "window": 64}, 23, [[0, 3], [1], [], [0, 11], [0, 7]]),
    "blocks": (LONG | {"family": "big_bird", "block_size": 4, "random_blocks": 2, "nsp": True}, 64, None),
    "blocks, the last one not full": (LONG | {"family": "big_bird", "block_size": 4, "random_blocks": 1, "nsp": True}, 61, None),
    "blocks of a short input": (LONG | {"family": "big_bird", "block_size": 4, "random_blocks": 2, "nsp": True}, 32, None),
}


@pytest.fixture(scope="module", params=CASES)
def both(request):
    """(spec, batch, our result, their model after backward, their outputs, their loss). Theirs trains, without dropout, so that its blocks are random."""
    section, length, marked = CASES[request.param]
    spec = build_spec(section)
    params, batch = random_params(spec), random_batch(spec, length=length)
    given = {}
    if "global_tokens" in section:
        batch["global_tokens"] = np.zeros_like(batch["segment_ids"])
        for row, places in enumerate([[0]] * 5 if marked is None else marked):
            batch["global_tokens"][row, places] = batch["segment_ids"][row, places]
        given = {"global_attention_mask": torch.from_numpy(batch["global_tokens"]).long()}
        if marked is None:
            del batch["global_tokens"]
    model = stock(section, params).train()
    outputs = model(**inputs_of(batch, spec), **given, output_hidden_states=True)
    row, slot = np.nonzero(batch["mlm_weights"])
    mlm = outputs.prediction_logits if spec.nsp else outputs.logits
    targets = torch.from_numpy(batch["mlm_targets"][row, slot]).long()
    total = torch.nn.functional.cross_entropy(mlm[row, batch["mlm_positions"][row, slot]], targets, reduction="sum")
    if spec.nsp:
        total = total + torch.nn.functional.cross_entropy(outputs.seq_relationship_logits, torch.from_numpy(batch["nsp_labels"]).long(), reduction="sum")
    total.backward()
    return spec, batch, loss_and_gradients(spec)(params, batch), model, outputs, total.item()


def test_logits(both):
    spec, batch, ((total, logits), _), _, outputs, expected = both
    mlm = (outputs.prediction_logits if spec.nsp else outputs.logits).detach().numpy()
    theirs = np.take_along_axis(mlm, batch["mlm_positions"][:, :, None], axis=1)
    assert np.abs(theirs).max() > 2
    np.testing.assert_allclose(logits["mlm"][..., :300], theirs, atol=1e-4, rtol=0)
    if spec.nsp:
        np.testing.assert_allclose(logits["nsp"], outputs.seq_relationship_logits.detach().numpy(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_hidden_states(both):
    spec, batch, _, _, outputs, _ = both
    ours = jit(lambda params: nnx.merge(graph(spec)[0], params).encoder.hidden_states(batch))(random_params(spec))
    real, length = batch["segment_ids"] > 0, batch["segment_ids"].shape[1]
    for one, reference in zip(ours, outputs.hidden_states, strict=True):
        np.testing.assert_allclose(np.asarray(one)[real], reference.detach().numpy()[:, :length][real], atol=1e-4, rtol=0)


def test_gradients(both):
    """As in test_parity. Projections of global tokens have none where there are no such tokens, or where these are not predicted, in the last layer."""
    spec, batch, (_, gradients), model, _, _ = both
    naming = architecture_of(model).naming
    ours = weights.to_tensors(gradients, spec, naming)
    theirs = {name: parameter.grad for name, parameter in model.named_parameters(remove_duplicate=False) if name not in naming.tied}
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if expected is None or not expected.any():
            assert "_global." in name and not ours[name].any()
            continue
        scale = np.abs(theirs[name.replace("key.bias", "query.bias").replace("key_global.bias", "query_global.bias")].numpy()).max()
        assert scale > 1e-3, name
        assert np.abs(ours[name] - expected.numpy()).max() / scale < 1e-4, name


@pytest.mark.parametrize("length", [1024, 2048, 3072, 4096])
def test_random_blocks_are_the_published_ones(length):
    """Those of transformers' layers 0 and 5 while it trains; two of the four lengths are shorter than the longest and yet have its plan."""
    kind = BlockSparseSpec(3, 64, 0.0, block_size=64, random_blocks=3, longest=4096)
    ours = random_blocks(kind, length, 6)
    assert ours.shape == (6, 3, length // 64 - 2, 3) and 0 < ours.min() and ours.max() < length // 64

    class Plan(BigBirdBlockSparseAttention):
        def __init__(self):
            self.training = True

    for layer in (0, 5):
        np.random.seed(layer)
        if length == 2048:
            lengths, counts = Plan()._get_rand_attn_plan(length, 64, 3)
            theirs = Plan()._bigbird_block_rand_mask_with_head(length, length, 64, 64, 3, lengths, counts)
        else:
            theirs = [Plan()._bigbird_block_rand_mask(4096, 4096, 64, 64, 3, last_idx=1024)[: length // 64 - 2] for _ in range(3)]
        np.testing.assert_array_equal(ours[layer], theirs)
