"""One example at a time, as a server looks it up: batch 1, 26 Criteo Kaggle tables, one thread."""

from __future__ import annotations

import torch
from common import CODED, PLANNED, SPECS, arguments, build, kaggle_tables, log_uniform_ids, race, report
from peers import Bags


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    tables = kaggle_tables(options.scale)
    batches = log_uniform_ids(tables, 1, 500)
    columns = [[column.contiguous() for column in batch.t()] for batch in batches]
    offsets = torch.arange(1)
    bags = Bags(tables)
    contestants = {"26 nn.EmbeddingBag": lambda i: bags(columns[i % 500], offsets)}
    for name in SPECS:
        group = build(name, tables)
        contestants[name] = lambda i, group=group: group(batches[i % 500])
    for name in (*CODED, *PLANNED):
        frozen = build(name, tables).freeze().eval()
        contestants[f"{name}, frozen"] = lambda i, frozen=frozen: frozen(batches[i % 500])
    with torch.inference_mode():
        seconds = race(contestants, options.rounds * 40)
    facts = {"batch": 1, "tables": len(tables), "dim": 16, "rows": sum(t.vocabulary for t in tables)}
    report("latency", seconds, "26 nn.EmbeddingBag", options.out, **facts)


if __name__ == "__main__":
    main()
