"""RoBERTa-base on 100M tokens: 31k steps of 1,024 sequences of 512 (nyu-mll, roberta-base-100M; Zhang et al. 2021, arXiv 2011.04946).

Run:      bert-jax pretrain --config=configs/roberta_base_100m.py --workdir=runs/roberta_100m --config.data.path=STORE
STORE:    bert-jax tokenizer --kind=byte_bpe ..., then bert-jax prepare (docs/data.md), of about 100M tokens of text
Hardware: not published in the source read. Time here: not measured. Micro-batches: 256.
Score:    held-out MLM perplexity 4.61 (the model card of nyu-mll/roberta-base-100M-1).
Laptop:   --config.steps=2 --config.length=128 --config.masking.predictions=20 --config.accumulate=1 --config.schedule.warmup_steps=1
          --config.batch_size=4 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32 --config.eval.sequences=16
Published: steps, batch, peak, warmup of 6%. Recalled, as RoBERTa: Adam 0.9/0.98 eps 1e-6, decay 0.01 (on norms and biases too), no
clipping, dropout 0.1.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 31_000
    config.phases = []
    config.batch_size = 1_024
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 4
    config.length = 512
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="full_sentences", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=77, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="roberta", vocab_size=50_265, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=512, position_offset=2, norm_eps=1e-5, dropout=0.1, attention_dropout=0.1, initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=0.0, exclude=(), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=5e-4, warmup_steps=1_860, total_steps=0, end=0.0, decay_from="warmup",
    )
    config.eval = dict(every=1_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=500, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
