"""ALBERT-xxlarge v2: 125,000 steps of 4,096 sequences of 512, sentence order and runs of up to 3 words
(Lan et al. 2019, arXiv 1909.11942; google-research/albert).

Run:      bert-jax pretrain --config=configs/albert_xxlarge_v2.py --workdir=runs/albert_xxlarge --config.data.path=STORE
Data:     bert-jax prepare with a tokenizer of kind sentencepiece_unigram, 30,000 entries.
Hardware: the paper's models took 64 to 512 TPU v3 (recalled). Time here: not measured. Micro-batches: 128.
Score:    v2, dev average 90.9, MNLI 90.6 (the repository's table).
Laptop:   --config.steps=3 --config.batch_size=4 --config.accumulate=1 --config.length=128 --config.masking.predictions=20
          --config.schedule.warmup_steps=1 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.embedding_size=16 --config.model.vocab_size=0 --config.compute.dtype=float32
          --config.eval.sequences=16
The paper's numbers: LAMB at 0.00176, no dropout, 15% masked, 10% short sequences. The repository's: warmup 3,125, linear to 0, decay 0.01 not on norms and
biases, clip 1.0, tanh GELU. Recalled: 0.9/0.999, eps 1e-6, 20 predictions per sequence (here 77, which are 15% of 512). Assumed: 10 duplicates.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 125_000
    config.phases = []
    config.batch_size = 4_096
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 32
    config.length = 512
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="sentence_order", short_seq_prob=0.1, duplicates=10)
    config.masking = dict(choice="ngrams:3", rate=0.15, end_rate=0.0, predictions=77, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="albert", vocab_size=30_000, hidden_size=4096, num_layers=12, num_heads=64, intermediate_size=16_384, embedding_size=128,
        layer_groups=1, max_positions=512, type_vocab_size=2, activation="gelu_tanh", norm_eps=1e-12, dropout=0.0, attention_dropout=0.0,
        initializer_range=0.02, nsp=True,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="lamb_v1", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=1.76e-3, warmup_steps=3_125, total_steps=0, end=0.0, decay_from="start",
    )
    config.eval = dict(every=2_500, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=1_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
