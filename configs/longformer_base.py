"""Longformer-base: 65k steps of 64 sequences of 4,096 tokens from RoBERTa-base, MLM alone (Beltagy et al. 2020, arXiv 2004.05150, section 5).

Run:      bert-jax grow --from=ROBERTA_BASE --config=configs/longformer_base.py --workdir=runs/longformer        (a directory of roberta-base)
          bert-jax prepare --input='long/*.txt' --tokenizer=runs/longformer/tokenizer --output=STORE
          bert-jax pretrain --config=configs/longformer_base.py --workdir=runs/longformer --config.data.path=STORE
Hardware: the paper does not say. Time here: not measured. Micro-batches: 16.
Score:    bits per character of its held-out text: 1.846 for RoBERTa at 512, 1.957 with copied positions, 1.753 after 2k steps, 1.705 after 65k (table 5, recalled).
Laptop:   --config.steps=2 --config.length=128 --config.masking.predictions=20 --config.accumulate=1 --config.schedule.warmup_steps=1
          --config.batch_size=4 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2 --config.model.window=32
          --config.model.global_tokens=1 --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32
          --config.eval.sequences=16
The paper's numbers: peak 3e-5, warmup of 500 steps, polynomial decay of power 3; the rest as RoBERTa. Its text is of long documents: half books and news, a third
stories, the rest Wikipedia (appendix C, recalled). No token is global in its pretraining, so that the projections of global tokens stay those of the others,
but for weight decay; a classifier's first token is (model.global_tokens=1).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 65_000
    config.phases = []
    config.batch_size = 64
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 4
    config.length = 4096
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="full_sentences", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=615, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="longformer", vocab_size=50_265, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=4096, window=512, global_tokens=0, position_offset=2, norm_eps=1e-5, dropout=0.1, attention_dropout=0.1,
        initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=0.0, exclude=(), layer_decay=1.0,
    )
    config.schedule = dict(
        name="polynomial", peak=3e-5, warmup_steps=500, total_steps=0, power=3.0, end=0.0, decay_from="warmup",
    )
    config.eval = dict(every=2_000, sequences=2_048, batch_size=64)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=1_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
