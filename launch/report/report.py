"""The report page of a workdir: the files that its runs left enter, one self-contained report.html leaves.

The page loads nothing: style, script and data are inside it, and its content security policy forbids everything else.
"""

import os
import secrets
from pathlib import Path

from launch.pages import template_of
from launch.report.finetuning import finetuning_page
from launch.report.pretraining import pretraining_page
from launch.report.several import several_page


def write_report(workdir: Path) -> Path:
    """Writes WORKDIR/report.html and returns its path. workdir: of pretraining, of fine-tuning, of a sweep or of GLUE.

    Raises FileNotFoundError if it is none of them."""
    workdir = Path(workdir)
    if (workdir / "metrics.jsonl").is_file():
        template, page = "pretraining.html.j2", pretraining_page(workdir)
    elif (workdir / "task.json").is_file():
        template, page = "finetuning.html.j2", finetuning_page(workdir)
    elif any(workdir.glob("*/task.json")):
        template, page = "several.html.j2", several_page(workdir)
    else:
        raise FileNotFoundError(
            f"{workdir / 'metrics.jsonl'} does not exist: there is no run to report; `bert-jax pretrain --workdir={workdir}` writes it, and so, each in "
            "files of its own, do finetune and glue"
        )
    report, temporary = workdir / "report.html", workdir / f".report.html.{os.getpid()}"
    content = template_of(Path(__file__).parent, template).render(page | {"nonce": secrets.token_urlsafe(18)})
    temporary.write_text(content, encoding="utf-8", errors="replace")
    os.replace(temporary, report)
    return report
