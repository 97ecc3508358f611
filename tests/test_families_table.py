"""docs/families.md is what the families are, and their published sizes give transformers' parameters."""

import importlib
import math
import re
import sys
from pathlib import Path

import jax
import pytest
import torch
import transformers

from bert_jax.interop import architectures, weights
from bert_jax.model.families import FAMILIES, build_spec
from bert_jax.training.state import make_blueprint

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
table = importlib.import_module("families_table")
sys.path.pop(0)


def test_the_page_is_not_stale():
    assert table.PAGE.read_text(encoding="utf-8") == table.render(), "run python benchmarks/families_table.py"


def test_no_family_is_left_out():
    assert {section["family"] for section, _ in table.MODELS.values()} == FAMILIES.keys() - set(table.ALONE)


@pytest.mark.parametrize("name", table.MODELS)
def test_published_sizes_give_the_published_weights(name):
    """Names and shapes are those of transformers' model of the same config, which is only described, not allocated; so is their number."""
    section = table.MODELS[name][0]
    if not {section["family"]} & (architectures.ARCHITECTURES.keys() | architectures.PARTS.keys()):
        pytest.skip("transformers has no such model")
    sections = {}

    def parts(params):
        found = architectures.parts_of(section, params)
        sections.update({part: own for part, (own, _) in found.items()})
        return {part: params for part, (_, params) in found.items()}

    shapes = jax.eval_shape(parts, make_blueprint(build_spec(section)).params)
    for own, params in ((own, shapes[part]) for part, own in sections.items()):
        pad = max(build_spec(own).encoder.embedding.position_offset - 1, 0)
        described = architectures.config_from_section(own, pad=pad, cls=0, sep=2)
        with torch.device("meta"):
            model = getattr(transformers, described["architectures"][0])(transformers.AutoConfig.for_model(**described))
        naming = architectures.architecture_of(own).naming
        spec, blueprint = build_spec(own), make_blueprint(build_spec(own))
        ours = {name: weight.stored_shape for weight in weights.weights(spec, naming) for name in weight.names}
        beside = {name: ours.pop(name) for name in weights.names_beside(spec, naming)}  # of parts that transformers lacks
        without_heads = not architectures.architecture_of(own).logits(spec)
        theirs = {naming.prefix * without_heads + name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        assert ours == {name: shape for name, shape in theirs.items() if name not in naming.tied}
        assert blueprint.num_params == model.num_parameters() + sum(map(math.prod, beside.values()))
        assert set(params) == set(blueprint.params)


def test_the_worked_example_is_the_code_and_short():
    """Every block of docs/adding_a_family.md stands in the file that the words before it name."""
    root = Path(__file__).parents[1]
    page = (root / "docs" / "adding_a_family.md").read_text(encoding="utf-8")
    blocks, lines = re.split(r"```python\n(.*?)```", page, flags=re.DOTALL), 0
    files: list[Path] = []
    for words, block in zip(blocks[::2], blocks[1::2]):
        files = [root / name for name in re.findall(r"`((?:bert_jax|tests)/[\w/.]+)`", words)] or files
        sources = [file for name in files for file in (name.glob("*.py") if name.is_dir() else [name])]
        assert any(block.rstrip("\n") in file.read_text(encoding="utf-8") for file in sources), block
        lines += sum(bool(line.strip()) for line in block.splitlines())
    assert lines < 80 and f"{lines} lines" in page
