"""Score raw lines of Criteo's format with what `tablefold export RUN --onnx SHIP/model.onnx` wrote.

    python onnx_scores.py SHIP today.txt

Neither tablefold nor torch is needed: onnxruntime runs the model, polars reads the dictionaries.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl

ship, file = Path(sys.argv[1]), Path(sys.argv[2])
signature = json.loads((ship / "signature.json").read_text())
dense, ids = signature["inputs"]

# The value in row n of a table's dictionary has the id n + 2: 0 is a missing value, 1 one that training has not seen.
known = []
for number, table in enumerate(ids["tables"]):
    values = pl.read_parquet(ship / "encoder" / "dictionary" / f"{number:06d}.parquet")["value"]
    first = table["unknown_id"] + 1
    known.append({int(value, 16): first + place for place, value in enumerate(values)})


def number_of(text: str, column: dict[str, str]) -> float:
    """A dense column, of the text in a line."""
    value = max(int(text or 0), 0)
    return math.log1p(value) if column["from_raw"] == "log1p" else value


def id_of(text: str, table: dict[str, int], values: dict[int, int]) -> int:
    """The id of a hex number in a line."""
    return table["missing_id"] if not text else values.get(int(text, 16), table["unknown_id"])


numbers, rows = [], []
for line in file.read_text().splitlines():
    label, *fields = line.split("\t")
    split = len(dense["columns"])
    numbers.append([number_of(*each) for each in zip(fields[:split], dense["columns"], strict=True)])
    rows.append([id_of(*each) for each in zip(fields[split:], ids["tables"], known, strict=True)])

session = onnxruntime.InferenceSession(ship / "model.onnx")
inputs = {"dense": np.array(numbers, dtype=np.float32), "ids": np.array(rows, dtype=np.int64)}
(probability,) = session.run(["probability"], inputs)
sys.stdout.writelines(f"{each}\n" for each in probability)
