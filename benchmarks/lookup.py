"""Forward lookups: 26 Criteo Kaggle tables, one batch of log-uniform ids."""

from __future__ import annotations

import torch
from common import CODED, PLANNED, SPECS, arguments, build, kaggle_tables, log_uniform_ids, race, report
from peers import Bags, cce_robe, qr_bags


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--compile", action="store_true", help="race torch.compile of the reference too")
    options = parser.parse_args()
    tables = kaggle_tables(options.scale)
    batches = log_uniform_ids(tables, options.batch, 20)
    columns = [[column.contiguous() for column in batch.t()] for batch in batches]
    offsets = torch.arange(options.batch)
    bags = Bags(tables)
    contestants = {"26 nn.EmbeddingBag": lambda i: bags(columns[i % 20], offsets)}
    peer = qr_bags(tables, options.dlrm)
    if peer is not None:
        contestants["facebookresearch/dlrm QREmbeddingBag c=4"] = lambda i: peer(columns[i % 20], offsets)
    shared = cce_robe(tables, options.cce)
    if shared is not None:
        contestants["thomasahle/cce robe, 1000x"] = lambda i: shared(columns[i % 20])
    for name in SPECS:
        group = build(name, tables)
        contestants[name] = lambda i, group=group: group(batches[i % 20])
        if options.compile and name in ("robe 1000x", "qr square-root"):
            compiled = torch.compile(group.program.reference)
            contestants[f"{name}, torch.compile of the reference"] = lambda i, group=group, compiled=compiled: compiled(
                group.arrays, group.lookup, batches[i % 20]
            )
    for name in (*CODED, *PLANNED):
        frozen = build(name, tables).freeze().eval()
        contestants[f"{name}, frozen"] = lambda i, frozen=frozen: frozen(batches[i % 20])
    source, target = (torch.randn(options.batch, len(tables), 16) for _ in range(2))
    contestants["memcpy of the output"] = lambda i: target.copy_(source)
    with torch.no_grad():
        seconds = race(contestants, options.rounds)
    facts = {"batch": options.batch, "tables": len(tables), "dim": 16, "rows": sum(t.vocabulary for t in tables)}
    report("lookup", seconds, "26 nn.EmbeddingBag", options.out, **facts)


if __name__ == "__main__":
    main()
