"""A cross-encoder, which reads query and passage together (Nogueira & Cho 2019, arXiv 1901.04085); nDCG@10 over each query's passages.

Run:      bert-jax finetune --config=configs/finetune/reranker.py --init=MODEL --workdir=runs/reranker
Data:     a file with columns `query`, `passage` and `relevance`, 0 to 1; a query stands in as many rows as it has passages.
Hyper-parameters: of Devlin et al. 2018; the paper's (MS MARCO, 400,000 updates of 128 rows at 3e-6 on a TPU pod) are for BERT-large.
"""

from ml_collections import ConfigDict

from configs.finetune import classification


def get_config() -> ConfigDict:
    config = classification.get_config()
    config.task.kind, config.task.metric = "ranking", "ndcg@10"
    config.task.text, config.task.text_pair, config.task.label = "query", "passage", "relevance"
    config.length = 256
    return config
