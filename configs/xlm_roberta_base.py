"""XLM-R base: RoBERTa's recipe on a mixture of languages, sampled by tokens^0.3 (Conneau et al. 2020, arXiv 1911.02116).

Run:      bert-jax pretrain --config=configs/xlm_roberta_base.py --workdir=runs/xlmr --config.data.path=STORE_EN,STORE_DE,STORE_UK,...
STORE_*:  one for each language, all prepared with one SentencePiece tokenizer (docs/data.md)
Hardware: the paper used 500 V100 for its large model. Time here: not measured. Micro-batches: 256.
Score:    XNLI average 76.2.
Laptop:   --config.steps=2 --config.length=128 --config.masking.predictions=20 --config.accumulate=1 --config.schedule.warmup_steps=1
          --config.batch_size=4 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32 --config.eval.sequences=16
The paper's numbers: 1.5M updates of 8,192 sequences of 512 tokens, vocabulary of 250,002, alpha 0.3. Optimizer and schedule are RoBERTa-base's
(recalled; the paper does not list them for the base model).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 1_500_000
    config.phases = []
    config.batch_size = 8_192
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 32
    config.length = 512
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=0.3, sequences="full_sentences", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=77, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="xlm_roberta", vocab_size=250_002, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=512, position_offset=2, norm_eps=1e-5, dropout=0.1, attention_dropout=0.1, initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=0.0, exclude=(), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=6e-4, warmup_steps=24_000, total_steps=0, end=0.0, decay_from="warmup",
    )
    config.eval = dict(every=10_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=5_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
