"""Import directions between the rooms, and a core that never loads TensorFlow."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import bert_jax

ROOT = Path(__file__).parent.parent
OURS = ("bert_jax", "data_pipeline", "configs", "launch", "tests")
# Room -> what of ours it may import. The longest matching room counts.
ALLOWED = {
    "bert_jax/batch.py": (),
    "bert_jax/recorded.py": ("bert_jax.batch", "bert_jax.foreign"),
    "bert_jax/foreign.py": (),
    "bert_jax/sharding.py": (),
    "bert_jax/processes.py": (),
    "bert_jax/collectives.py": (),
    "bert_jax/model": ("bert_jax.model", "bert_jax.sharding", "bert_jax.batch"),
    "bert_jax/training": ("bert_jax.training", "bert_jax.model", "bert_jax.sharding", "bert_jax.batch", "bert_jax.processes", "bert_jax.foreign"),
    "bert_jax/plan": ("bert_jax.plan", "bert_jax.training.metrics"),
    "bert_jax/interop": ("bert_jax.interop", "bert_jax.model", "bert_jax.training.state", "bert_jax.sharding", "bert_jax.batch"),
    "bert_jax/fill_mask.py": ("bert_jax.model", "bert_jax.training.state"),
    "data_pipeline": ("data_pipeline", "bert_jax.batch"),
    "data_pipeline/tokenization": ("data_pipeline.tokenization",),
    "data_pipeline/sources": ("data_pipeline.sources", "data_pipeline.tokenization"),
    "data_pipeline/stores": ("data_pipeline.stores",),
    "data_pipeline/preparation": ("data_pipeline.preparation", "data_pipeline.sources", "data_pipeline.stores", "data_pipeline.tokenization"),
    "data_pipeline/sequences": ("data_pipeline.sequences", "data_pipeline.stores"),
    "data_pipeline/batches": ("data_pipeline.batches", "data_pipeline.sequences", "data_pipeline.stores"),
    "data_pipeline/tasks": ("data_pipeline.tasks", "data_pipeline.sources", "data_pipeline.tokenization", "data_pipeline.sequences.order"),
    "configs": (),
    "configs/finetune": ("configs.finetune",),  # variations of one another
    "launch": ("launch", "configs", "data_pipeline", "bert_jax"),
}


def imports(path: Path) -> set[str]:
    """Names of modules, `from package import module` resolved, wherever in the file they are imported."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if (ROOT / (name.replace(".", "/") + ".py")).exists() else node.module for name in parts}
    return names


def sources() -> list[Path]:
    return [path for room in ("bert_jax", "data_pipeline", "configs", "launch") for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_points_back(path):
    relative = str(path.relative_to(ROOT))
    room = max((room for room in ALLOWED if relative == room or relative.startswith(room + "/")), key=len, default=None)
    if room is None:
        assert path.name == "__init__.py"
        return
    for name in imports(path):
        if name.split(".")[0] in OURS:
            assert name.startswith(ALLOWED[room]), f"{relative} imports {name}"
        if not room.startswith("data_pipeline"):
            assert name.split(".")[0] != "tensorflow", f"{relative} imports tensorflow"
        if room.startswith("configs"):
            assert name == "ml_collections" or name.startswith("configs.finetune"), f"{relative} imports {name}"
        if name.startswith("orbax"):
            assert relative == "bert_jax/training/checkpoint.py"


def test_the_core_leaves_tensorflow_unloaded():
    modules = [module.name for module in pkgutil.walk_packages(bert_jax.__path__, "bert_jax.")]
    assert "bert_jax.training.loop" in modules
    code = (
        "import sys, importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "loaded = [name for name in sys.modules if name.split('.')[0] in ('tensorflow', 'clu')]\n"
        "assert not loaded, loaded[:3]\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
