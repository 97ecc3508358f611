"""The quickstart: a small BERT (MLM + NSP) that a two-core CPU trains in about four minutes. Reproduces nothing published; it shows every part at work.

Run:      make quickstart
Hardware: any CPU. Time: see README.md, which shows a whole run.
Score:    held-out masked accuracy about three times the unigram baseline; the run is far too short for more.
Laptop:   as it is, or shorter: --config.steps=4 --config.schedule.warmup_steps=1 --config.eval.sequences=32
Two choices for a short run: 30% of tokens are masked (Wettig et al. 2022, arXiv 2202.08005: more signal per sequence), and the initialisation
is wider than BERT's 0.02, which at width 128 starts attention nearly flat.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 1_200
    config.phases = []
    config.batch_size = 32
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 1
    config.length = 64
    config.log_every = 40
    config.data = dict(path="", weights=(), alpha=1.0, sequences="segment_pairs", short_seq_prob=0.1, duplicates=5)
    config.masking = dict(choice="tokens", rate=0.3, end_rate=0.0, predictions=19, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="bert", vocab_size=0, hidden_size=128, num_layers=2, num_heads=2, intermediate_size=512,
        max_positions=128, type_vocab_size=2, activation="gelu_tanh", norm_eps=1e-12, dropout=0.0, attention_dropout=0.0,
        initializer_range=0.06, nsp=True,
    )
    config.compute = dict(dtype="float32", remat="none", unroll=2, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=2e-3, warmup_steps=config.get_ref("steps") // 10, total_steps=0, end=0.0,
        decay_from="warmup",
    )
    config.eval = dict(every=400, sequences=512, batch_size=32)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=200, minutes=0.0, keep=2, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
