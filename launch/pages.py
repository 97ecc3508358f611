"""Templates of pages: a name enters, a `jinja2.Template` leaves, which escapes values for HTML and fails if one is missing."""

from pathlib import Path

import jinja2


def template_of(directory: Path, name: str) -> jinja2.Template:
    """It may include those beside it, and those that all pages share, which lie here."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([directory, Path(__file__).parent]), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    return templates.get_template(name)
