"""ModernBERT-base: 1.7T tokens at length 1,024, 250B at 8,192, 50B of decay (Warner et al. 2024, arXiv 2412.13663; AnswerDotAI/ModernBERT).

Run:      bert-jax pretrain --config=configs/modernbert_base.py --workdir=runs/modernbert --config.data.path=STORE
Hardware: the paper took 194.2 hours on 8 H100 (table 9; recalled). Time here: not measured. Micro-batches: 96 and 12.
Score:    GLUE 88.4.
Laptop:   --config.phases.0.steps=3 --config.phases.1.steps=1 --config.phases.2.steps=1 --config.batch_ramp.start=2 --config.batch_ramp.over=1
          --config.phases.0.schedule.warmup_steps=1 --config.phases.1.batch_size=4 --config.phases.2.batch_size=4 --config.accumulate=1
          --config.phases.1.accumulate=1 --config.phases.2.accumulate=1 --config.phases.1.length=256 --config.phases.2.length=256
          --config.length=128 --config.masking.predictions=39 --config.phases.1.masking.predictions=77 --config.batch_ramp.sizes=1
          --config.phases.2.masking.predictions=77
          --config.batch_size=4 --config.model.num_layers=4 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32 --config.eval.sequences=16
The paper's numbers: batches ramped from 768 to 4,608 over 50B tokens, StableAdamW 0.9/0.98 eps 1e-6, decay 1e-5, 30% of tokens masked, warmup of 3B tokens to
8e-4, 3e-4 after the extension, 1-sqrt to a thousandth of it; RoPE base of global layers 10,000, then 160,000. Recalled or assumed: batches of 576 at
8,192, no dropout (the paper's 0.1 is on the attention output alone).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    no_ramp = dict(start=0, over=0, sizes=0)
    extended = dict(length=8192, batch_size=576, accumulate=48, batch_ramp=no_ramp, masking=dict(predictions=2458))
    decay = dict(name="wsd", peak=3e-4, warmup_steps=0, total_steps=0, end=3e-7, decay_steps="100%")
    config = ConfigDict()
    config.seed = 0
    config.steps = 0
    config.phases = [
        dict(name="1024", steps="1719B tokens", model=dict(rope_base=10_000.0), schedule=dict(peak=8e-4, warmup_steps="3B tokens")),
        dict(name="8192", steps="250B tokens", **extended),
        dict(name="decay", steps="50B tokens", **extended | dict(schedule=decay)),
    ]
    config.batch_size = 4_608
    config.batch_ramp = dict(start=768, over="50B tokens", sizes=5)
    config.accumulate = 48
    config.length = 1024
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="packed_documents", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.3, end_rate=0.0, predictions=308, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="modernbert", vocab_size=50_368, hidden_size=768, num_layers=22, num_heads=12, intermediate_size=1152,
        max_positions=8192, global_every=3, window=128, rope_base=160_000.0, local_rope_base=10_000.0, norm_eps=1e-5, dropout=0.0,
        attention_dropout=0.0, initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="stable_adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=1e-5, clip_norm=0.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="constant", peak=3e-4, warmup_steps=0,
    )
    config.eval = dict(every=5_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=2_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
