"""BERT-mini (4 layers x 256), pretrained as in Turc et al. 2019 (arXiv 1908.08962, "Well-Read Students Learn Better", table 1), at length 128.

Run:      bert-jax pretrain --config=configs/bert_mini.py --workdir=runs/bert_mini --config.data.path=STORE
Hardware: one GPU, one TPU or a patient CPU. Time here: not measured.
Score:    google-research/bert lists a GLUE test average of 65.8 for BERT-mini (recalled).
Laptop:   --config.steps=2 --config.schedule.warmup_steps=1 --config.batch_size=4 --config.model.num_layers=2
          --config.model.hidden_size=32 --config.model.num_heads=2 --config.model.intermediate_size=64 --config.model.vocab_size=0
          --config.compute.dtype=float32 --config.eval.sequences=16
The paper gives the sizes; optimizer and schedule are BERT's (google-research/bert), the peak rate raised to 5e-4 as small models bear.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 250_000
    config.phases = []
    config.batch_size = 256
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 1
    config.length = 128
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="segment_pairs", short_seq_prob=0.1, duplicates=10)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=20, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="bert", vocab_size=30_522, hidden_size=256, num_layers=4, num_heads=4, intermediate_size=1024,
        max_positions=512, type_vocab_size=2, activation="gelu", norm_eps=1e-12, dropout=0.1, attention_dropout=0.1,
        initializer_range=0.02, nsp=True,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw_bert", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=5e-4, warmup_steps=10_000, total_steps=0, end=0.0, decay_from="warmup",
    )
    config.eval = dict(every=10_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=5_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
