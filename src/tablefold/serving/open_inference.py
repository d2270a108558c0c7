"""The Open Inference Protocol, version 2: requests and answers of tensors, in JSON or behind it as bytes.

A model's inputs are its columns, one tensor `[rows]` each: BYTES (text) for those with a table, FP64 for numbers; other
types of integers, truths and numbers are taken too. Its output is `score`, FP32 `[rows]`.
https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tablefold.quoting import one_line, quoted
from tablefold.serving.plain_requests import Columns, parse_body
from tablefold.serving.refusals import bad
from tablefold.serving.scorer import Scorer, Scores

HEADER_LENGTH = "inference-header-content-length"
"""The header that tells how many bytes of a body are JSON; tensors follow them."""

OUTPUT = "score"
_WIDTHS = {
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    "FP32": "<f4",
    "FP64": "<f8",
    "BOOL": "|b1",
}
_NUMBER = {int, float}
_TYPES: dict[str, set[type]] = {
    **{name: {int} for name in _WIDTHS if "INT" in name},
    "FP32": _NUMBER,
    "FP64": _NUMBER,
    "BOOL": {bool},
    "BYTES": {str},
}


@dataclass(frozen=True)
class InferenceRequest:
    """A request: the columns it holds, what it is called, and whether its scores are wanted as bytes."""

    columns: Columns
    id: str | None
    binary: bool


def describe(name: str, version: str, scorer: Scorer) -> dict[str, Any]:
    """The model's metadata."""
    inputs = [(column, "FP64" if column in scorer.encoder.numbers else "BYTES") for column in scorer.names]
    return {
        "name": name,
        "versions": [version],
        "platform": "tablefold",
        "inputs": [{"name": column, "datatype": kind, "shape": [-1]} for column, kind in inputs],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1]}],
    }


def read_request(body: bytes, header_length: str | None, scorer: Scorer, max_rows: int) -> InferenceRequest:
    """The columns of a request.

    Raises:
        RefusedError: for what is not as the protocol has it, an input that is missing, unknown or of a type that
            cannot be read, or too many rows.
    """
    split = len(body) if header_length is None else _length(header_length, len(body))
    content = parse_body(memoryview(body)[:split])
    inputs = _by_name(content)
    unknown = sorted(set(inputs) - set(scorer.names))
    if unknown:
        raise bad(f"there is no input {quoted(unknown[0])}; the model has {one_line(', '.join(scorer.names), 300)}")
    buffer = _Buffer(memoryview(body)[split:])
    values = {
        name: _values(given, buffer, max_rows, name not in scorer.encoder.numbers) for name, given in inputs.items()
    }
    if buffer.rest:
        raise bad(f"{buffer.rest:,} bytes follow the last tensor: binary_data_size tells how many each has")
    missing = next((name for name in scorer.names if name not in values), None)
    if missing is not None:
        raise bad(f"the input {quoted(missing)} is missing")
    if len({len(each) for each in values.values()}) > 1:
        raise bad("the inputs have unequal numbers of rows")
    asked = content.get("id")
    if asked is not None and not isinstance(asked, str):
        raise bad(f"id is {quoted(asked)}; it must be text")
    return InferenceRequest([values[name] for name in scorer.names], asked, _wants_binary(content))


def show_answer(scores: Scores, request: InferenceRequest, name: str, version: str) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of an answer.

    Raises:
        RefusedError: where a row is malformed: a tensor has no place for what is no number.
    """
    if scores.rejects:
        _, line, reason, _ = scores.rejects[0]
        raise bad(f"row {line - 1}: {one_line(reason, 300)}")
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": [len(scores.probability)]}
    content: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": [output]}
    if request.id is not None:
        content["id"] = request.id
    if not request.binary:
        output["data"] = scores.probability
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), {}
    tensor = scores.probability.astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(tensor)}
    header = orjson.dumps(content)
    headers = {HEADER_LENGTH: str(len(header)), "content-type": "application/octet-stream"}
    return header + tensor, headers


class _Buffer:
    """The bytes behind the JSON, taken tensor by tensor."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._at = content, 0

    @property
    def rest(self) -> int:
        return len(self._content) - self._at

    def take(self, size: Any) -> memoryview:
        if type(size) is not int or not 0 <= size <= self.rest:
            raise bad(f"binary_data_size is {quoted(size)}; {self.rest:,} bytes are left behind the JSON")
        self._at += size
        return self._content[self._at - size : self._at]


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) <= most):
        raise bad(f"{HEADER_LENGTH} is {quoted(text)}; it must be a number of bytes of the body")
    return int(text)


