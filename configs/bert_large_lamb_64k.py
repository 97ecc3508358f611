"""BERT-large in 8,601 steps with LAMB: 7,038 of 65,536 sequences at length 128, 1,563 of 32,768 at 512 (You et al. 2019, arXiv 1904.00962;
NVIDIA DeepLearningExamples, PyTorch BERT).

Run:      bert-jax pretrain --config=configs/bert_large_lamb_64k.py --workdir=runs/lamb --config.data.path=STORE
Hardware: the paper took 76 minutes on 1,024 TPU v3 (8,599 steps). Time here: not measured. Micro-batches: 1,024 and 256.
Score:    final loss (MLM + NSP) 1.265 +- 0.023 over 5 seeds; SQuAD 1.1 F1 90.68 +- 0.16 (NVIDIA).
Laptop:   --config.phases.0.steps=2 --config.phases.1.steps=2 --config.phases.1.length=256 --config.phases.1.masking.predictions=40
          --config.phases.1.batch_size=4 --config.accumulate=1 --config.phases.1.accumulate=1 --config.schedule.warmup_steps=1
          --config.phases.1.schedule.warmup_steps=1 --config.batch_size=4 --config.model.num_layers=2 --config.model.hidden_size=32
          --config.model.num_heads=2 --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32
          --config.eval.sequences=16
NVIDIA's numbers: peaks 6e-3 and 4e-3, warmups of 28.43% and 12.8% of a phase, (1 - progress)^0.5 counted from the phase's start, moments
kept but step count 0 in the second phase, decay 0.01 and trust ratio not on norms and biases, 20 and 80 predictions; dupe_factor 5
(recalled).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 0
    config.phases = [
        dict(name="128", steps=7_038),
        dict(
            name="512", steps=1_563, opt_state="restart", batch_size=32_768, accumulate=128, length=512, masking=dict(predictions=80),
            schedule=dict(peak=4e-3, warmup_steps=200),
        ),
    ]
    config.batch_size = 65_536
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 64
    config.length = 128
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="segment_pairs", short_seq_prob=0.1, duplicates=5)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=20, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="bert", vocab_size=30_522, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096,
        max_positions=512, type_vocab_size=2, activation="gelu", norm_eps=1e-12, dropout=0.1, attention_dropout=0.1,
        initializer_range=0.02, nsp=True,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="lamb_nvidia", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="polynomial", peak=6e-3, warmup_steps=2_001, total_steps=0, end=0.0, decay_from="start", power=0.5,
    )
    config.eval = dict(every=500, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=100, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
