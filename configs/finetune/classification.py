"""Single-label classification of one's own texts, with the hyper-parameters of Devlin et al. 2018 (arXiv 1810.04805), appendix A.3.

Run:      bert-jax finetune --config=configs/finetune/classification.py --init=MODEL --workdir=runs/mine
              --config.task.train=train.csv --config.task.eval=dev.csv --config.task.text=COLUMN --config.task.label=COLUMN
Hardware: one GPU or TPU for a base model; a CPU for small ones.
Laptop:   --config.steps=2 --config.batch_size=4 --config.length=32 --config.compute.dtype=float32 --config.seeds=0
The paper searches batch sizes of 16 and 32, rates of 5e-5, 3e-5 and 2e-5, and 2 to 4 epochs; dropout 0.1, linear decay with warmup over 10%.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seeds = (0, 1, 2)
    config.steps = "3 epochs"
    config.batch_size = 32
    config.accumulate = 1
    config.length = 128
    config.log_every = 50
    config.task = dict(
        kind="classification", train="", eval="", test="", format="auto", has_header=True, text="text", text_pair="", negative="", label="label", label_type="score",
        label_separator=",", label_names=(), choices=(), tokens="tokens", tags="tags", id="", metric="accuracy", class_weights=(), loss="", stride=128, answer_length=30,
    )
    config.freeze = ""
    config.adapt = dict(kind="", rank=8, alpha=8.0, targets=("query", "value"), size=64, places=("attention", "mlp"))
    config.head = dict(pooling="cls", dropout=0.1)
    config.model = dict(dropout=-1.0, attention_dropout=-1.0)
    config.compute = dict(dtype="bfloat16", remat="none", unroll=1, attention="auto")
    config.optimizer = dict(
        name="adamw", b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=1.0, exclude=("bias", "norm"), layer_decay=1.0,
    )
    config.schedule = dict(name="linear", peak=3e-5, warmup_steps="10%", total_steps=0, end=0.0, decay_from="warmup")
    config.eval = dict(every=0, batch_size=64, patience=0)
    config.checkpoint = dict(keep=2)
    config.bad_steps = dict(loss=0.0, grad_norm=0.0, loss_times=0.0, grad_norm_times=0.0, in_a_row=10)
    config.mesh = dict(data=-1, fsdp=1, tensor=1, zero1=True, seeds=1)
    return config
