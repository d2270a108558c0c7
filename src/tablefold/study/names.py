"""What methods are called on pages and in terminals: their word and what sets them apart, in people's language."""

from __future__ import annotations

from dataclasses import fields
from functools import cache

from tablefold.method import Method, all_methods
from tablefold.spec import pairs

FULL = "full"
"""The series that the others are held against."""

FULL_NAME = "full tables"


@cache
def shown_name(spec: str) -> str:
    """A spec string or series for people; options that set the size are left out, for the compression tells them.

    >>> shown_name("robe:block=8,floats=67152"), shown_name("qr:max_rows=1997,combine=mul in int8")
    ('robe block 8', 'qr mul in int8')
    >>> shown_name("hash_embeddings:k=2"), shown_name("full"), shown_name("robe:block=1,sign=true")
    ('hash embeddings k 2', 'full tables', 'robe block 1 sign')
    >>> shown_name("hot:rows=100,over=qr:max_rows=20,combine=mul")
    'hot rows 100 over qr mul'
    """
    spec, within, storage = spec.partition(" in ")
    method, _, options = spec.partition(":")
    kind = all_methods().get(method, Method)
    rest = [field.name for field in fields(kind) if field.metadata.get("rest")]
    words = [
        f"{name} {shown_name(value)}" if name in rest else _option(name, value)
        for name, value in pairs(kind, options)
        if name in rest or name not in kind.size_options
    ]
    name = FULL_NAME if method == FULL else method.replace("_", " ")
    return " ".join([name, *filter(None, words)]) + within + storage


def show_compression(compression: float) -> str:
    """Full bytes over bytes.

    >>> show_compression(4.0048), show_compression(1003.2), show_compression(1)
    ('4x', '1,003x', '1x')
    """
    if compression >= 100:
        return f"{compression:,.0f}x"
    return f"{compression:.1f}".removesuffix(".0") + "x"


def _option(name: str, value: str) -> str:
    """An option in words: its name and number, its word alone, or its name where it is switched on."""
    if value == "true":
        return name
    if value in ("false", "none"):
        return ""
    name = name.replace("_", " ")
    return f"{name} {value}" if value[:1].isdigit() else value
