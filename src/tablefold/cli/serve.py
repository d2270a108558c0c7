"""Serve a run over HTTP: raw values in, probabilities out.

POST /score takes raw records, POST /v2/models/NAME/infer the tensors of the Open Inference Protocol; docs/serving.md
shows both. It ends with SIGTERM or Ctrl-C, when all that was asked is answered. It listens on this machine alone
unless --host says otherwise.

  tablefold serve RUN --port 8000 --workers 2
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from tablefold.cli.values import byte_size, integer, number, positive, workers


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="a folder written by `tablefold train`, or a link to one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=integer(0, 65_535), default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument("--workers", type=workers, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--threads", type=integer(1, 256), default=1, help="of each process (default: 1)")
    parser.add_argument("--name", help="of the model (default: the name of RUN)")
    parser.add_argument("--watch", action="store_true", help="take over the new run when RUN is replaced")
    parser.add_argument(
        "--token-file", metavar="FILE", help="ask for the token that FILE holds (default: TABLEFOLD_TOKEN, if set)"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-body", type=byte_size, default=8_000_000, metavar="BYTES", help="most of a request (default: 8MB)"
    )
    limits.add_argument(
        "--max-rows", type=positive, default=10_000, metavar="N", help="most of a request (default: 10000)"
    )
    limits.add_argument(
        "--timeout",
        type=number(0.01, 3600),
        default=10.0,
        metavar="SECONDS",
        help="for a request to arrive, and for its scores (default: 10)",
    )
    limits.add_argument(
        "--queue", type=positive, default=256, metavar="N", help="most requests that wait (default: 256)"
    )
    limits.add_argument(
        "--drain",
        type=number(0, 3600),
        default=1.0,
        metavar="SECONDS",
        help="to go on answering after SIGTERM (default: 1)",
    )


def run(args: Namespace) -> None:
    """Serve until told to end."""
    from tablefold.serving.service import Service, check_installed, read_token

    check_installed()
    from tablefold.serving.supervisor import serve

    place = Path(args.run)
    options = {name: value for name, value in vars(args).items() if name in Service.__dataclass_fields__}
    options["name"] = args.name or place.name or place.resolve().name
    service = Service(**options, token=read_token(args.token_file))
    serve(place, service, lambda line: print(f"tablefold serve: {line}", file=sys.stderr, flush=True))
