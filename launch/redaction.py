"""Text as it may be kept and shown: without the passwords and signatures of addresses, and without what moves a terminal's cursor.

Enters: any text, such as a command line or an error's words. Leaves: the same text with *** for what only its owner may know. Nothing is asked of the
environment: bert_jax writes no variable of it anywhere.
"""

import logging
import re

# scheme://USER:PASSWORD@host, but for a bare user of ssh, which is no secret.
_USER = re.compile(r"\b((?:[a-z0-9+.-]*?)://)([^\s/?#'\"]+)@", re.IGNORECASE)
# scheme://host/path?NAME=VALUE, where signed addresses have their signature. (A question mark alone may be of a pattern.)
_QUERY = re.compile(r"\b([a-z][a-z0-9+.-]*://[^\s?'\"]*\?)(?=[^\s'\"]*=)[^\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with *** for users and passwords in addresses, and for their queries."""
    return _QUERY.sub(r"\1***", _USER.sub(_masked_user, text))


def _masked_user(match: re.Match) -> str:
    scheme, user = match.groups()
    return match.group() if "ssh" in scheme.lower() and ":" not in user else f"{scheme}***@"


def for_terminal(text: str) -> str:
    """Redacted, and with escape codes and other control characters written out, so that a foreign file's content cannot repaint the terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in redact(text))


class ShownLog(logging.StreamHandler):
    """Writes the log's messages as `for_terminal` has them."""

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))
