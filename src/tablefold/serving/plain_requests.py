"""Bodies of `/score`: raw records, or what candidates share and what each has of its own.

{"records": [{"user": "ann", "ad": 7}, ...]}
{"shared": {"user": "ann"}, "candidates": [{"ad": 7}, {"ad": 9}]}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from tablefold.quoting import one_line, quoted
from tablefold.serving.refusals import bad
from tablefold.serving.scorer import Scores

Columns = list[list[Any]]
"""The values of each column that the model reads."""


def parse_body(body: bytes | memoryview) -> dict[str, Any]:
    """The object that a body holds as JSON.

    Raises:
        RefusedError: where it holds none.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad(f"the body is not JSON: {one_line(str(error), 120)}") from None
    if not isinstance(content, dict):
        raise bad(f"the body is {quoted(content)}; it must be an object")
    return content


def read_columns(body: bytes, names: Sequence[str], max_rows: int) -> Columns:
    """The columns of a request.

    Raises:
        RefusedError: for a body that is not as above, lacks a column, or has too many rows.
    """
    content = parse_body(body)
    keys = set(content)
    if keys == {"records"}:
        shared, rows, what = {}, content["records"], "records"
    elif keys == {"shared", "candidates"}:
        shared, rows, what = content["shared"], content["candidates"], "candidates"
    else:
        given = one_line(", ".join(map(str, content)), 200) or "nothing"
        raise bad(f'the body has {given}; it must have "records", or "shared" and "candidates"')
    if not isinstance(shared, dict):
        raise bad(f"shared is {quoted(shared)}; it must be an object of values by column")
    _check_rows(rows, what, max_rows)
    return [[shared[name]] * len(rows) if name in shared else _of_rows(rows, name, what, shared) for name in names]


def _check_rows(rows: Any, what: str, max_rows: int) -> None:
    if not isinstance(rows, list) or not rows:
        raise bad(f"{what} is {quoted(rows)}; it must be a list of objects, one at least")
    if len(rows) > max_rows:
        raise bad(f"{what} has {len(rows):,} rows; the most of a request is {max_rows:,}, so send several")
    for number, row in enumerate(rows):
        if type(row) is not dict:
            raise bad(f"{what}[{number}] is {quoted(row)}; it must be an object of values by column")


def _of_rows(rows: list[dict[str, Any]], name: str, what: str, shared: dict[str, Any]) -> list[Any]:
    try:
        return [row[name] for row in rows]
    except KeyError:
        number = next(number for number, row in enumerate(rows) if name not in row)
        raise bad(f"{what}[{number}] has no {quoted(name)}; give null where it is missing") from None


def show_scores(scores: Scores, version: str) -> bytes:
    """The answer: `{"scores": [0.25, null], "version": "...", "rejects": [{"row": 1, "reason": "..."}]}`.

    A malformed row has the score null, and a reject says why; without such there are no `rejects`.
    """
    content: dict[str, Any] = {"scores": scores.probability, "version": version}
    if scores.rejects:
        content["rejects"] = [{"row": line - 1, "reason": reason} for _, line, reason, _ in scores.rejects]
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
