"""BERT-large in 24 hours on one academic server: pre-norm, length 128, MLM alone (Izsak et al. 2021, arXiv 2104.07705; IntelLabs).

Run:      bert-jax pretrain --config=configs/academic_24h.py --workdir=runs/academic --config.data.path=STORE
Hardware: the paper took 24 hours on 8 Titan V of 12 GB. Time here: not measured. Micro-batches: 128.
Score:    GLUE: CoLA 57 (the repository), about BERT-base's average.
Laptop:   --config.steps=2 --config.schedule.warmup_steps=1 --config.accumulate=1
          --config.batch_size=4 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32 --config.eval.sequences=16
The paper's numbers: AdamW 0.9/0.98 eps 1e-6, decay 0.01 not on norms and biases, peak 1e-3, warmup over 6% of the time, then linear in time to
0. It fixes 24 hours and not the steps: 23,000 are assumed. Its schedule follows the clock, ours the steps.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 23_000
    config.phases = []
    config.batch_size = 4_096
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 32
    config.length = 128
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="full_sentences", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=20, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="academic_bert", vocab_size=30_522, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096,
        max_positions=512, type_vocab_size=2, activation="gelu", norm_eps=1e-12, dropout=0.1, attention_dropout=0.1,
        initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=0.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=1e-3, warmup_steps="6%", total_steps=0, end=0.0, decay_from="warmup",
    )
    config.eval = dict(every=1_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=500, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
