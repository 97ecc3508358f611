"""The line of the log that says what computes attention, and why."""

import pytest

from bert_jax.model.spec import AttentionSpec, Compute
from launch.run import attention_in_words

PLAIN = AttentionSpec(12, 64, 0.1)


@pytest.mark.parametrize(
    ("asked", "chosen", "kinds", "lengths", "device", "words"),
    [
        ("xla", "xla", (PLAIN,), (128,), "TPU v4", "xla"),
        ("auto", "xla", (PLAIN,), (128, 2048), "NVIDIA H200", "xla (auto: the Pallas kernel is for TPUs from v4 on, not for NVIDIA H200)"),
        ("auto", "xla", (PLAIN,), (128,), "TPU v3", "xla (auto: the Pallas kernel is for TPUs from v4 on, not for TPU v3)"),
        ("auto", "pallas", (PLAIN,), (128, 512), "TPU v4", "pallas (auto, on TPU v4)"),
        ("pallas", "pallas", (PLAIN,), (100, 128, 2048, 2048), "TPU v4", "pallas, but xla at length 100, 2,048, which the kernel does not take"),
        ("auto", "pallas", (PLAIN, AttentionSpec(3, 40, 0.1)), (128,), "TPU v4", "pallas (auto, on TPU v4), but xla at length 128, which the kernel does not take"),
    ],
)
def test_it_names_the_choice_and_its_reason(asked, chosen, kinds, lengths, device, words):
    assert attention_in_words(asked, Compute(attention=chosen), kinds, lengths, device) == words
