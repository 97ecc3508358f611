"""Sentence embeddings from pairs that belong together, each against all other rows of the batch (Henderson et al. 2017; Reimers & Gurevych 2019, arXiv 1908.10084).

Run:      bert-jax finetune --config=configs/finetune/embeddings.py --init=MODEL --workdir=runs/embeddings
Data:     a file with columns `text` and `pair`; a third, named by task.negative, is a hard negative. The score is how often a text's own pair is its nearest.
Hyper-parameters: Reimers & Gurevych 2019, section 3.1: 1 epoch, rate 2e-5, warmup over 10%, mean pooling; batches of 64, for every row is another's negative.
Other losses: --config.task.loss=triplet with .negative=COLUMN; cosine with .label=COLUMN, a similarity; softmax with .label=COLUMN --config.task.label_type=class, as on NLI.
"""

from ml_collections import ConfigDict

from configs.finetune import classification


def get_config() -> ConfigDict:
    config = classification.get_config()
    config.task.kind, config.task.loss, config.task.metric = "embedding", "multiple_negatives", "accuracy"
    config.task.text, config.task.text_pair, config.task.label = "text", "pair", ""
    config.head.pooling = "mean"
    config.steps, config.batch_size, config.schedule.peak = "1 epochs", 64, 2e-5
    return config
