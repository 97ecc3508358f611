"""What benchmarks/finetune_comparison.py trains and sets side by side: tasks, their settings, and the same settings in the words of both sides. Plain data.

All of a task's settings are here, once; `overrides` says them to `bert-jax finetune`, `training_arguments` to transformers' Trainer.
"""

import dataclasses

ARMS = {"bert_jax": "bert_jax", "transformers": "transformers + torch"}
EXPORT, STEPS = "export", "steps"  # beside the arms: an exported run in transformers against `bert-jax predict`; both sides' losses without dropout
EVALUATION_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all tasks have in common. Rates rise from 0 over the first tenth of the steps and fall linearly to 0; Adam corrects its bias; biases and
    norms do not decay; the last checkpoint counts."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    dropout: float = 0.1  # of the encoder, its attention and the head


RECIPE = Recipe()


@dataclasses.dataclass(frozen=True)
class Task:
    """kind: as `bert-jax finetune` has it. config: of configs/finetune, for what is not said here. metrics: the names that tables show, the first decides.
    length, stride: in tokens. rows: the most that are trained on, the first of the file; 0: all."""

    name: str
    title: str
    kind: str
    config: str
    metrics: tuple[str, ...]
    length: int
    batch_size: int
    steps: int
    peak: float
    pair: bool = False
    rows: int = 0
    stride: int = 0

    @property
    def warmup_steps(self) -> int:
        return self.steps // 10

    @property
    def head_dropout(self) -> float:
        """None before the start and end of an answer, as in BERT (and transformers), nor on the mean of an embedding's tokens."""
        return 0.0 if self.kind in ("span", "embedding") else RECIPE.dropout


TASKS = {
    task.name: task
    for task in (
        Task("mr_sentences", "Sentiment of a sentence", "classification", "classification", ("accuracy",), 48, 16, 480, 5e-4),
        Task("banking77", "77 intents", "classification", "classification", ("accuracy",), 32, 32, 400, 1e-3),
        Task("nli_conjnli", "Inference, three classes", "classification", "classification", ("accuracy",), 96, 16, 250, 5e-4, pair=True, rows=4_000),
        Task("pos_ewt", "Parts of speech", "tokens", "conll2003", ("accuracy",), 64, 16, 400, 1e-3, rows=6_400),
        Task("ner_wikigold", "Names", "tokens", "conll2003", ("f1", "precision", "recall"), 64, 16, 350, 1e-3),
        Task("squad2_cs224n", "Answers in passages, or none", "span", "squad2", ("f1", "exact", "span f1"), 128, 16, 180, 5e-4, pair=True, stride=32),
        Task("ir_squad", "Sentence vectors for retrieval", "embedding", "embeddings", ("ndcg@10", "mrr@10"), 64, 32, 136, 5e-4, pair=True),
    )
}
COLUMNS = {  # of the files that both sides read: `TaskData`'s roles -> names in the files
    "classification": {"text": "text", "label": "label"},
    "tokens": {"tokens": "tokens", "tags": "tags"},
    "span": {"text": "question", "text_pair": "context", "label": "answers", "id": "id"},
    "embedding": {"text": "text", "text_pair": "pair", "label": None},
}


def columns_of(task: Task) -> dict[str, str | None]:
    return COLUMNS[task.kind] | ({"text_pair": "pair"} if task.kind == "classification" and task.pair else {})


def overrides(task: Task, train: str, evaluation: str, seed: int) -> list[str]:
    """`bert-jax finetune`'s options, all but --init and --workdir."""
    fields = {
        "seeds": f"{seed},", "steps": task.steps, "batch_size": task.batch_size, "accumulate": 1, "length": task.length,
        "task.train": train, "task.eval": evaluation, "task.test": "", "task.format": "jsonl", **{f"task.{role}": name or "" for role, name in columns_of(task).items()},
        "task.metric": "accuracy" if task.kind == "embedding" else task.metrics[0],
        "head.dropout": task.head_dropout, "model.dropout": RECIPE.dropout, "model.attention_dropout": RECIPE.dropout, "compute.dtype": "float32",
        "optimizer.name": "adamw", "optimizer.b1": RECIPE.b1, "optimizer.b2": RECIPE.b2, "optimizer.eps": RECIPE.eps,
        "optimizer.weight_decay": RECIPE.weight_decay, "optimizer.clip_norm": RECIPE.clip_norm, "optimizer.layer_decay": 1.0,
        "schedule.name": "linear", "schedule.peak": task.peak, "schedule.warmup_steps": task.warmup_steps, "schedule.end": 0.0,
        "eval.every": task.steps, "eval.batch_size": EVALUATION_BATCH, "eval.patience": 0,
    }  # fmt: skip
    fields |= {"task.stride": task.stride} if task.kind == "span" else {}
    return [f"--config=configs/finetune/{task.config}.py", *(f"--config.{field}={value}" for field, value in fields.items())]


def training_arguments(task: Task, seed: int) -> dict:
    """transformers' `TrainingArguments`, all but output_dir. Trainer leaves biases and norms without decay by itself."""
    return {
        "seed": seed, "max_steps": task.steps, "per_device_train_batch_size": task.batch_size, "gradient_accumulation_steps": 1,
        "per_device_eval_batch_size": EVALUATION_BATCH, "learning_rate": task.peak, "warmup_steps": task.warmup_steps, "lr_scheduler_type": "linear",
        "optim": "adamw_torch_fused", "adam_beta1": RECIPE.b1, "adam_beta2": RECIPE.b2, "adam_epsilon": RECIPE.eps, "weight_decay": RECIPE.weight_decay,
        "max_grad_norm": RECIPE.clip_norm, "dataloader_drop_last": True, "eval_strategy": "steps", "eval_steps": task.steps,
        "save_strategy": "steps", "save_steps": task.steps, "logging_steps": 50, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "bf16": False, "fp16": False,
    }  # fmt: skip


def settings_of(task: Task) -> dict:
    """All that decides a result but arm, seed, data and start, as JSON has it."""
    return dataclasses.asdict(task) | {"metrics": list(task.metrics)} | dataclasses.asdict(RECIPE) | {"warmup_steps": task.warmup_steps, "head_dropout": task.head_dropout}
