"""What a run is, as Markdown for TensorBoard and other trackers: its config, its data, its sample predictions."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launch.config import fields_of


def config_table(config: dict[str, Any]) -> str:
    """Every field with its value and meaning."""
    return table(("field", "value", "meaning"), ((field, json.dumps(value), meaning) for field, value, meaning in fields_of(config)))


def data_table(phases: Iterable[tuple[str, str]], fingerprint: str) -> str:
    """phases: (name, description) of each."""
    return table(("", "data"), [*phases, ("fingerprint", fingerprint)])


def samples_table(workdir: Path) -> str | None:
    """The predictions of WORKDIR/samples.json, the right one in bold; None if there are none."""
    path = workdir / "samples.json"
    if not path.exists():
        return None
    rows = []
    for sample in json.loads(path.read_text()):
        for answer, slot in zip(sample["answer"], sample["predictions"]):
            words = (f"**{item['token']}**" if item["token"] == answer else item["token"] for item in slot)
            rows.append((sample["text"], answer, ", ".join(f"{word} {item['probability']:.0%}" for word, item in zip(words, slot))))
    return table(("sentence", "answer", "predictions"), rows)


def table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    cells = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in cells)
