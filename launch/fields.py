"""Every field of a pretraining config: its type and meaning, which belong together, which a phase or a resumed run may change."""

import dataclasses

from bert_jax.model.families import FAMILY_FIELDS
from bert_jax.training.named_fields import OPTIMIZERS, SCHEDULES


@dataclasses.dataclass(frozen=True)
class Schema:
    """The fields of one sort of config. named_sections: as NAMED_SECTIONS below. command: that lists the fields. folder: of the configs that come with the package, in `configs`.
    optional: beginnings of fields that a config states all of or none."""

    fields: dict[str, tuple[type, str]]
    named_sections: dict[str, tuple[str, dict[str, tuple[str, ...]]]]
    command: str
    folder: str = ""
    optional: tuple[str, ...] = ()


FIELDS: dict[str, tuple[type, str]] = {
    "seed": (int, "of initialisation, data order, masking and dropout"),
    "steps": (int, "optimizer updates in the whole run, or a length such as '500M tokens', '2M sequences' or '3 epochs'; 0 with phases, whose steps add up"),
    "phases": (list, "stretches of the run, each a dict of the fields that it changes; empty: one. See docs/training.md"),
    "batch_size": (int, "sequences per update, over all devices"),
    "batch_ramp.start": (int, "sequences per update at the beginning of the phase, from which they grow to batch_size; 0: batch_size from the first step"),
    "batch_ramp.over": (int, "steps of smaller batches, or their length such as '50B tokens', or '60%' of the phase"),
    "batch_ramp.sizes": (int, "sizes before batch_size, evenly apart, each for as many steps"),
    "accumulate": (int, "micro-batches per update; changes memory, not results"),
    "length": (int, "tokens per sequence, special tokens included"),
    "log_every": (int, "steps between log lines"),
    "data.path": (str, "a token store (bert-jax prepare), several parted by commas (a mixture), or recorded batches (bert-jax record)"),
    "data.weights": (tuple, "of the stores of a mixture, such as 0.7,0.3; empty: by data.alpha"),
    "data.alpha": (float, "stores are sampled by tokens^alpha: 1 by size, 0.7 as multilingual BERT, 0.3 as XLM-R"),
    "data.sequences": (str, "segment_pairs (BERT), sentence_order (ALBERT), full_sentences (RoBERTa), document_sentences or packed_documents"),
    "data.short_seq_prob": (float, "share of segment pairs with a random shorter target length"),
    "data.duplicates": (int, "passes over the corpus with different pairs before they repeat (BERT's dupe_factor)"),
    "masking.choice": (str, "tokens, whole_words, ngrams:3 (ALBERT, DeBERTa) or spans:0.2:10 (SpanBERT)"),
    "masking.rate": (float, "share of tokens to predict"),
    "masking.end_rate": (float, "to which the rate goes linearly over the phase's steps; 0: the rate stays"),
    "masking.predictions": (int, "prediction slots per sequence, at least rate x length"),
    "masking.mask_share": (float, "share of chosen tokens replaced by [MASK]"),
    "masking.random_share": (float, "share of chosen tokens replaced by a random token; the rest stays"),
    "compute.dtype": (str, "of activations: float32 or bfloat16; parameters stay float32"),
    "compute.remat": (str, "recomputed in the backward pass: none, elementwise (norms, activations, dropout), dots (attention too) or full"),
    "compute.unroll": (int, "layers per iteration of the layer scan"),
    "compute.attention": (str, "xla, pallas (a TPU kernel; where it cannot take the shapes, xla) or auto: pallas on TPUs from v4 on, xla elsewhere"),
    "optimizer.name": (str, ", ".join(OPTIMIZERS)),
    "optimizer.b1": (float, "decay of the first moment"),
    "optimizer.b2": (float, "decay of the second moment"),
    "optimizer.eps": (float, "added to the root of the second moment"),
    "optimizer.momentum": (float, "of muon's matrices"),
    "optimizer.decay_exponent": (float, "adafactor's second moment decays with 1 - step^-decay_exponent"),
    "optimizer.weight_decay": (float, "decoupled, times the learning rate"),
    "optimizer.clip_norm": (float, "largest global gradient norm; 0 turns clipping off"),
    "optimizer.exclude": (tuple, "parts of parameter paths without decay and trust ratio"),
    "optimizer.layer_decay": (float, "the learning rate's factor per layer away from the heads; 1 is none"),
    "schedule.name": (str, ", ".join(SCHEDULES)),
    "schedule.peak": (float, "learning rate at the end of the warmup"),
    "schedule.warmup_steps": (int, "steps of linear warmup, or their length such as '3B tokens', or '6%' of the phase"),
    "schedule.total_steps": (int, "steps, or their length, at which the decay reaches its end; 0: the phase's steps"),
    "schedule.end": (float, "learning rate at the end"),
    "schedule.decay_from": (str, "of linear and polynomial: warmup (Hugging Face) or start (google-research/bert)"),
    "schedule.power": (float, "of polynomial"),
    "schedule.decay_steps": (int, "of wsd: the last steps of total_steps, or their length, in which the rate falls"),
    "schedule.start": (float, "of triangle: learning rate at step 0"),
    "eval.every": (int, "steps between evaluations; 0: only at the end"),
    "eval.sequences": (int, "held-out sequences, the same every time"),
    "eval.batch_size": (int, "sequences per evaluation batch, over all devices"),
    "downstream.every": (int, "steps between trials on downstream tasks, which the last step has too; 0: only those of downstream.steps"),
    "downstream.steps": (tuple, "steps with such a trial, such as 10000,50000; empty: only by downstream.every"),
    "downstream.configs": (tuple, "what is tried: configs of bert-jax finetune, or glue, its eight tasks"),
    "downstream.overrides": (str, "fields of all these configs, parted by spaces, such as \"seeds=0,1 steps='1 epochs'\""),
    "checkpoint.every": (int, "steps between checkpoints; 0: only at the end"),
    "checkpoint.minutes": (float, "since the last checkpoint, after which there is one at the next log line; 0: only by steps"),
    "checkpoint.keep": (int, "newest checkpoints retained, at least 2"),
    "checkpoint.keep_every": (int, "steps whose multiples are saved and kept for ever; 0: none"),
    "checkpoint.keep_best": (str, "a held-out metric, such as mlm_loss, by which the best checkpoint with an evaluation at its step is kept; empty: none"),
    "bad_steps.loss": (float, "above which an update is skipped; 0: only where loss or gradients are not finite"),
    "bad_steps.grad_norm": (float, "norm of the gradient, before clipping, above which an update is skipped; 0: only where it is not finite"),
    "bad_steps.loss_times": (float, "times the running average of about 100 good steps' loss above which an update is skipped, from the 20th on; 0: no such limit"),
    "bad_steps.grad_norm_times": (float, "the same of the gradient's norm"),
    "bad_steps.in_a_row": (int, "skipped updates after which the run goes back to its last checkpoint, and on behind them; 0: never"),
    "mesh.data": (int, "devices along the data axis; -1: all that remain"),
    "mesh.fsdp": (int, "devices that share each parameter and its optimizer state; they split the batch too"),
    "mesh.tensor": (int, "devices that share heads, MLP and vocabulary"),
    "mesh.zero1": (bool, "the optimizer's state and update are cut over data too (ZeRO-1); changes memory, not results"),
}

