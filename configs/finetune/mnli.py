"""MNLI, entailment, contradiction or neither (Williams et al. 2018), of GLUE; accuracy on the matched half, and as test on the mismatched one.

Run:      bert-jax finetune --config=configs/finetune/mnli.py --init=MODEL --workdir=runs/mnli
Data:     `tfds build glue/mnli` prepares it; or name your own files with --config.task.train, .eval and the columns.
Hyper-parameters: Devlin et al. 2018 (arXiv 1810.04805), section 4.1: 3 epochs, batches of 32, of the rates tried 3e-5 (`--sweep` tries all); Wang et al. 2018
(arXiv 1804.07461) has the metrics.
"""

from ml_collections import ConfigDict

from configs.finetune import classification


def get_config() -> ConfigDict:
    config = classification.get_config()
    config.task.train, config.task.eval = "tfds:glue/mnli:train", "tfds:glue/mnli:validation_matched"
    config.task.test = "tfds:glue/mnli:validation_mismatched"  # the mismatched half
    config.task.text, config.task.text_pair = "premise", "hypothesis"
    config.task.metric = "accuracy"
    return config
