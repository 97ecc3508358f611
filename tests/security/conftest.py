"""What must not happen: code of foreign files that runs leaves a canary behind."""

import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.interop import architectures, weights
from bert_jax.model.families import build_spec
from bert_jax.training.state import make_blueprint

SECTION = {"family": "bert", "vocab_size": 30, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 8, "max_positions": 16}
# Names under which a program might look for code in a model's or a run's directory.
CODE = (
    "config.py", "configs.py", "get_config.py", "modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "__init__.py", "conftest.py", "sitecustomize.py", "setup.py",
    "numpy.py", "jax.py", "launch.py", "checkpoints.py",
)


@pytest.fixture
def canary(tmp_path) -> types.SimpleNamespace:
    """path: what appears if it sings. code: Python that makes it. payload(): an object whose unpickling makes it. plant(DIR): code under many names."""
    path = tmp_path / "canary"
    code = f"import os\nos.makedirs({str(path)!r}, exist_ok=True)\n\ndef get_config():\n    raise SystemExit\n"

    class Payload:
        def __reduce__(self):
            return Path.mkdir, (path,)

    def plant(directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name in CODE:
            (directory / name).write_text(code)

    return types.SimpleNamespace(path=path, code=code, payload=Payload, plant=plant)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A Hugging Face directory with a tiny BERT of zeros and no tokenizer."""
    directory = tmp_path_factory.mktemp("foreign") / "model"
    directory.mkdir()
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), make_blueprint(build_spec(SECTION)).params)
    tensors = weights.to_tensors(params, build_spec(SECTION), architectures.architecture_of(SECTION).naming)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(architectures.config_from_section(SECTION, pad=0, cls=1, sep=2)))
    return directory
