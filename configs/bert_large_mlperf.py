"""BERT-large at length 512 as in MLPerf training (mlcommons/training, language_model/tensorflow/bert; retired): 1,141 steps of 3,072.

Run:      bert-jax import --from=MLPERF_START --workdir=runs/mlperf
          bert-jax pretrain --config=configs/bert_large_mlperf.py --workdir=runs/mlperf --config.data.path=STORE
MLPERF_START holds the benchmark's TensorFlow checkpoint as bert_model.ckpt.*, bert_config.json and vocab.txt.
Hardware: TPU v4-128 in the published example. Time here: not measured.
Score:    masked accuracy 0.34085 before the first step and 0.720 at the end, on 10,000 held-out sequences.
Laptop:   --config.steps=2 --config.length=128 --config.masking.predictions=20 --config.accumulate=1 --config.schedule.warmup_steps=1
          --config.batch_size=4 --config.model.num_layers=2 --config.model.hidden_size=32 --config.model.num_heads=2
          --config.model.intermediate_size=64 --config.model.vocab_size=0 --config.compute.dtype=float32 --config.eval.sequences=16
LAMB 1.5e-3, warmup 100, decay 0.01 as published; 76 predictions, a line to 0 from the end of the warmup, clip 1.0, eps 1e-6 and the variant
(lamb_v1) recalled. From fresh weights the schedule is far too short to reach the score.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 1_141
    config.phases = []
    config.batch_size = 3_072
    config.batch_ramp = dict(start=0, over=0, sizes=0)
    config.accumulate = 12
    config.length = 512
    config.log_every = 100
    config.data = dict(path="", weights=(), alpha=1.0, sequences="segment_pairs", short_seq_prob=0.1, duplicates=10)
    config.masking = dict(choice="tokens", rate=0.15, end_rate=0.0, predictions=76, mask_share=0.8, random_share=0.1)
    config.model = dict(
        family="bert", vocab_size=30_522, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096,
        max_positions=512, type_vocab_size=2, activation="gelu", norm_eps=1e-12, dropout=0.1, attention_dropout=0.1,
        initializer_range=0.02, nsp=True,
    )
    config.compute = dict(dtype="bfloat16", remat="elementwise", unroll=1, attention="auto")
    config.optimizer = dict(
        name="lamb_v1", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(
        name="linear", peak=1.5e-3, warmup_steps=100, total_steps=0, end=0.0, decay_from="warmup",
    )
    config.eval = dict(every=50, sequences=10_240, batch_size=256)
    config.downstream = dict(every=0, steps=(), configs=(), overrides="")
    config.checkpoint = dict(every=100, minutes=0.0, keep=3, keep_every=0, keep_best="")
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True)
    return config
