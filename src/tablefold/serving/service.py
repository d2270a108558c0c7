"""What a service is told: where it listens, how many processes it has, and what it refuses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tablefold.extras import require
from tablefold.json_files import read_bounded

TOKEN_VARIABLE = "TABLEFOLD_TOKEN"
_NEEDED = ("starlette", "uvicorn", "httptools", "orjson", "prometheus_client")
_LONGEST_TOKEN = 4096


@dataclass(frozen=True)
class Service:
    """How a run is served.

    Args:
        name: of the model, in the addresses of the Open Inference Protocol.
        host: address to listen at; others than this machine reach the service only where this is told otherwise.
        port: to listen at; 0 takes a free one.
        workers: processes; they map one copy of the weights.
        threads: of each process, for the model.
        watch: look for a new run in the run's place, and take it over.
        token: what a client must show, but for the questions after health; None asks for none.
        max_body: bytes of a request.
        max_rows: rows of a request.
        timeout: seconds that a request may take to arrive, and seconds it may then wait for its scores.
        queue: requests of a process that may wait.
        drain: seconds for which a service that was told to end goes on to answer, every answer closing its connection.
    """

    name: str
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int = 1
    watch: bool = False
    token: str | None = None
    max_body: int = 8_000_000
    max_rows: int = 10_000
    timeout: float = 10.0
    queue: int = 256
    drain: float = 1.0

    def __repr__(self) -> str:  # which a traceback may show: without the token
        return f"Service({self.name!r}, {self.host!r}, {self.port})"


def read_token(file: str | None) -> str | None:
    """The token in a file, or in the environment; None where there is neither.

    Raises:
        ValueError: for a token that is empty or holds what no header can.
    """
    if file is None:
        token, where = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    else:
        token, where = read_bounded(Path(file), _LONGEST_TOKEN).decode("utf-8", "replace").strip(), file
    if token is None:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{where} holds no token: letters, digits and signs of ASCII, without spaces")
    return token


def check_installed() -> None:
    """Refuse to serve without the parts that serving stands on.

    Raises:
        ValueError: names those that are missing, and how to get them.
    """
    require("serving needs", "serve", *_NEEDED)