MODEL_FIELDS: dict[str, tuple[type, str]] = {
    "model.family": (str, ", ".join(FAMILY_FIELDS)),
    "model.vocab_size": (int, "0: the tokenizer's"),
    "model.hidden_size": (int, "width"),
    "model.num_layers": (int, "depth"),
    "model.num_heads": (int, "attention heads"),
    "model.intermediate_size": (int, "width of the MLP"),
    "model.embedding_size": (int, "of ALBERT and ELECTRA: width of the embedding tables, from which a projection leads to hidden_size"),
    "model.layer_groups": (int, "of ALBERT: groups of layers that share their parameters"),
    "model.max_distance": (int, "of DeBERTa: tokens, up to which distances are told apart (transformers' max_relative_positions)"),
    "model.position_buckets": (int, "of DeBERTa-v2 and v3: logarithmic buckets of distances on either side"),
    "model.input_positions": (bool, "of DeBERTa: absolute positions in the input (transformers' position_biased_input)"),
    "model.mask_decoder": (bool, "of DeBERTa: the enhanced mask decoder, by which absolute positions enter where masked tokens are predicted"),
    "model.convolution": (int, "of DeBERTa-v2: taps of the convolution beside the first layer (the xlarge models': 3); 0: none"),
    "model.generator_hidden_size": (int, "of ELECTRA: width of the generator, which shares the embedding tables"),
    "model.generator_layers": (int, "of ELECTRA and DeBERTa-v3: depth of the generator"),
    "model.generator_heads": (int, "attention heads of the generator"),
    "model.generator_intermediate_size": (int, "width of the generator's MLP"),
    "model.detection_weight": (float, "of the loss on replaced tokens of ELECTRA and DeBERTa-v3, beside the generator's (published: 50)"),
    "model.max_positions": (int, "tokens in the longest sequence; transformers' max_position_embeddings without the offset"),
    "model.position_offset": (int, "of RoBERTa and XLM-R: the tokenizer's padding id + 1, from which positions count (fairseq: 2)"),
    "model.global_every": (int, "of ModernBERT: every so-manyth layer, from the first, sees the whole document"),
    "model.window": (int, "keys that a token sees around it, in every layer (Longformer) or in the others (ModernBERT)"),
    "model.global_tokens": (int, "of Longformer: tokens of a row, at most, that see and are seen by their whole document: the batch's, or each document's first; 0: none"),
    "model.block_size": (int, "of BigBird: tokens of a block"),
    "model.random_blocks": (int, "of BigBird: blocks that each block sees besides those beside it, the first and the last"),
    "model.rope_base": (float, "of the rotary positions of layers that see the whole document; a phase may change it"),
    "model.local_rope_base": (float, "of the rotary positions of layers with a window"),
    "model.type_vocab_size": (int, "rows of the token-type table"),
    "model.activation": (str, "gelu (erf), gelu_tanh or relu"),
    "model.norm_eps": (float, "epsilon of the layer norms"),
    "model.dropout": (float, "after embeddings, attention output and MLP"),
    "model.attention_dropout": (float, "on attention probabilities"),
    "model.initializer_range": (float, "standard deviation of the truncated normal"),
    "model.nsp": (bool, "a sentence-pair head beside the MLM head: next sentence, or sentence order with data.sequences=sentence_order"),
}

