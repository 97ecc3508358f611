"""A mesh that does not cut the model evenly is refused with the field, its value and the sizes that fit."""

import pytest
from jax.sharding import AbstractMesh

from bert_jax.model.families import bert
from bert_jax.sharding import MESH_AXES
from bert_jax.training.state import make_blueprint
from launch.config import ConfigError
from launch.run import check_mesh_divides

BLUEPRINT = make_blueprint(bert(vocab_size=200, hidden_size=48, num_layers=2, num_heads=4, intermediate_size=96, max_positions=32))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (5, 3, 4)], ids=str)
def test_meshes_that_fit(sizes):
    check_mesh_divides(BLUEPRINT, AbstractMesh(sizes, MESH_AXES))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((1, 1, 8), "model.num_heads is 4, which does not divide over mesh.tensor = 8 devices; this model takes 1, 2, 4$"),
        ((1, 5, 1), "model.hidden_size is 48, which does not divide over mesh.fsdp = 5 devices; this model takes 1, 2, 3, 4$"),
        ((1, 1, 3), "model.num_heads is 4, which does not divide over mesh.tensor = 3 devices; this model takes 1, 2$"),
    ],
)
def test_meshes_that_do_not(sizes, words):
    with pytest.raises(ConfigError, match=words):
        check_mesh_divides(BLUEPRINT, AbstractMesh(sizes, MESH_AXES))


def test_the_padded_vocabulary_bounds_tensor_too():
    narrow = make_blueprint(bert(vocab_size=200, hidden_size=48, num_layers=2, num_heads=3, intermediate_size=96, max_positions=32))
    with pytest.raises(ConfigError, match="the vocabulary, padded to a multiple of 128, is 256, which does not divide over mesh.tensor = 3 devices; .* 1$"):
        check_mesh_divides(narrow, AbstractMesh((1, 1, 3), MESH_AXES))
