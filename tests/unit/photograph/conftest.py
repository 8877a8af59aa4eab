"""Where the photograph of a test lies."""

from pathlib import Path

import pytest


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return tmp_path / "photo.jpg"
