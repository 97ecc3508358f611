"""The README.md of an exported directory: what the model is, how it was trained, how to use it."""

import numpy as np

from bert_jax.interop.architectures import architecture_of
from bert_jax.interop.weights import BESIDE_FILE, names_beside
from bert_jax.model.families import build_spec
from bert_jax.model.spec import EncoderSpec

TEMPLATE = """\
---
library_name: transformers
pipeline_tag: {task}
tags:
- {tag}
- {task}
- bert_jax
---

# {name}

{article} {title} encoder, pretrained with bert_jax with {objectives}.

## Use

```python
from transformers import AutoTokenizer, {model_class}, pipeline

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = {model_class}.from_pretrained("{name}")

{example}
```

{model_class} loads every weight. Narrower classes leave out the heads that they have no place for, and transformers
lists those as unexpected.{pooler}{beside}

## Model

{model}
{sections}"""


NO_POOLER = " There is no pooler: load the encoder with `AutoModel.from_pretrained(..., add_pooling_layer=False)`."
BESIDE = " It computes without what it has no place for, which lies in `{file}`: {names}."
EXAMPLES = {  # task -> what to do with `tokenizer`, `model` and `pipeline`
    "fill-mask": """\
fill_mask = pipeline("fill-mask", model="{name}")
print(fill_mask(f"Paris is the {{tokenizer.mask_token}} of France."))""",
    "feature-extraction": """\
features = pipeline("feature-extraction", model="{name}")
print(len(features("Paris is the capital of France.")[0]))""",
}
DETECTION = """
print(model(**tokenizer("Paris eats the capital of France.", return_tensors="pt")).logits)  # above 0: seems replaced"""


def render(name: str, section: dict, tensors: dict[str, np.ndarray], card: dict) -> str:
    """The card's Markdown. card: facts of the run; a dict becomes a section, nested dicts dotted names, other values rows of "Run"."""
    spec, architecture = build_spec(section), architecture_of(section)
    encoder, logits, beside = spec.encoder, architecture.logits(spec), names_beside(spec, architecture.naming)
    task, trained = ("fill-mask" if "MLM logits" in logits else "feature-extraction"), logits or ["detection logits"]
    objectives = {"MLM logits": "masked language modelling", "NSP logits": architecture.pair_objective, "detection logits": "replaced-token detection"}
    return TEMPLATE.format(
        name=name,
        tag=architecture.model_type,
        article=article_of(architecture.title),
        title=architecture.title,
        task=task,
        example=EXAMPLES[task].format(name=name) + (DETECTION if "detection logits" in logits else ""),
        objectives=" and ".join(objectives[name] for name in trained),
        model_class=architecture.model_class(spec),
        pooler=NO_POOLER if architecture.optional_pooler and not spec.nsp else "",
        beside=BESIDE.format(file=BESIDE_FILE, names=", ".join(f"`{name}`" for name in sorted(beside))) if beside else "",
        model=table(sizes_of(encoder, encoder.embedding.max_positions, tensors)),
        sections=sections_of(card),
    )


def article_of(title: str) -> str:
    return "An" if title[0] in "AEX" else "A"


def sizes_of(encoder: EncoderSpec, length: int, tensors: dict[str, np.ndarray]) -> dict[str, object]:
    """length: tokens of the longest input."""
    return {
        "Layers": encoder.num_layers,
        "Hidden size": encoder.hidden_size,
        "Attention heads": encoder.attention.num_heads,
        "Intermediate size": encoder.mlp.intermediate_size,
        "Activation": encoder.mlp.activation,
        "Vocabulary": encoder.embedding.vocab_size,
        "Longest input": f"{length} tokens",
        "Weights": f"{sum(tensor.size for tensor in tensors.values()):,} (float32)",
    }


def sections_of(card: dict) -> str:
    run = {key: value for key, value in card.items() if not isinstance(value, dict)}
    sections = ({"Run": run} if run else {}) | {heading: _flat(values) for heading, values in card.items() if isinstance(values, dict)}
    return "".join(f"\n## {heading.capitalize()}\n\n{table(values)}" for heading, values in sections.items())


def _flat(values: dict, prefix: str = "") -> dict:
    rows: dict = {}
    for name, value in values.items():
        rows |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return rows


def table(values: dict) -> str:
    rows = "".join(f"| {_cell(name)} | {_cell(value)} |\n" for name, value in values.items())
    return f"| | |\n|---|---|\n{rows}"


def _cell(value: object) -> str:
    return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|").replace("\n", " ")
