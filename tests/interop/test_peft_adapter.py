"""LoRA's adapter leaves: PEFT over the same pretrained model computes what our merged model computes."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import traverse_util

from bert_jax.interop import huggingface
from bert_jax.interop.peft_adapter import export_adapter
from bert_jax.interop.tasks import Task
from bert_jax.interop.verify import our_outputs
from bert_jax.model.adapter_spec import LoraSpec
from bert_jax.model.adapters import is_added, with_lora_merged
from bert_jax.model.families import build_spec
from bert_jax.training.state import make_blueprint

SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "max_positions": 48, "vocab_size": 300}
TASK = Task("classification", 3, "cls", 0.1, ("a", "b", "c"), 40)
LORA = LoraSpec(3, 6.0, ("query", "value", "attention.output", "mlp"))


def drawn(shapes: dict) -> dict:
    draw = np.random.default_rng(0)
    return jax.tree.map_with_path(lambda path, leaf: draw.normal(float(path[-1].key == "scale"), 0.2, leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize(
    "section", [{"family": "bert"}, {"family": "modernbert", "window": 8, "global_every": 2}, {"family": "deberta", "max_distance": 40}], ids=lambda section: section["family"]
)
def test_peft_computes_what_the_merged_model_computes(section, tokenizer_dir, tmp_path):
    peft, torch, transformers = (pytest.importorskip(name) for name in ("peft", "torch", "transformers"))
    section = SIZES | section
    spec = TASK.spec(section)
    params = drawn(make_blueprint(dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, adapter=LORA))).params)
    encoder = traverse_util.unflatten_dict({path: leaf for path, leaf in traverse_util.flatten_dict(params["encoder"]).items() if not is_added(path)})
    huggingface.export(drawn(make_blueprint(build_spec(section)).params) | {"encoder": encoder}, section, tokenizer_dir, tmp_path / "base")
    export_adapter(params, section, TASK, LORA, tmp_path / "adapter")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3, attn_implementation="eager", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    ids = np.random.default_rng(1).integers(5, 300, (2, 20))
    mask = (np.arange(20) < [[20], [13]]).astype(np.int64)
    with torch.no_grad():
        theirs = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    _, heads = our_outputs(with_lora_merged(params, LORA), spec, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(theirs, heads["scores"], atol=2e-5)
    with pytest.raises(ValueError, match="not empty"):
        export_adapter(params, section, TASK, LORA, tmp_path / "adapter")
