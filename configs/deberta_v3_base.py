"""DeBERTaV3-base: 500,000 steps of 8,192 sequences of 512 tokens, replaced tokens found with embeddings that do not pull at one another
(He et al. 2021, arXiv 2111.09543; microsoft/DeBERTa).

Run:      bert-jax pretrain --config=configs/deberta_v3_base.py --workdir=runs/deberta_v3_base --config.data.path=STORE
Data:     bert-jax prepare with a tokenizer of kind sentencepiece_unigram, 128,100 entries.
Hardware: not known. Time here: not measured. Micro-batches: 256.
Score:    MNLI 90.6 (the repository's table).
Laptop:   --config.steps=3 --config.batch_size=4 --config.accumulate=1 --config.length=64 --config.masking.predictions=10
          --config.schedule.warmup_steps=1 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.max_distance=64 --config.model.position_buckets=16
          --config.model.generator_layers=1 --config.model.vocab_size=0
          --config.mesh.fsdp=1 --config.compute.dtype=float32 --config.eval.sequences=16
The paper's numbers: generator of half the depth, loss weight 50 (10 in the repository's code). Recalled: batches of 8,192, 500,000 steps, Adam 0.9/0.98 eps 1e-6,
6e-4, warmup 10,000, linear to 0, decay 0.01, clip 1.0. Assumed: of the chosen tokens 80% become [MASK] and 10% random ones, no decay on norms and biases.
In the repository the encoder's step follows the generator's; here both are one. Here a sequence is packed documents.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 500_000
    config.phases = []
    config.batch_size = 8_192
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 32
    config.length = 512
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="packed_documents", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=77, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="deberta_v3", vocab_size=128_100, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=512, max_distance=512, input_positions=False, mask_decoder=True,
        position_buckets=256, convolution=0, generator_layers=6, detection_weight=50.0,
        type_vocab_size=0, activation="gelu", norm_eps=1e-7, dropout=0.1, attention_dropout=0.1, initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=6e-4, warmup_steps=10_000, total_steps=0, end=0.0, decay_from="start",
    )
    config.eval = dict(every=10_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=5_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
