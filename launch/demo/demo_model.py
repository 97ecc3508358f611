"""What the demo's page asks of a model: texts enter, and plain lists, numbers and words leave, ready for JSON."""

import functools
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.fill_mask import encode_with_masks, mask_in
from bert_jax.model.spec import DetectionSpec
from bert_jax.training.state import make_blueprint
from data_pipeline.tasks.examples import Examples
from data_pipeline.tasks.task_data import TaskData
from data_pipeline.tasks.token_rows import Texts, TokenRows, assemble, layout_of
from launch.config import ConfigError
from launch.finetune.embed import TEXTS
from launch.finetune.scoring import probabilities_of
from launch.finetune.sets import lengths_up_to
from launch.finetune.use import Model, as_encoder, on_devices
from launch.load_model import load_model

TOP = 8  # predictions for a mask
LONGEST_TEXT = 2000  # characters
MOST_MASKS = 16
MOST_TOKENS = 128  # in the matrices of attention, and where tokens are marked
MOST_LINES = 24
CLASSIFIED = ("classification", "multilabel", "regression", "ranking")
OF_TEXTS_OR_PAIRS = ("classification", "multilabel", "regression")


class DemoModel:
    """An open model. Methods may be called from several threads, and run one after another. What is asked in a wrong way is a ValueError in words."""

    def __init__(self, path: Path):
        self.loaded = load_model(path)
        self.name = path.resolve().name
        self.tokenizer = self.loaded.tokenizer()
        self.spec, self.task = self.loaded.blueprint.spec, self.loaded.task
        self._encoder = as_encoder(self.loaded, batch_size=1)  # so that the number of lines is no shape
        self.parts = self._parts()
        self._lock = threading.Lock()
        self._seen: tuple[tuple[str, str], TokenRows, np.ndarray] | None = None

    def about(self) -> dict[str, Any]:
        """The model in facts, the page's limits, and `parts`: None for what the model has, or why not. What means nothing for it is not named."""
        encoder = self.spec.encoder
        facts = {
            "family": self.loaded.section["family"],
            "layers": encoder.num_layers,
            "heads": encoder.attention.num_heads,
            "hidden size": encoder.hidden_size,
            "vocabulary": f"{encoder.embedding.vocab_size:,}",
            "parameters": f"{self.loaded.blueprint.num_params:,}",
        }
        if self.loaded.step is not None:
            facts["step"] = f"{self.loaded.step:,}"
        if self.task is not None:
            facts["fine-tuned for"] = self.task.kind
        return {
            "name": self.name, "facts": [[name, str(value)] for name, value in facts.items()], "mask": self.tokenizer.mask_token, "layers": encoder.num_layers,
            "heads": encoder.attention.num_heads, "pairs": self.pairs, "parts": self.parts,
            "pooling": self._encoder.task.pooling, "embeds": self.task is not None and self.task.kind == "embedding", "most_lines": MOST_LINES, "longest_text": LONGEST_TEXT,
        }

    def fill_mask(self, text: str) -> dict[str, Any]:
        """{"mask": how the text writes masks, "masks": for each of them the best predictions, best first}."""
        self._check("fill_mask", text)
        mask = mask_in(text, self.tokenizer)
        if text.count(mask) > MOST_MASKS:
            raise ValueError(f"the text has {text.count(mask)} masks; this page fills at most {MOST_MASKS}")
        with self._lock:
            (found,) = self._fill_mask([text], top_k=min(TOP, self.spec.encoder.embedding.vocab_size))
        predictions = [[{"token": one.token, "probability": one.probability, **self._surface(one.id)} for one in slot] for slot in found]
        return {"mask": mask, "masks": predictions}

    def replaced(self, text: str) -> dict[str, Any]:
        """{"tokens": with the "probability" that each was replaced}."""
        self._check("replaced", text)
        rows = self._rows(text, "")
        with self._lock:
            logits = np.asarray(self._detect(self.loaded.params, self._padded(rows)))[0, : len(rows.ids)]
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return {"tokens": [token | {"probability": float(one)} for token, one in zip(self._tokens(rows), probabilities)]}

    def classify(self, text: str, pair: str) -> dict[str, Any]:
        """{"classes": with their probabilities, best first} or {"score"}: of one number, which is no probability."""
        self._check("classify", text, pair)
        if self.pairs == "needed" and not pair.strip():
            raise ValueError("this model was fine-tuned on pairs; give the second text too")
        has_pair = self.pairs is not None and bool(pair.strip())
        task = TaskData(self.task.kind, text_pair="pair" if has_pair else None, label=None)
        with self._lock:
            features = self._classifier.encode(Examples(task.kind, ["0"], [text], [pair] if has_pair else None), task)
            scores = self._classifier.scores(features)[0]
        if task.kind in ("regression", "ranking"):
            return {"score": float(scores[0])}
        probabilities = probabilities_of(task.kind, scores)
        names = self.task.labels or [f"class {number}" for number in range(len(scores))]
        return {"classes": [{"name": names[number], "probability": float(probabilities[number])} for number in np.argsort(-scores, kind="stable")]}

    def attention(self, text: str, pair: str, layer: int, head: int | None) -> dict[str, Any]:
        """layer and head: from 1 on; None: the mean over heads. {"tokens", "weights": [queries, keys], "focus": [layers, heads], each the mean over queries of
        the largest probability}."""
        self._check("attention", text)
        encoder = self.spec.encoder
        if not 1 <= layer <= encoder.num_layers or not (head is None or 1 <= head <= encoder.attention.num_heads):
            raise ValueError(f"no layer {layer} with head {head}: there are {encoder.num_layers} layers of {encoder.attention.num_heads} heads")
        with self._lock:
            rows, probabilities = self._attention_of(text, pair)
        weights = probabilities[layer - 1].mean(0) if head is None else probabilities[layer - 1, head - 1]
        focus = probabilities.max(-1).mean(-1)
        return {"tokens": self._tokens(rows), "weights": np.round(weights, 6).tolist(), "focus": np.round(focus, 4).tolist()}

    def compare(self, lines: list[str]) -> dict[str, Any]:
        """{"lines": those with text, "cosines": [lines, lines], "nearest": the two that are most alike, "cut": how many lines were longer than "length" tokens and lost their end}."""
        lines = [line for line in lines if line.strip()]
        if not 2 <= len(lines) <= MOST_LINES:
            raise ValueError(f"give 2 to {MOST_LINES} lines with text; these are {len(lines)}")
        for line in lines:
            self._check("compare", line)
        with self._lock:
            features = self._encoder.encode(Examples("embedding", [str(number) for number in range(len(lines))], lines), TEXTS)
            vectors = self._encoder.scores(features)[""].astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        cosines = np.clip(vectors @ vectors.T, -1, 1)
        first, second = divmod(int(np.argmax(np.where(np.triu(np.ones_like(cosines), 1) > 0, cosines, -np.inf))), len(lines))
        return {"lines": lines, "cosines": np.round(cosines, 6).tolist(), "nearest": [first, second], "cut": features.truncated, "length": self._encoder.task.length}

    @property
    def pairs(self) -> str | None:
        """Whether `classify` takes a second text: "needed", "optional" or None. An exported model does not say what it was fine-tuned on."""
        if self.task is None:
            return None
        if self.task.columns.get("text_pair") is not None:
            return "needed"
        return "optional" if self.loaded.step is None and self.task.kind in OF_TEXTS_OR_PAIRS else None

    def _parts(self) -> dict[str, str | None]:
        """By name: None, or why the model has it not."""
        parts = {"attention": None, "compare": None}
        try:
            if self.task is not None:
                raise ConfigError(f"This model was fine-tuned for {self.task.kind} and predicts no masks any more. The pretrained model does.")
            if isinstance(self.spec, DetectionSpec) and self.spec.generator is None:
                raise ConfigError("This model has no generator, which predicts masks in ELECTRA. It tells which tokens look replaced instead.")
            _ = self._fill_mask
            parts["fill_mask"] = None
        except ConfigError as error:
            parts["fill_mask"] = str(error)
        if isinstance(self.spec, DetectionSpec):
            is_trained = self.loaded.has_trained("detection_head")
            parts["replaced"] = None if is_trained else f"{self.loaded.origin} came without the head that tells replaced tokens; give the pretrained model, or its workdir"
        if self.task is not None and self.task.kind != "embedding":
            fits = self.task.kind in CLASSIFIED
            parts["classify"] = None if fits else f"Answers of a model for {self.task.kind!r} are not shown here: `bert-jax predict` gives them for the examples of a file."
        return parts

    def _check(self, part: str, *texts: str) -> None:
        why_not = self.parts.get(part, "this model has no such part")
        if why_not is not None:
            raise ValueError(why_not)
        if not texts[0].strip():
            raise ValueError("there is no text; write a sentence")
        for text in texts:
            if len(text) > LONGEST_TEXT:
                raise ValueError(f"a text has {len(text):,} characters; this page takes at most {LONGEST_TEXT:,}")

    def _attention_of(self, text: str, pair: str) -> tuple[TokenRows, np.ndarray]:
        """The tokens, and float32 [layers, heads, queries, keys]; of the text that was asked for last, without running the model again."""
        if self._seen is None or self._seen[0] != (text, pair):
            rows = self._rows(text, pair)
            found = np.asarray(self._attend(self._encoder.params, self._padded(rows)))
            self._seen = (text, pair), rows, found[:, 0, :, : len(rows.ids), : len(rows.ids)]
        return self._seen[1:]

    def _rows(self, text: str, pair: str) -> TokenRows:
        """One row, in which a mask of the text is one."""
        pieces = [np.array(encode_with_masks(one, self.tokenizer), np.uint32) for one in (text, pair)]
        first, second = ((one.ids, one.starts, one.lengths) for one in (Texts(ids, np.array([len(ids)])) for ids in pieces))
        rows = assemble(layout_of(self.tokenizer), first, second if pair.strip() else None)
        if len(rows.ids) > self._longest:
            raise ValueError(f"the text has {len(rows.ids)} tokens; this page shows at most {self._longest} of them together")
        return rows

    def _padded(self, rows: TokenRows) -> dict[str, jax.Array]:
        length = next(size for size in lengths_up_to(self._longest) if size >= len(rows.ids))
        return jax.tree.map(jnp.asarray, rows.padded(np.arange(1), length, self.tokenizer.special["pad"]))

    def _surface(self, token: int) -> dict[str, Any]:
        text, continues = self.tokenizer.surface(token)
        return {"text": text, "continues": continues}

    def _tokens(self, rows: TokenRows) -> list[dict[str, Any]]:
        around = {self.tokenizer.special[name] for name in ("cls", "sep")}
        return [self._surface(int(token)) | {"special": int(token) in around} for token in rows.ids]

    @property
    def _longest(self) -> int:
        return min(MOST_TOKENS, self.spec.encoder.embedding.max_positions)

    @functools.cached_property
    def _fill_mask(self):
        return self.loaded.fill_mask()

    @functools.cached_property
    def _classifier(self) -> Model:
        return on_devices(self.loaded, self.task, self.loaded.params, 1, "float32")

    @functools.cached_property
    def _attend(self):
        blueprint = make_blueprint(self._encoder.task.spec(self._encoder.loaded.section))
        return jax.jit(lambda params, batch: blueprint.model(params).encoder.attention_probabilities(batch))

    @functools.cached_property
    def _detect(self):
        return jax.jit(lambda params, batch: self.loaded.blueprint.model(params).detection_logits(batch))
