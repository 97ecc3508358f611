"""Small models with random weights, of which the demo's page can be asked."""

import contextlib
import http.client
import json
import threading
import types
from pathlib import Path
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest

from bert_jax.interop import huggingface
from bert_jax.interop.tasks import Task
from bert_jax.model.families import build_spec
from bert_jax.model.families.tasks import task_spec
from bert_jax.training.state import make_blueprint
from data_pipeline.tokenization import tokenizers
from launch.demo.demo_model import DemoModel
from launch.demo.server import Server

SIZES = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 48, "max_positions": 64}
NAMED = Task("classification", 3, "cls", 0.0, ("bad", "<b>fair</b>", "good"), 64)


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """(family, task) -> a directory in Hugging Face layout."""
    root = tmp_path_factory.mktemp("exported")
    tokenizer, _ = tokenizers.train([topics["assert"], topics["import"]], root / "tokenizer", vocab_size=400)

    def make(family: str, task: Task | None = None, **sizes) -> Path:
        section = SIZES | {"family": family, "vocab_size": tokenizer.vocab_size} | sizes
        head = {} if task is None else {name: getattr(task, name) for name in ("kind", "outputs", "pooling", "dropout")}
        directory = root / f"{family}-{task and task.kind}"
        params = random_params(make_blueprint(task_spec(section, **head) if head else build_spec(section)))
        huggingface.export(params, section, root / "tokenizer", directory, task=task)
        return directory

    return make


def random_params(blueprint) -> dict:
    random = np.random.default_rng(0)
    return jax.tree.map_with_path(lambda path, leaf: random.normal(float(path[-1].key == "scale"), 0.2, leaf.shape).astype(np.float32), blueprint.params)


@contextlib.contextmanager
def serving(path: Path):
    """A server of a model, with `ask(path, question)` -> (status, what it says) and `send`, which takes all of a request."""
    with Server("127.0.0.1", 0) as server:
        server.model = DemoModel(path)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def send(method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders(body)
            answer = connection.getresponse()
            with contextlib.closing(connection):
                return answer.status, dict(answer.getheaders()), answer.read()

        def ask(path: str, question) -> tuple[int, dict]:
            body = json.dumps(question).encode()
            status, _, content = send("POST", path, body, Content_Type="application/json", Content_Length=str(len(body)))
            return status, json.loads(content)

        try:
            yield types.SimpleNamespace(server=server, model=server.model, send=send, ask=ask, path=path)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def served(export):
    """BERT as it is pretrained."""
    with serving(export("bert")) as found:
        yield found
