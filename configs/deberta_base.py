"""DeBERTa-base: 1,000,000 steps of 256 sequences of 512 tokens, runs of up to 3 words masked (He et al. 2020, arXiv 2006.03654;
microsoft/DeBERTa).

Run:      bert-jax pretrain --config=configs/deberta_base.py --workdir=runs/deberta_base --config.data.path=STORE
Data:     bert-jax prepare with a tokenizer of kind byte_bpe, 50,265 entries.
Hardware: the paper took 10 days on 4 DGX-2 (recalled). Time here: not measured. Micro-batches: 256.
Score:    MNLI m/mm 88.8/88.5 (the repository's table).
Laptop:   --config.steps=3 --config.batch_size=4 --config.accumulate=1 --config.length=64 --config.masking.predictions=10
          --config.schedule.warmup_steps=1 --config.model.num_layers=3 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.max_distance=64 --config.model.vocab_size=0
          --config.mesh.fsdp=1 --config.compute.dtype=float32 --config.eval.sequences=16
The repository's numbers: Adam 0.9/0.999 eps 1e-6, 1e-4, warmup 10,000, decay 0.01, clip 1.0. Recalled: linear to 0, and the paper's 2e-4 with batches of 2,048.
Assumed: no decay on norms and biases. Here a sequence is packed documents.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 1_000_000
    config.phases = []
    config.batch_size = 256
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 1
    config.length = 512
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="packed_documents", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="ngrams:3", rate=0.15, end_rate=0.0, predictions=77, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="deberta", vocab_size=50_265, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=512, max_distance=512, input_positions=False, mask_decoder=True,
        type_vocab_size=0, activation="gelu", norm_eps=1e-7, dropout=0.1, attention_dropout=0.1, initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=1e-4, warmup_steps=10_000, total_steps=0, end=0.0, decay_from="start",
    )
    config.eval = dict(every=10_000, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=5_000, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
