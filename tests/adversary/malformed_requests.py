"""Requests that are none: every answer is a refusal in one line, none is a failure, and the service serves on.

python tests/adversary/malformed_requests.py --count 10000
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adversary.harness import Report, run_as_script
from serving.services import RECORD, log, make_run
from tablefold.serving.app import Answers, Served
from tablefold.serving.counters import Counters
from tablefold.serving.scorer import Scorer
from tablefold.serving.service import Service

_ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e300, -1e38, 2**63, 2**70, "", "x" * 300, "\0", "Ż\u2028", "NaN", "1e999"),
    *([], [[]], [None], {}, {"": {}}, {"a": [1]}),
)
_PATHS = (
    "/score",
    "/v2/models/clicks/infer",
    "/v2/models/clicks/versions/1/infer",
    "/v2/models/other/infer",
    "/",
    "/score/",
)


def torment(report: Report, count: int, seed: int) -> None:
    """Ask the application, without a network between, `count` times for what is not there to be had."""
    with tempfile.TemporaryDirectory() as folder:
        scorer = Scorer(make_run(Path(folder)), "cpu")
        service = Service("clicks", max_body=20_000, max_rows=50, timeout=30)
        asyncio.run(_ask_all(report, Answers(service, Served(scorer, "1"), Counters()), count, seed))


async def _ask_all(report: Report, answers: Answers, count: int, seed: int) -> None:
    draw = random.Random(seed)
    for number in range(count):
        method, path, headers, body = _request(draw)
        status, answer = await _ask(answers.app, method, path, headers, body)
        report.tried += 1
        report.notes[f"{status}"] += 1
        again = f"--seed {seed}, request {number}: {method} {path} {headers} {body[:300]!r}"
        if not (200 <= status < 300 or 400 <= status < 500):
            report.add("serving", f"answered by {status}", again)
        elif status >= 400:
            error = json.loads(answer).get("error")
            if not isinstance(error, str) or "\n" in error or len(error) > 1000 or not error:
                report.add("serving", "a refusal without a line that says why", again)
    status, answer = await _ask(answers.app, "POST", "/score", {}, json.dumps({"records": [RECORD]}).encode())
    if status != 200:
        report.add("serving", f"a good request after all of them got {status}", answer.decode())
    answers.close()


def _request(draw: random.Random) -> tuple[str, str, dict[str, str], bytes]:
    path = draw.choice(_PATHS[:2]) if draw.random() < 0.9 else draw.choice(_PATHS)
    content = _records(draw) if path == "/score" else _tensors(draw)
    body, headers = json.dumps(content).encode(), {}
    kind = draw.random()
    if kind < 0.4:
        _mutate(draw, content)
        body = json.dumps(content).encode()
    elif kind < 0.8:
        body = _damage(draw, body)
    if draw.random() < 0.2:
        length = draw.choice([0, 1, len(body) // 2, len(body), len(body) + 1, -1, "x", "9" * 30, ""])
        headers["inference-header-content-length"] = str(length)
        body += draw.randbytes(draw.randint(0, 40))
    method = "POST" if draw.random() < 0.95 else draw.choice(["GET", "PUT", "HEAD", "OPTIONS", "DELETE"])
    return method, path, headers, body


def _records(draw: random.Random) -> dict[str, Any]:
    if draw.random() < 0.5:
        return {"records": [dict(RECORD) for _ in range(draw.randint(1, 60))]}
    shared = {name: value for name, value in RECORD.items() if name != "ad"}
    return {"shared": shared, "candidates": [{"ad": number} for number in range(draw.randint(1, 9))]}


def _tensors(draw: random.Random) -> dict[str, Any]:
    frame = log(draw.randint(1, 60))
    kinds = {"user": "BYTES", "ad": "INT64", "age": "FP64", "visits": "INT32"}
    inputs = [
        {"name": name, "datatype": kind, "shape": [len(frame)], "data": frame[name].to_list()}
        for name, kind in kinds.items()
    ]
    return {"id": "1", "inputs": inputs, "outputs": [{"name": "score", "parameters": {"binary_data": True}}]}


def _mutate(draw: random.Random, content: Any) -> None:
    """Put something odd in the place of one to three values, wherever they stand."""
    for _ in range(draw.randint(1, 3)):
        at = content
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw.choice(keys)
            inner = at[key]
            if not isinstance(inner, (dict, list)) or draw.random() < 0.25:
                if isinstance(at, dict) and draw.random() < 0.3:
                    del at[key]
                else:
                    at[key] = deepcopy(draw.choice(_ODD))  # which a later change may be put into
                break
            at = inner


def _damage(draw: random.Random, body: bytes) -> bytes:
    damaged = bytearray(body)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(damaged) + 1)
        damaged[at : at + draw.randint(0, 30)] = draw.randbytes(draw.randint(0, 9))
    return bytes(damaged) * (1 if draw.random() < 0.95 else 30)


async def _ask(app: Any, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    """Status and body of an answer, as ASGI has it."""
    said: list[dict[str, Any]] = []
    heard = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(heard, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        said.append(message)

    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http"}
    scope |= {"method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    await app(scope, receive, send)
    return said[0]["status"], b"".join(message.get("body", b"") for message in said[1:])


if __name__ == "__main__":
    sys.exit(run_as_script("malformed_requests", torment, 10_000))
