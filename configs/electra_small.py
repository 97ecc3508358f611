"""ELECTRA-small: a million steps of 128 sequences of 128 tokens (Clark et al. 2020, arXiv 2003.10555; google-research/electra).

Run:      bert-jax pretrain --config=configs/electra_small.py --workdir=runs/electra_small --config.data.path=STORE
Hardware: the paper took 4 days on one V100. Time here: not measured. Micro-batches: 128.
Score:    GLUE 79.9 (paper, table 1); MNLI 81.3 (the repository's small, trained longer), 78.9 on OpenWebText.
Laptop:   --config.steps=3 --config.batch_size=4 --config.accumulate=1 --config.length=128 --config.masking.predictions=20 --config.schedule.warmup_steps=1
          --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2 --config.model.intermediate_size=64
          --config.model.embedding_size=24 --config.model.generator_hidden_size=16 --config.model.generator_layers=2
          --config.model.generator_heads=1 --config.model.generator_intermediate_size=32 --config.model.vocab_size=0
          --config.compute.dtype=float32 --config.eval.sequences=16
The paper's numbers (table 6): generator 1/4 as wide, loss weight 50, Adam 0.9/0.999 eps 1e-6, 5e-4, warmup 10,000, linear to 0, decay 0.01, 15% masked. The
repository's, recalled: of the chosen tokens 85% become [MASK] and the rest stay, segment pairs of one document, no Adam bias correction, clip 1.0.
Here a sequence is packed documents.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 1_000_000
    config.phases = []
    config.batch_size = 128
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 1
    config.length = 128
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="packed_documents", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=20, mask_share=0.85, random_share=0.0)
    config.model = dict(
        family="electra", vocab_size=30_522, hidden_size=256, num_layers=12, num_heads=4, intermediate_size=1024, embedding_size=128,
        generator_hidden_size=64, generator_layers=12, generator_heads=1, generator_intermediate_size=256, detection_weight=50.0,
        max_positions=512, type_vocab_size=2, activation="gelu", norm_eps=1e-12, dropout=0.1, attention_dropout=0.1, initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw_bert", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=5e-4, warmup_steps=10_000, total_steps=0, end=0.0, decay_from="start",
    )
    config.eval = dict(every=10_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=5_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
