"""Continued pretraining on a domain's text from an imported RoBERTa-base (Gururangan et al. 2020, arXiv 2004.10964: DAPT).

Run:      bert-jax import --from=ROBERTA_BASE --workdir=runs/domain        (a directory of FacebookAI/roberta-base)
          bert-jax prepare --input='domain/*.txt' --tokenizer=runs/domain/tokenizer --output=STORE
          bert-jax pretrain --config=configs/continue_pretraining.py --workdir=runs/domain --config.data.path=STORE
Hardware: the paper used one TPU v3-8 (recalled). Time here: not measured. Micro-batches: 256.
Score:    F1 of RoBERTa-base and after DAPT: ChemProt 81.9 to 84.2, ACL-ARC 63.0 to 75.4 (the paper's table 3, recalled).
Laptop:   --config.steps=2 --config.length=128 --config.masking.predictions=20 --config.accumulate=1 --config.schedule.warmup_steps=1
          --config.batch_size=4 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32 --config.eval.sequences=16
The numbers are the paper's (table 13, recalled): 12.5k steps of 2,048, peak 5e-4, warmup of 6%, Adam 0.9/0.98 eps 1e-6, decay 0.01.
Another model: pretrain names the fields in which the config differs from the import, as overrides. Several domains are a mixture
(data.weights); a small one wants fewer steps.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 12_500
    config.phases = []
    config.batch_size = 2_048
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 8
    config.length = 512
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="full_sentences", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=77, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="roberta", vocab_size=50_265, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=512, position_offset=2, norm_eps=1e-5, dropout=0.1, attention_dropout=0.1, initializer_range=0.02,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=0.0, exclude=(), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=5e-4, warmup_steps=750, total_steps=0, end=0.0, decay_from="warmup",
    )
    config.eval = dict(every=500, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=500, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
