"""BERT-base, uncased, first phase: 900k of 1M steps at length 128 (Devlin et al. 2018, appendix A.2; google-research/bert).

Run:      bert-jax pretrain --config=configs/bert_base.py --workdir=runs/bert_base --config.data.path=STORE
Second phase, 100k steps at 512: see docs/training.md, "Two lengths".
Hardware: the paper used 16 TPU v2 chips for 4 days. Time here: not measured.
Score:    held-out MLM perplexity about 4.0 (paper, table 6: 3.99); GLUE test average 79.6 (paper, table 1).
From the code, not the paper: Adam eps 1e-6, no bias correction, clip 1.0, 20 predictions at 128, short_seq_prob 0.1, dupe_factor 10 (its default is 10).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 900_000
    config.phases = []
    config.batch_size = 256
    config.accumulate = 1
    config.length = 128
    config.log_every = 100
    config.dropout_rng = "rbg"
    config.data = dict(path="", weights=(), alpha=1.0, sequences="segment_pairs", short_seq_prob=0.1, duplicates=10)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=20, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="bert", vocab_size=30_522, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=512, type_vocab_size=2, activation="gelu", norm_eps=1e-12, dropout=0.1, attention_dropout=0.1,
        initializer_range=0.02, nsp=True,
    )
    config.compute = dict(dtype="bfloat16", remat="none", unroll=1)
    config.optimizer = dict(
        name="adamw_bert", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=1e-4, warmup_steps=10_000, total_steps=1_000_000, end=0.0, decay_from="start",
    )
    config.eval = dict(every=10_000, sequences=10_240, batch_size=256)
    config.checkpoint = dict(every=5_000, keep=3)
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    return config
