"""Names that come from somebody else's directory. Enters: a directory, and a file's name as a manifest in it gives it. Leaves: why it is refused, or None.

A manifest may come from anywhere; what it names is read, hashed and told of, so it has to lie in its own directory. Standard library only.
"""

from pathlib import Path


def misplaced(directory: Path, name: object) -> str | None:
    """Why `name` is no file of `directory`: it is no relative path, leads out, or goes through a symbolic link. None if nothing is wrong with it."""
    if not isinstance(name, str) or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        return "is no path within the directory"
    path = directory
    for part in name.split("/"):
        path /= part
        if path.is_symlink():
            return "is a symbolic link"
    return None
