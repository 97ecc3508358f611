"""ModernBERT-large, which begins as the base model tiled: 1.7T tokens at length 1,024, 250B at 8,192, 50B of decay (Warner et al. 2024, arXiv 2412.13663;
AnswerDotAI/ModernBERT).

Run:      bert-jax grow --from=runs/modernbert_base --config=configs/modernbert_large.py --workdir=runs/modernbert_large
          bert-jax pretrain --config=configs/modernbert_large.py --workdir=runs/modernbert_large --config.data.path=STORE
Hardware: the paper took 425.3 hours on 8 H100 (table 9; recalled). Time here: not measured. Micro-batches: 56 and 7. Score: GLUE 90.4.
Laptop:   --config.phases.0.steps=3 --config.phases.1.steps=1 --config.phases.2.steps=1 --config.phases.3.steps=1
          --config.phases.0.batch_ramp.over=1 --config.phases.0.batch_ramp.start=2 --config.phases.0.batch_ramp.sizes=1
          --config.phases.0.schedule.warmup_steps=1 --config.phases.2.batch_size=4 --config.phases.3.batch_size=4 --config.accumulate=1
          --config.phases.2.accumulate=1 --config.phases.3.accumulate=1 --config.phases.2.length=256 --config.phases.3.length=256
          --config.length=128 --config.masking.predictions=39 --config.phases.2.masking.predictions=77 --config.phases.3.masking.predictions=77 --config.batch_size=4
          --config.model.num_layers=5 --config.model.hidden_size=32 --config.model.num_heads=2 --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32 --config.eval.sequences=16
`grow` puts base's matrices in the middle of large's, repeats them around, and spreads its 22 layers over 28 (bert_jax/model/tiling.py). Without it the run begins with
fresh weights. The paper's numbers, recalled: batches ramped from 448 to 4,928 over 10B tokens, 5e-4 after a warmup of 2B for 900B tokens and 5e-5 for the 800B after
the loss had stopped falling, 5e-5 after the extension, StableAdamW 0.9/0.98 eps 1e-6. Decay 1e-5 throughout; theirs fell to 1e-6 with the rate. As base otherwise.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    short = dict(rope_base=10_000.0)
    extended = dict(length=8192, batch_size=616, masking=dict(predictions=2458))
    decay = dict(name="wsd", peak=5e-5, warmup_steps=0, total_steps=0, end=5e-8, decay_steps="100%")
    config = ConfigDict()
    config.seed = 0
    config.steps = 0
    config.phases = [
        dict(
            name="1024", steps="900B tokens", model=short, batch_ramp=dict(start=448, over="10B tokens", sizes=10),
            schedule=dict(peak=5e-4, warmup_steps="2B tokens"),
        ),
        dict(name="1024 at a tenth of the rate", steps="800B tokens", model=short),
        dict(name="8192", steps="250B tokens", **extended),
        dict(name="decay", steps="50B tokens", **extended | dict(schedule=decay)),
    ]
    config.batch_size = 4_928
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 88
    config.length = 1024
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="packed_documents", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.3, end_rate=0.0, predictions=308, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="modernbert", vocab_size=50_368, hidden_size=1024, num_layers=28, num_heads=16, intermediate_size=2624,
        max_positions=8192, global_every=3, window=128, rope_base=160_000.0, local_rope_base=10_000.0, norm_eps=1e-5, dropout=0.0,
        attention_dropout=0.0, initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="stable_adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=1e-5, clip_norm=0.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(name="constant", peak=5e-5, warmup_steps=0)
    config.eval = dict(every=5_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=2_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
