"""SQuAD 2.0, extractive question answering with questions that have no answer (Rajpurkar et al. 2018, arXiv 1806.03822); exact match and F1.

Run:      bert-jax finetune --config=configs/finetune/squad2.py --init=MODEL --workdir=runs/squad2
Data:     the official JSON files.
Hyper-parameters: Devlin et al. 2018 (arXiv 1810.04805), section 4.3: 2 epochs, rate 5e-5, batches of 48. An answer is given where it scores above [CLS].
"""

from ml_collections import ConfigDict

from configs.finetune import squad


def get_config() -> ConfigDict:
    config = squad.get_config()
    config.task.train, config.task.eval = "train-v2.0.json", "dev-v2.0.json"
    config.batch_size, config.schedule.peak = 48, 5e-5
    return config
