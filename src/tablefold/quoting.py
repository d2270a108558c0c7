"""What somebody else wrote, as one line of a message can show it."""

from __future__ import annotations


def one_line(text: str, longest: int = 1000) -> str:
    """`text` on one line of at most `longest` characters: what cannot be printed is escaped, a long middle left out.

    >>> one_line("two\\nlines and \\x1b[31m")
    'two\\\\nlines and \\\\x1b[31m'
    >>> one_line("x" * 5000, longest=20)
    'xxxxxxxxxx ... xxxxx'
    """
    if len(text) > longest:
        text = _cut(text, longest)  # before escaping too: of a megabyte nearly nothing is shown
    escaped = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return escaped if len(escaped) <= longest else _cut(escaped, longest)


def quoted(value: object, longest: int = 60) -> str:
    """A value in a message: text in quotes, numbers as they are, both cut; of lists and objects only the size.

    >>> quoted("16"), quoted(16), quoted([1, 2]), quoted(None)
    ("'16'", '16', 'a list of 2', 'null')
    """
    if isinstance(value, str):
        return f"'{one_line(value, longest)}'"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return one_line(repr(value), longest)


def _cut(text: str, longest: int) -> str:
    end = longest // 4  # the way out stands at the end of a message
    return f"{text[: longest - end - 5]} ... {text[-end:]}"
