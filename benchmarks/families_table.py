"""Writes docs/families.md: the families, their published sizes and what of them is tested.

    python benchmarks/families_table.py

Parameters and FLOPs are counted from the specs, what is tested is read off the tests; tests/test_families_table.py fails when the page is stale.
"""

import ast
import re
from pathlib import Path
from typing import Any

from bert_jax.interop.architectures import ARCHITECTURES, PARTS
from bert_jax.model.families import FAMILIES, build_spec
from bert_jax.model.spec import DetectionSpec
from bert_jax.training.metrics import model_flops
from bert_jax.training.state import make_blueprint

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "families.md"
LENGTH, RATE = 512, 0.15
NAMES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")


def _sizes(family: str, *numbers: int, **others: Any) -> dict[str, Any]:
    return {"family": family} | dict(zip(NAMES, numbers)) | others


def _generator(hidden: int, heads: int, *, layers: int = 12) -> dict[str, int]:
    return {"generator_hidden_size": hidden, "generator_layers": layers, "generator_heads": heads, "generator_intermediate_size": 4 * hidden}


# model -> (its `model` section, tokenizer).
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "BERT base": (_sizes("bert", 30_522, 768, 12, 12, 3072), "WordPiece"),
    "BERT large": (_sizes("bert", 30_522, 1024, 24, 16, 4096), "WordPiece"),
    "mBERT": (_sizes("bert", 119_547, 768, 12, 12, 3072), "WordPiece"),
    "RoBERTa base": (_sizes("roberta", 50_265, 768, 12, 12, 3072), "byte-level BPE"),
    "RoBERTa large": (_sizes("roberta", 50_265, 1024, 24, 16, 4096), "byte-level BPE"),
    "XLM-R base": (_sizes("xlm_roberta", 250_002, 768, 12, 12, 3072), "SentencePiece"),
    "XLM-R large": (_sizes("xlm_roberta", 250_002, 1024, 24, 16, 4096), "SentencePiece"),
    "XLM-R XL": (_sizes("xlm_roberta_xl", 250_880, 2560, 36, 32, 10_240), "SentencePiece"),
    "XLM-R XXL": (_sizes("xlm_roberta_xl", 250_880, 4096, 48, 32, 16_384), "SentencePiece"),
    "ALBERT base v1": (_sizes("albert", 30_000, 768, 12, 12, 3072, activation="gelu", dropout=0.1, attention_dropout=0.1), "SentencePiece"),
    "ALBERT base v2": (_sizes("albert", 30_000, 768, 12, 12, 3072), "SentencePiece"),
    "ALBERT large v2": (_sizes("albert", 30_000, 1024, 24, 16, 4096), "SentencePiece"),
    "ALBERT xlarge v2": (_sizes("albert", 30_000, 2048, 24, 16, 8192), "SentencePiece"),
    "ALBERT xxlarge v2": (_sizes("albert", 30_000, 4096, 12, 64, 16_384), "SentencePiece"),
    "DistilBERT base": (_sizes("distilbert", 30_522, 768, 6, 12, 3072), "WordPiece"),
    "ELECTRA small": (_sizes("electra", 30_522, 256, 12, 4, 1024, embedding_size=128, **_generator(64, 1)), "WordPiece"),
    "ELECTRA base": (_sizes("electra", 30_522, 768, 12, 12, 3072, embedding_size=768, **_generator(256, 4)), "WordPiece"),
    "ELECTRA large": (_sizes("electra", 30_522, 1024, 24, 16, 4096, embedding_size=1024, **_generator(256, 4, layers=24)), "WordPiece"),
    "DeBERTa base": (_sizes("deberta", 50_265, 768, 12, 12, 3072), "byte-level BPE"),
    "DeBERTa large": (_sizes("deberta", 50_265, 1024, 24, 16, 4096), "byte-level BPE"),
    "DeBERTa xlarge": (_sizes("deberta", 50_265, 1024, 48, 16, 4096), "byte-level BPE"),
    "DeBERTa-v2 xlarge": (_sizes("deberta_v2", 128_100, 1536, 24, 24, 6144, convolution=3), "SentencePiece"),
    "DeBERTa-v2 xxlarge": (_sizes("deberta_v2", 128_100, 1536, 48, 24, 6144, convolution=3), "SentencePiece"),
    "DeBERTa-v3 xsmall": (_sizes("deberta_v3", 128_100, 384, 12, 6, 1536, generator_layers=6), "SentencePiece"),
    "DeBERTa-v3 small": (_sizes("deberta_v3", 128_100, 768, 6, 12, 3072, generator_layers=3), "SentencePiece"),
    "DeBERTa-v3 base": (_sizes("deberta_v3", 128_100, 768, 12, 12, 3072, generator_layers=6), "SentencePiece"),
    "DeBERTa-v3 large": (_sizes("deberta_v3", 128_100, 1024, 24, 16, 4096, generator_layers=12), "SentencePiece"),
    "mDeBERTa-v3 base": (_sizes("deberta_v3", 251_000, 768, 12, 12, 3072, generator_layers=6), "SentencePiece"),
    "Academic BERT large": (_sizes("academic_bert", 30_522, 1024, 24, 16, 4096), "WordPiece"),
    "Crammed BERT": (_sizes("crammed_bert", 32_768, 768, 16, 12, 1536, max_positions=LENGTH), "WordPiece"),
    "MosaicBERT base": (_sizes("mosaic_bert", 30_522, 768, 12, 12, 3072), "WordPiece"),
    "Longformer base": (_sizes("longformer", 50_265, 768, 12, 12, 3072), "byte-level BPE"),
    "Longformer large": (_sizes("longformer", 50_265, 1024, 24, 16, 4096), "byte-level BPE"),
    "BigBird base": (_sizes("big_bird", 50_358, 768, 12, 12, 3072), "SentencePiece"),
    "BigBird large": (_sizes("big_bird", 50_358, 1024, 24, 16, 4096), "SentencePiece"),
    "ModernBERT base": (_sizes("modernbert", 50_368, 768, 22, 12, 1152), "byte-level BPE"),
    "ModernBERT large": (_sizes("modernbert", 50_368, 1024, 28, 16, 2624), "byte-level BPE"),
}
ALONE = ("electra_generator", "electra_discriminator", "deberta_v3_discriminator")  # parts of other families, which transformers has as models of their own


