"""Make the kept reports anew, as the package writes them now, from the lines beside them: nothing is trained.

    python studies/remake.py [STUDY_FOLDER ...]    # default: all of studies/results

A folder keeps `results.jsonl` and `report.html`; title, question and facts of the data are the old page's.
"""

from __future__ import annotations

import json
import math
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tablefold.plans import Wishes
from tablefold.study import report
from tablefold.study.definition import read_definition
from tablefold.study.results import RunResult, StudyResults

RESULTS = Path(__file__).parent / "results"


def wishes(line: dict[str, Any]) -> Wishes:
    """What was asked of a run's plan; lines of release 0.1 do not say: format and threshold were given."""
    if "wishes" in line:
        return Wishes(**line["wishes"])
    compression = re.fullmatch(r"(.* )?([\d.]+)x", line["size"])
    storage = line["result"].get("storage", "fp32") if line["result"] else "fp32"
    return Wishes(None, float(compression[2]) if compression else None, storage, line["threshold"])


def run(line: dict[str, Any]) -> RunResult:
    own = {name: value for name, value in line.items() if name not in ("wishes", "threshold", "curve", "result")}
    looks = tuple(_numbers(look) for look in line["curve"])
    return RunResult(**own, wishes=wishes(line), result=_numbers(line["result"]), curve=looks)


def _numbers(figures: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an undefined figure is null there."""
    return {
        name: math.nan if value is None and name in ("auc", "logloss") else value for name, value in figures.items()
    }


def remake(folder: Path) -> None:
    page = folder / "report.html"
    old = page.read_text(encoding="utf-8")
    title, lead = (unescape(re.search(pattern, old)[1]) for pattern in ("<h1>(.*?)</h1>", '<p class="lead">(.*?)</p>'))
    facts = {unescape(name): unescape(fact) for name, fact in re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", old)}
    target = read_definition(folder.name)[0].get("target")
    runs = tuple(run(json.loads(line)) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines())
    study = StudyResults(folder, title, lead, target, 1, {"name": facts["data"].partition(":")[0]}, runs)
    with patch.object(report, "describe", lambda _: facts):
        page.write_text(report.render(study), encoding="utf-8")
    print(page, f"{len(runs)} runs", f"{page.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    for each in map(Path, sys.argv[1:] or sorted(path.parent for path in RESULTS.glob("*/*/results.jsonl"))):
        remake(each)
