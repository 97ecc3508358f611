"""BigBird-base (ITC): 500k steps of 256 sequences of 4,096 tokens, MLM alone (Zaheer et al. 2020, arXiv 2007.14062, appendix E; google-research/bigbird).

Run:      bert-jax grow --from=BERT --config=configs/bigbird_base.py --workdir=runs/bigbird        (or import google/bigbird-roberta-base, to go on from it)
          bert-jax pretrain --config=configs/bigbird_base.py --workdir=runs/bigbird --config.data.path=STORE
Hardware: the paper used 64 TPU v3 chips. Time here: not measured. Micro-batches: 32.
Score:    bits per character of its held-out text: 1.678; Longformer's 1.705, 1.846 at length 512 (table 10, recalled).
Laptop:   --config.steps=2 --config.length=128 --config.masking.predictions=20 --config.accumulate=1 --config.schedule.warmup_steps=1
          --config.batch_size=4 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2 --config.model.block_size=8
          --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32 --config.eval.sequences=16
The paper's numbers (recalled, but for the blocks): peak 1e-4, warmup of 10k steps, Adam; a SentencePiece vocabulary of 50,358; a warm start. From another model its
activation, norm_eps, type_vocab_size and vocab_size have to be this config's: grow names what differs. The published block-sparse code drops no attention
probabilities, hence attention_dropout=0.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 500_000
    config.phases = []
    config.batch_size = 256
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 8
    config.length = 4096
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="full_sentences", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=615, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="big_bird", vocab_size=50_358, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=4096, block_size=64, random_blocks=3, type_vocab_size=2, activation="gelu_tanh", norm_eps=1e-12, dropout=0.1,
        attention_dropout=0.0, initializer_range=0.02, nsp=False,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=0.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=1e-4, warmup_steps=10_000, total_steps=0, end=0.0, decay_from="warmup",
    )
    config.eval = dict(every=10_000, sequences=2_048, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=5_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
