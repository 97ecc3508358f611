"""STS-B, how alike two sentences are, 0 to 5 (Cer et al. 2017), of GLUE; Pearson and Spearman correlation.

Run:      bert-jax finetune --config=configs/finetune/stsb.py --init=MODEL --workdir=runs/stsb
Data:     `tfds build glue/stsb` prepares it; or name your own files with --config.task.train, .eval and the columns.
Hyper-parameters: Devlin et al. 2018 (arXiv 1810.04805), section 4.1: 3 epochs, batches of 32, of the rates tried 3e-5 (`--sweep` tries all); Wang et al. 2018
(arXiv 1804.07461) has the metrics.
"""

from ml_collections import ConfigDict

from configs.finetune import classification


def get_config() -> ConfigDict:
    config = classification.get_config()
    config.task.train, config.task.eval = "tfds:glue/stsb:train", "tfds:glue/stsb:validation"
    config.task.text, config.task.text_pair = "sentence1", "sentence2"
    config.task.kind = "regression"
    config.task.metric = "pearson"
    return config
