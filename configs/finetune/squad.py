"""SQuAD 1.1, extractive question answering (Rajpurkar et al. 2016, arXiv 1606.05250); exact match and F1 by the official script's rules.

Run:      bert-jax finetune --config=configs/finetune/squad.py --init=MODEL --workdir=runs/squad
Data:     the official JSON files, with SQuAD 2.0's too: questions without an answer are told from the data.
Hyper-parameters: google-research/bert's README: 2 epochs, rate 3e-5 to 5e-5, batches of 32 (12 to 48), length 384; windows share 128 tokens, as
in transformers' example (theirs begin 128 tokens after one another: task.stride=241 with a question of 12).
"""

from ml_collections import ConfigDict

from configs.finetune import classification


def get_config() -> ConfigDict:
    config = classification.get_config()
    config.task.kind, config.task.format, config.task.metric = "span", "squad", "f1"
    config.task.train, config.task.eval = "train-v1.1.json", "dev-v1.1.json"
    config.task.text, config.task.text_pair, config.task.label = "question", "context", "answers"
    config.head.dropout = 0.0  # as in BERT's code and transformers
    config.task.stride, config.task.answer_length = 128, 30
    config.steps, config.length, config.schedule.peak = "2 epochs", 384, 5e-5
    return config