# Of `model`: those that change how it is trained, not which arrays it has or what it computes.
NOT_STRUCTURE = ("dropout", "attention_dropout", "initializer_range", "detection_weight")

# Sections of a config that distils, which states both whole; any other has neither.
DISTILLATION = ("distillation.", "teacher.")
DISTILLATION_FIELDS: dict[str, tuple[type, str]] = {
    "distillation.layers": (tuple, "numbers of the teacher's layers, from 0, that the student's begin as, with embeddings and heads; empty: fresh weights"),
    "distillation.temperature": (float, "by which logits of both are divided before the softmax (DistilBERT: 2)"),
    "distillation.soft_weight": (float, "of the divergence from the teacher's distribution (DistilBERT: 5); 0: not computed"),
    "distillation.mlm_weight": (float, "of the student's own MLM loss (DistilBERT: 2)"),
    "distillation.cosine_weight": (float, "of 1 - cosine between the last hidden states (DistilBERT: 1); 0: not computed"),
    "distillation.targets": (str, "where distributions are compared: real (every real token) or masked (the predicted ones)"),
    "teacher.path": (str, "a workdir or a Hugging Face directory; read at every start. The section's other fields are those of `model` that say which arrays it has"),
} | {field.replace("model.", "teacher.", 1): about for field, about in MODEL_FIELDS.items() if field.partition(".")[2] not in NOT_STRUCTURE}
TEACHERS = {family: ("path", *(name for name in names if name not in NOT_STRUCTURE)) for family, names in FAMILY_FIELDS.items()}

# Fields of a phase alone, and those that a phase may change.
PHASE_FIELDS: dict[str, tuple[type, str]] = {
    "name": (str, "of the phase, for logs and the report"),
    "opt_state": (str, "of the optimizer at the phase's start: keep, restart (moments kept, step count 0) or reset"),
}
# Of `model`: those that no parameter's shape or place depends on.
MODEL_FIELDS_OF_PHASES = ("dropout", "attention_dropout", "rope_base", "local_rope_base", "window", "global_tokens")
CHANGES_WITH_PHASE = (
    "steps", "batch_size", "batch_ramp.", "accumulate", "length", "data.", "masking.", "schedule.", "compute.", "bad_steps.",
    *(f"model.{name}" for name in MODEL_FIELDS_OF_PHASES),
)
# Numbers of steps that may also be said in other units (`training.durations`); `phases_of` gives them as numbers.
LENGTHS = ("steps", "batch_ramp.over", "schedule.warmup_steps", "schedule.total_steps", "schedule.decay_steps")

# Sections of which one field, the name, decides which others a config states: section -> that field; name -> its fields.
NAMED_SECTIONS = {
    "model": ("family", FAMILY_FIELDS), "schedule": ("name", SCHEDULES), "optimizer": ("name", OPTIMIZERS), "teacher": ("family", TEACHERS),
}

PRETRAINING = Schema(FIELDS | MODEL_FIELDS | DISTILLATION_FIELDS, NAMED_SECTIONS, "pretrain", optional=DISTILLATION)

# What a run may change between its stops without becoming another run.
FREE_TO_CHANGE = ("log_every", "eval.", "downstream.", "checkpoint.", "mesh.", "data.path", "teacher.path")

# Fields that runs of earlier versions do not state, and what those did.
ADDED = {
    "bad_steps.loss_times": 0.0, "bad_steps.grad_norm_times": 0.0,
    "mesh.seeds": 1,
    "freeze": "", "adapt.kind": "", "adapt.rank": 8, "adapt.alpha": 8.0, "adapt.targets": ["query", "value"], "adapt.size": 64, "adapt.places": ["attention", "mlp"],
    "downstream.every": 0, "downstream.steps": [], "downstream.configs": [], "downstream.overrides": "",
}
