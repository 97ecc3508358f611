"""MRPC, paraphrase or not (Dolan & Brockett 2005), of GLUE; F1 and accuracy.

Run:      bert-jax finetune --config=configs/finetune/mrpc.py --init=MODEL --workdir=runs/mrpc
Data:     `tfds build glue/mrpc` prepares it; or name your own files with --config.task.train, .eval and the columns.
Hyper-parameters: Devlin et al. 2018 (arXiv 1810.04805), section 4.1: 3 epochs, batches of 32, of the rates tried 3e-5 (`--sweep` tries all); Wang et al. 2018
(arXiv 1804.07461) has the metrics.
"""

from ml_collections import ConfigDict

from configs.finetune import classification


def get_config() -> ConfigDict:
    config = classification.get_config()
    config.task.train, config.task.eval = "tfds:glue/mrpc:train", "tfds:glue/mrpc:validation"
    config.task.text, config.task.text_pair = "sentence1", "sentence2"
    config.task.metric = "f1"
    return config