def _by_name(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise bad(f"inputs is {quoted(inputs)}; it must be a list of tensors")
    found: dict[str, dict[str, Any]] = {}
    for number, given in enumerate(inputs):
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise bad(f"inputs[{number}] must be an object with a name")
        if given["name"] in found:
            raise bad(f"the input {quoted(given['name'])} is given twice")
        found[given["name"]] = given
    return found


def _values(given: dict[str, Any], buffer: _Buffer, max_rows: int, has_table: bool) -> list[Any]:
    """The values of one tensor `[rows]` or `[rows, 1]`."""
    name, kind = quoted(given["name"]), given.get("datatype")
    if not isinstance(kind, str) or kind not in _TYPES or (kind == "FP32" and has_table):
        more = "; a column with a table takes no FP32, whose digits are not the value's own" if kind == "FP32" else ""
        raise bad(f"the input {name} is of datatype {quoted(kind)}; it can be {', '.join(_TYPES)}{more}")
    rows = _rows(given.get("shape"), name, max_rows)
    parameters = given.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        return _from_bytes(buffer.take(size), kind, rows, name)
    data = given.get("data")
    if not isinstance(data, list):
        raise bad(f"the data of the input {name} is {quoted(data)}; it must be a list")
    if all(type(each) is list for each in data):
        data = [value for each in data for value in each]
    if len(data) != rows:
        raise bad(f"the input {name} has {len(data):,} values and a shape of {rows:,}")
    if not set(map(type, data)) <= {*_TYPES[kind], type(None)}:
        wrong = next(value for value in data if type(value) not in {*_TYPES[kind], type(None)})
        raise bad(f"the input {name} of datatype {kind} holds {quoted(wrong)}")
    return data


def _rows(shape: Any, name: str, max_rows: int) -> int:
    if not isinstance(shape, list) or len(shape) not in (1, 2) or any(type(size) is not int for size in shape):
        raise bad(f"the shape of the input {name} is {quoted(shape)}; it must be [rows] or [rows, 1]")
    if shape[0] < 1 or shape[1:] not in ([], [1]):
        raise bad(f"the shape of the input {name} must be [rows] or [rows, 1], of one row at least")
    rows: int = shape[0]
    if rows > max_rows:
        raise bad(f"the input {name} has {rows:,} rows; the most of a request is {max_rows:,}, so send several")
    return rows


def _from_bytes(content: memoryview, kind: str, rows: int, name: str) -> list[Any]:
    if kind == "BYTES":
        return _texts(content, rows, name)
    width = np.dtype(_WIDTHS[kind])
    if len(content) != rows * width.itemsize:
        raise bad(f"the input {name} has {len(content):,} bytes; {rows:,} of {kind} take {rows * width.itemsize:,}")
    values: list[Any] = np.frombuffer(content, dtype=width).tolist()
    return values


def _texts(content: memoryview, rows: int, name: str) -> list[str]:
    """Texts, each behind its length in 4 bytes."""
    texts, at = [], 0
    try:
        for _ in range(rows):
            (size,) = struct.unpack_from("<I", content, at)
            at += 4
            if size > len(content) - at:
                raise bad(f"the input {name} ends within a text")
            texts.append(str(content[at : at + size], "utf-8"))
            at += size
    except struct.error:
        raise bad(f"the input {name} has fewer than {rows:,} texts") from None
    except UnicodeDecodeError:
        raise bad(f"the input {name} holds bytes that are no UTF-8") from None
    if at != len(content):
        raise bad(f"the input {name} has more than {rows:,} texts")
    return texts


def _wants_binary(content: dict[str, Any]) -> bool:
    """Whether the scores go behind the JSON; and refuse a request for another output."""
    parameters = content.get("parameters")
    binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    outputs: Any = content.get("outputs") or []
    if not isinstance(outputs, list):
        raise bad(f"outputs is {quoted(outputs)}; it must be a list")
    for output in outputs:
        if not isinstance(output, dict) or output.get("name") != OUTPUT:
            raise bad(f"the model's only output is {OUTPUT!r}")
        own = output.get("parameters")
        if isinstance(own, dict) and "binary_data" in own:
            binary = own["binary_data"] is True
    return binary
