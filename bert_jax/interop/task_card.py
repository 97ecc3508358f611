"""The README.md of an exported fine-tuned model: what it is for, how to use it, how it scored."""

import numpy as np

from bert_jax.interop import tasks
from bert_jax.interop.architectures.architecture import Architecture
from bert_jax.interop.model_card import article_of, sections_of, sizes_of, table
from bert_jax.interop.tasks import Task
from bert_jax.model.spec import TaskSpec

TEMPLATE = """\
---
library_name: {library}
pipeline_tag: {tag}
tags:
- {model_type}
- {tag}
- bert_jax
---

# {name}

{article} {title} encoder, fine-tuned with bert_jax for {purpose}.

## Use

```python
{example}
```
{remark}
## Model

{model}{labels}{sections}"""

PURPOSES = {
    "classification": "the classification of texts",
    "multilabel": "the classification of texts, with any number of labels for each",
    "regression": "scoring texts with a number",
    "ranking": "telling how relevant a passage is to a query (a cross-encoder)",
    "tokens": "labelling the words of a text",
    "span": "finding the answer to a question in a passage",
    "choice": "choosing between continuations of a text",
    "embedding": "vectors of sentences",
}
TAGS = {
    "tokens": "token-classification", "span": "question-answering", "choice": "multiple-choice", "embedding": "sentence-similarity", "ranking": "text-ranking",
}  # fmt: skip
PIPELINE = """\
from transformers import pipeline

answer = pipeline("{tag}", model="{name}"{options})
print(answer("Paris is the capital of France."))"""
SPAN_EXAMPLE = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForQuestionAnswering.from_pretrained("{name}").eval()
question, passage = "What is the capital of France?", "Paris is the capital of France."
inputs = tokenizer(question, passage, truncation="only_second", return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs{more})
scores = outputs.start_logits[0][:, None] + outputs.end_logits[0][None, :]
in_passage = torch.tensor([part == 1 for part in inputs.sequence_ids(0)])
scores[~(in_passage[:, None] & in_passage[None, :]).triu()] = -torch.inf
start, end = divmod(int(scores.argmax()), len(in_passage))
spans = tokenizer(question, passage, truncation="only_second", return_offsets_mapping=True)["offset_mapping"]
print(passage[spans[start][0] : spans[end][1]])"""
CHOICE_EXAMPLE = """\
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForMultipleChoice.from_pretrained("{name}").eval()
text, choices = "She opened the window", ["and let the air in.", "and fell asleep in the sun."]
inputs = tokenizer([text] * len(choices), choices, padding=True, truncation=True, return_tensors="pt")
inputs = {{field: tensor[None] for field, tensor in inputs.items()}}{more}
with torch.no_grad():
    print(choices[model(**inputs).logits[0].argmax()])"""
EMBEDDING_EXAMPLE = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
vectors = model.encode(["Paris is the capital of France.", "France has Paris for its capital."])
print(vectors.shape, model.similarity(vectors, vectors))"""
RANKING_EXAMPLE = """\
from sentence_transformers import CrossEncoder

model = CrossEncoder("{name}")
passages = ["Paris is the capital of France.", "Berlin is the capital of Germany."]
print(model.predict([("What is the capital of France?", passage) for passage in passages]))  # the higher, the more relevant"""
EXAMPLES = {"span": SPAN_EXAMPLE, "choice": CHOICE_EXAMPLE, "embedding": EMBEDDING_EXAMPLE, "ranking": RANKING_EXAMPLE}
MORE = {  # of the examples where the class would choose by itself
    "span": ', global_attention_mask=torch.zeros_like(inputs["input_ids"])',
    "choice": '\ninputs["global_attention_mask"] = (torch.arange(inputs["input_ids"].shape[-1]) == 0).long().expand_as(inputs["input_ids"])',
}
OPTIONS = {"tokens": ', aggregation_strategy="simple"', "classification": ", top_k=None", "multilabel": ", top_k=None"}
MOST_LABELS = 100


def render(name: str, architecture: Architecture, spec: TaskSpec, task: Task, tensors: dict[str, np.ndarray], card: dict) -> str:
    """The card's Markdown. card: as `model_card.render` has it."""
    tag, remark = TAGS.get(task.kind, "text-classification"), architecture.remarks.get(tasks.CLASSES.get(task.kind, ""), "")
    example = EXAMPLES.get(task.kind, PIPELINE)
    return TEMPLATE.format(
        library="sentence-transformers" if task.kind in ("embedding", "ranking") else "transformers",
        tag=tag,
        model_type=architecture.model_type,
        name=name,
        article=article_of(architecture.title),
        title=architecture.title,
        purpose=PURPOSES[task.kind],
        example=example.format(name=name, tag=tag, options=OPTIONS.get(task.kind, ""), more=MORE.get(task.kind, "") if remark else ""),
        remark=f"\n{remark}\n" if remark else "",
        model=table(sizes_of(spec.encoder, task.length, tensors) | _head(architecture, task)),
        labels=_labels(task.labels),
        sections=sections_of(card),
    )


def _head(architecture: Architecture, task: Task) -> dict[str, object]:
    pooled = {} if task.kind in ("tokens", "span") else {"Pooling": task.pooling}
    return {"Class": tasks.model_class(architecture, task)} | pooled


def _labels(labels: tuple[str, ...] | None) -> str:
    if not labels:
        return ""
    shown = ", ".join(f"`{label}`" for label in labels[:MOST_LABELS])
    return f"\nLabels ({len(labels)}): {shown}{', ...' if len(labels) > MOST_LABELS else ''}\n"
