"""A fine-tuned or pretrained model put to use on all devices: what `predict`, `embed` and `rank` stand on."""

import dataclasses
from pathlib import Path

import jax
from tqdm import tqdm

from bert_jax.model.spec import POOLINGS, Compute
from bert_jax.processes import is_first
from bert_jax.sharding import make_mesh
from bert_jax.training.state import Tree, abstract_params, make_blueprint, shardings_of
from data_pipeline.tasks.encode import Features, encode
from data_pipeline.tasks.examples import Examples, read_examples
from data_pipeline.tasks.task_data import TaskData
from launch.config import ConfigError
from launch.finetune.outputs import Predictor, Scores, make_predictor
from launch.finetune.sets import TaskSet, lengths_up_to
from launch.finetune.task_file import TaskFile
from launch.load_model import LoadedModel, load_model

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Model:
    """A task's model on the devices of this machine."""

    loaded: LoadedModel
    task: TaskFile
    predictor: Predictor
    params: Tree
    tokenizer: object

    def scores(self, features: Features) -> Scores:
        """With a progress bar over batches on a terminal."""
        batches = -(-len(features) // self.predictor.batch_size)
        with tqdm(total=batches, unit="batch", disable=None if is_first() else True, leave=False) as bar:
            return self.predictor.scores(self.params, features, lengths_up_to(self.task.length), bar.update)

    def encode(self, examples: Examples, task: TaskData) -> Features:
        return encode(examples, self.tokenizer, task, self.task.length, **({"doc_stride": self.task.stride} if task.kind == "span" else {}))

    def read(self, source: str, columns: dict, *, labelled: bool) -> TaskSet:
        """Of a file with the columns of the training data, but for those given."""
        names = self.task.columns | columns | ({} if labelled else {"label": None, "tags": None})
        names |= {name: tuple(names[name]) for name in ("choices",)}
        task = TaskData(self.task.kind, **names, label_names=self.task.labels)
        examples = read_examples(source, task)
        return TaskSet(source, examples, self.encode(examples, task))


def open_model(path: Path, kinds: tuple[str, ...], *, batch_size: int = BATCH_SIZE, dtype: str = "float32") -> Model:
    """A model fine-tuned for one of the kinds; ConfigError for another."""
    loaded = load_model(path)
    if loaded.task is None or loaded.task.kind not in kinds:
        found = "was not fine-tuned" if loaded.task is None else f"was fine-tuned for {loaded.task.kind}"
        raise ConfigError(f"{path} {found}; give a model for {' or '.join(kinds)} (bert-jax finetune)")
    return on_devices(loaded, loaded.task, loaded.params, batch_size, dtype)


def open_encoder(path: Path, *, pooling: str | None = None, length: int = 0, batch_size: int = BATCH_SIZE, dtype: str = "float32") -> Model:
    """Any model, for its sentence vectors. pooling: None: as it was trained for embeddings, else the mean. length: 0: the longest that it takes, of a
    pretrained one up to 512."""
    return as_encoder(load_model(path), pooling=pooling, length=length, batch_size=batch_size, dtype=dtype)


def as_encoder(loaded: LoadedModel, *, pooling: str | None = None, length: int = 0, batch_size: int = BATCH_SIZE, dtype: str = "float32") -> Model:
    """A model that is already open, as `open_encoder` has it."""
    loaded = loaded.encoder_alone()
    trained = loaded.task if loaded.task is not None and loaded.task.kind == "embedding" else None
    if pooling is not None and pooling not in POOLINGS:
        raise ConfigError(f"--pooling={pooling}: known: {', '.join(POOLINGS)}")
    longest = loaded.blueprint.spec.encoder.embedding.max_positions
    length = length or (trained.length if trained else min(longest, 512))
    if not 3 <= length <= longest:
        raise ConfigError(f"--length={length} does not fit; the model takes 3 to {longest} tokens")
    pooling = pooling or (trained.pooling if trained else "mean")
    task = TaskFile("embedding", 1, pooling, 0.0, None, {}, length, adapt=loaded.task.adapt if loaded.task else None)
    return on_devices(loaded, task, {"encoder": loaded.params["encoder"]}, batch_size, dtype)


def on_devices(loaded: LoadedModel, task: TaskFile, params: Tree, batch_size: int, dtype: str) -> Model:
    blueprint, mesh = make_blueprint(task.spec(loaded.section)), make_mesh()
    attention = "pallas" if mesh.devices.flat[0].platform == "tpu" else "xla"
    abstract = abstract_params(blueprint, mesh)
    predictor = make_predictor(blueprint, Compute(dtype=dtype, attention=attention), abstract, mesh, batch_size)
    return Model(loaded, task, predictor, jax.device_put(params, shardings_of(abstract)), loaded.tokenizer())