def objective(section: dict[str, Any]) -> str:
    spec = build_spec(section)
    if isinstance(spec, DetectionSpec):
        return f"generator's MLM + {spec.loss_weight:g} x replaced tokens"
    return f"MLM + {'sentence order' if spec.encoder.layer_groups else 'NSP'}" if spec.nsp else "MLM"


def tested(family: str) -> dict[str, bool]:
    """Parity, in and out and pretraining of a family, as the tests name it."""

    def named(pattern: str) -> bool:
        return any(f'"{family}"' in file.read_text() for file in (ROOT / "tests").glob(pattern))

    verified = family in (*ARCHITECTURES, *PARTS) and named("interop/*.py")  # which every such test begins with
    return {
        "parity": verified or named("model/test_parity.py"),
        "in and out": verified,
        "pretraining": any(family == _family_of(file) for file in (ROOT / "configs").glob("*.py")),
    }


def _family_of(config: Path) -> str | None:
    found = re.search(r"family=(\"\w+\")", config.read_text())
    return ast.literal_eval(found[1]) if found else None


def render() -> str:
    lines = [
        "# Families", "",
        "Every family is a setting of one encoder (`bert_jax/model/`): a function in `families/` takes the published sizes and gives a spec. This page is written by",
        "`python benchmarks/families_table.py`, and a test fails when it is stale.", "",
        f"Parameters: with all pretraining heads, and of ELECTRA and DeBERTa-v3 both networks. FLOPs: of a forward and backward pass, per token at length {LENGTH} with {RATE:.0%} of tokens",
        "predicted, as `metrics.model_flops` counts them.", "",
        "| model | family | parameters | MFLOPs per token | objective | tokenizer |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, (section, tokenizer) in MODELS.items():
        spec = build_spec(section)
        flops = model_flops(spec, LENGTH, round(RATE * LENGTH)) / LENGTH
        lines.append(
            f"| {name} | `{section['family']}` | {make_blueprint(spec).num_params:,} | {flops / 1e6:,.0f} | {objective(section)} | {tokenizer} |"
        )
    lines += [
        "", "What is tested: parity, logits and hidden states of every layer within 1e-4 of transformers' model in float32, and for most families gradients",
        "(`tests/model/test_parity.py`); in and out, a Hugging Face directory that stock transformers loads whole and that comes back exactly; pretraining, a config",
        "that trains on text.", "", "| family | parity | in and out | pretraining |", "|---|---|---|---|",
    ]  # fmt: skip
    for family in FAMILIES:
        if family not in ALONE:
            lines.append(f"| `{family}` | " + " | ".join("yes" if done else "no" for done in tested(family).values()) + " |")
    lines += ["", "A family without a class in transformers (`no` in the first two columns) can be trained and used, but not exported.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
