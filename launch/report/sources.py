"""The sources of a mixture on the report page: what share of the sequences was wanted of each, and what it gave.

Enters: a run's config and log. Leaves: a row per source.
"""

from typing import Any

from launch.data import data_paths, weights_of
from launch.report.run_log import Log, number

PREFIX = "sequences/"


def source_rows(config: dict[str, Any], log: Log) -> list[dict[str, Any]]:
    """name, sequences, seen (share) and wanted (share, None where it cannot be known) of each source, in the order of the config.

    Empty without a mixture."""
    counts: dict[str, int] = {}
    for record in log.train:
        for field in record:
            if field.startswith(PREFIX):
                counts[field.removeprefix(PREFIX)] = counts.get(field.removeprefix(PREFIX), 0) + int(number(record, field) or 0)
    total, wanted = max(1, sum(counts.values())), wanted_shares(config, len(counts))
    return [
        {"name": name, "sequences": count, "seen": count / total, "wanted": wanted[place] if wanted else None}
        for place, (name, count) in enumerate(counts.items())
    ]


def wanted_shares(config: dict[str, Any], sources: int) -> list[float] | None:
    """By the config's weights, or by the sizes of its stores; None if phases change the data, or the stores are not there any more."""
    from data_pipeline.batches.mixture import shares_of
    from data_pipeline.stores.store import TokenStore

    try:
        if any("data" in phase for phase in config["phases"]):
            return None
        weights = weights_of(config)
        sizes = [1] * sources if weights else [TokenStore(path).num_tokens for path in data_paths(config["data"]["path"])]
        shares = shares_of(sizes, weights=weights, alpha=config["data"]["alpha"]).tolist()
        return shares if len(shares) == sources else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
