"""BERT-base, uncased: 900k steps at length 128, then 100k at 512 (Devlin et al. 2018, appendix A.2; google-research/bert).

Run:      bert-jax pretrain --config=configs/bert_base.py --workdir=runs/bert_base --config.data.path=STORE
Hardware: the paper used 16 TPU v2 chips for 4 days. Time here: not measured.
Score:    held-out MLM perplexity about 4.0 (paper, table 6: 3.99); GLUE test average 79.6 (paper, table 1).
Laptop:   --config.phases.0.steps=2 --config.phases.1.steps=2 --config.phases.1.length=256 --config.phases.1.masking.predictions=40
          --config.batch_size=4 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32 --config.eval.sequences=16
From the code, not the paper: Adam eps 1e-6, no bias correction (recalled), clip 1.0, 20 and 77 predictions, short_seq_prob 0.1, dupe_factor
10 (its default). One line to 0 over all 1M steps; the optimizer's state goes on in the second phase.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 0
    config.phases = [
        dict(name="128", steps=900_000),
        # The rest of the line that the first phase follows: 1e-4 x (1 - 900k/1M) is 1e-5.
        dict(name="512", steps=100_000, length=512, masking=dict(predictions=77), schedule=dict(peak=1e-5, warmup_steps=0, total_steps=0)),
    ]
    config.batch_size = 256
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 1
    config.length = 128
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="segment_pairs", short_seq_prob=0.1, duplicates=10)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=20, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="bert", vocab_size=30_522, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=512, type_vocab_size=2, activation="gelu", norm_eps=1e-12, dropout=0.1, attention_dropout=0.1,
        initializer_range=0.02, nsp=True,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw_bert", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=1e-4, warmup_steps=10_000, total_steps=1_000_000, end=0.0, decay_from="start",
    )
    config.eval = dict(every=10_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=5_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
