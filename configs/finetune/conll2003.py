"""CoNLL-2003, names of persons, places, organisations and others (Tjong Kim Sang & De Meulder 2003); entity F1 as conlleval counts it.

Run:      bert-jax finetune --config=configs/finetune/conll2003.py --init=MODEL --workdir=runs/conll2003
Data:     files of words and tags, a blank line between sentences; the last column is the tag.
Hyper-parameters: Devlin et al. 2018 (arXiv 1810.04805), section 5.3 and appendix A.3: 3 epochs, batches of 32, rate 5e-5; the first piece of a word has its label.
"""

from ml_collections import ConfigDict

from configs.finetune import classification


def get_config() -> ConfigDict:
    config = classification.get_config()
    config.task.kind, config.task.format, config.task.metric = "tokens", "conll", "f1"
    config.task.train, config.task.eval, config.task.test = "train.txt", "valid.txt", "test.txt"
    config.schedule.peak = 5e-5
    return config
