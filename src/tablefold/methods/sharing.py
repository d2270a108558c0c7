"""Which tables share one array, and how arrays divide what memory there is."""

from __future__ import annotations

from collections.abc import Sequence

from tablefold.tables import TableSpec


def check_share(name: str, share: str) -> None:
    """`ValueError` for an empty group or a table that is named twice."""
    if not share or "," in share:
        raise ValueError(f"{name}: share={share} must be all, table, or groups of table names such as user+item/query")
    names = share.replace("/", "+").split("+")
    for table in names:
        if not table or names.count(table) > 1:
            raise ValueError(f"{name}: share={share} names {table!r} {names.count(table)} times; name a table once")


def sharing_groups(share: str, tables: Sequence[TableSpec]) -> list[list[int]]:
    """The columns of each array.

    Args:
        share: `all`, `table`, or groups of table names, as in `user+item/query`; the rest shares one more array.
        tables: in column order.

    Raises:
        ValueError: for a name that no table has.

    >>> tables = [TableSpec(name, 9, 4) for name in ("user", "item", "query", "ad")]
    >>> sharing_groups("user+item/ad", tables)
    [[0, 1], [3], [2]]
    """
    if share == "all":
        return [list(range(len(tables)))]
    if share == "table":
        return [[column] for column in range(len(tables))]
    names = {table.name: column for column, table in enumerate(tables)}
    groups = []
    for group in share.split("/"):
        for name in group.split("+"):
            if name not in names:
                raise ValueError(f"share={share} names no table {name!r}; tables: {', '.join(names)}")
        groups.append([names[name] for name in group.split("+")])
    named = {column for group in groups for column in group}
    rest = [column for column in range(len(tables)) if column not in named]
    return [*groups, rest] if rest else groups


def divide(floats: int, groups: Sequence[Sequence[TableSpec]], *, least: int, unit: int = 1) -> list[int]:
    """Floats of each group's array, in proportion to its full tables (equal parts where a vocabulary is open).

    Each gets at least `least` floats and a multiple of `unit`; where that is possible, all together at most `floats`.

    >>> divide(100, [[TableSpec("user", 30, 4)], [TableSpec("item", 10, 4)]], least=10)
    [70, 30]
    """
    open_vocabulary = any(table.rows is None for group in groups for table in group)
    sizes = [1 if open_vocabulary else sum(table.vocabulary * table.dim for table in group) for group in groups]
    first = least // unit
    spare = max(0, floats // unit - first * len(groups))
    ends = [spare * sum(sizes[: number + 1]) // sum(sizes) for number in range(len(groups))]
    return [(first + end - begin) * unit for begin, end in zip([0, *ends], ends, strict=False)]
