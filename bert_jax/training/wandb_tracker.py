"""Weights & Biases, by its own library: a run of its for a run of ours, also when ours stops and continues."""

import html
import json
import os
import secrets
from pathlib import Path
from typing import Any


class WandbTracker:
    """A `run_log.Tracker`. project: "PROJECT" or "ENTITY/PROJECT". The run's id is kept in WORKDIR/wandb.json, and a continued run goes on under it.

    The key is the library's business (`wandb login`, WANDB_API_KEY): it is neither taken nor written here; nor are WANDB_MODE=offline and the like. Only
    metrics, texts and the config are sent: neither code nor terminal output. ImportError with the pip command where wandb is absent.
    """

    def __init__(self, workdir: Path, project: str, config: dict[str, Any]):
        wandb = load()
        entity, _, name = project.rpartition("/")
        path = workdir / "wandb.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        same = known.get("project") == project
        identity = known["id"] if same else secrets.token_hex(4)
        if not same:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps({"project": project, "id": identity}) + "\n")
            os.replace(temporary, path)
        self.html = wandb.Html
        self.run = wandb.init(
            project=name, entity=entity or None, id=identity, name=workdir.name, resume="allow", dir=str(workdir), config=config, allow_val_change=True,
            settings=wandb.Settings(console="off", save_code=False, disable_git=True, disable_code=True),
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")  # its own counter refuses what a continued run logs again

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log({"step": step, **values})

    def text(self, step: int, tag: str, markdown: str) -> None:
        self.run.log({"step": step, tag: self.html(f"<pre>{html.escape(markdown)}</pre>")})

    def close(self) -> None:
        self.run.finish()


def load():
    """The library, or an ImportError in words."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"--wandb needs wandb, which cannot be imported ({error}): pip install 'bert-jax[wandb]'") from None
    return wandb
