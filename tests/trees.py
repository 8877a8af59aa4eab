"""What a command leaves in a folder."""

from pathlib import Path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its path within it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
