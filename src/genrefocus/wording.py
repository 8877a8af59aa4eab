"""Words of messages."""


def counted(number: int, noun: str) -> str:
    """``1 sample``, ``2 samples``: for nouns that take an s."""
    return f"{number} {noun}{'s' * (number != 1)}"
