"""SWAG, which of four endings goes on from a sentence (Zellers et al. 2018, arXiv 1808.05326); accuracy.

Run:      bert-jax finetune --config=configs/finetune/swag.py --init=MODEL --workdir=runs/swag
Data:     the CSV files of the data's repository.
Hyper-parameters: Devlin et al. 2018 (arXiv 1810.04805), section 4.4: 3 epochs, rate 2e-5, batches of 16.
"""

from ml_collections import ConfigDict

from configs.finetune import classification


def get_config() -> ConfigDict:
    config = classification.get_config()
    config.task.kind, config.task.metric = "choice", "accuracy"
    config.task.train, config.task.eval = "train.csv", "val.csv"
    config.task.text, config.task.text_pair = "sent1", "sent2"
    config.task.choices = ("ending0", "ending1", "ending2", "ending3")
    config.batch_size, config.schedule.peak = 16, 2e-5
    return config
