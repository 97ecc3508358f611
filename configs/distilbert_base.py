"""DistilBERT-base: six layers learn from BERT-base's twelve (Sanh et al. 2019, arXiv 1910.01108; transformers' research project `distillation`).

Run:      bert-jax prepare --input='text/*.txt' --tokenizer=BERT_BASE --output=STORE        (a directory of google-bert/bert-base-uncased, or a workdir's tokenizer)
          bert-jax pretrain --config=configs/distilbert_base.py --workdir=runs/distilbert --config.data.path=STORE --config.teacher.path=BERT_BASE
Hardware: the paper took about 90 hours on 8 V100 of 16 GB. Time here: not measured. Micro-batches: 128.
Score:    GLUE dev 77.0, where the teacher has 79.5 (paper, table 1); MNLI 82.2, SQuAD 1.1 F1 85.8.
Laptop:   --config.steps=2 --config.length=128 --config.masking.predictions=20 --config.accumulate=1 --config.batch_size=4
          --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2 --config.model.intermediate_size=64
          --config.model.vocab_size=0 --config.teacher.num_layers=3 --config.teacher.hidden_size=32 --config.teacher.num_heads=2
          --config.teacher.intermediate_size=64 --config.teacher.vocab_size=0 --config.distillation.layers=0,2
          --config.compute.dtype=float32 --config.eval.sequences=16
The paper's: batches of up to 4k, dynamic masking, BERT's text. The script's: temperature 2, weights 5, 2 and 1, layers 0, 2, 4, 7, 9, 11, soft targets at every token,
three epochs (here of 3.3B tokens, as BERT counts them), 5e-4, warmup of 5%, linear to 0, Adam 0.9/0.98 eps 1e-6, no decay, clip 5.0. Not done: the script's
preference for masking rare tokens, and its batches of rows of like length.
Another teacher: pretrain names the fields in which the config differs from it, as overrides.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 4_720  # 9.9B tokens
    config.phases = []
    config.batch_size = 4_096
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 32
    config.length = 512
    config.log_every = 20
    config.data = dict(path="", weights=(), alpha=1.0, sequences="full_sentences", short_seq_prob=0.0, duplicates=1)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=77, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="distilbert", vocab_size=30_522, hidden_size=768, num_layers=6, num_heads=12, intermediate_size=3072,
        max_positions=512, activation="gelu", dropout=0.1, attention_dropout=0.1, initializer_range=0.02,
    )
    config.teacher = dict(
        path="", family="bert", vocab_size=30_522, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072,
        max_positions=512, type_vocab_size=2, activation="gelu", norm_eps=1e-12, nsp=True,
    )
    config.distillation = dict(
        layers=(0, 2, 4, 7, 9, 11), temperature=2.0, soft_weight=5.0, mlm_weight=2.0, cosine_weight=1.0, targets="real",
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.0, clip_norm=5.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=5e-4, warmup_steps="5%", total_steps=0, end=0.0, decay_from="warmup",
    )
    config.eval = dict(every=500, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=500, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
