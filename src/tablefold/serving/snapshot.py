"""A run as a service reads it: a copy of its own, checked; all of its processes map one index of each dictionary.

    run/         config.json, result.json, model.safetensors, encoder/
    lookup/      an index for each dictionary of a run of an earlier version, whose encoder has none
    version      the first digits of a hash of the run's config and weights

The run in its place may then be replaced, or vanish: nothing that is served changes.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tablefold.data.encoder_folder import files_to_score
from tablefold.serving.run_identity import identify
from tablefold.serving.scorer import Scorer
from tablefold.train.run import CONFIG, ENCODER, RESULT, WEIGHTS, load_run

_VERSION = "version"
_RUN, _LOOKUP = "run", "lookup"
_DIGITS = 12


def take_snapshot(run: Path, folder: Path) -> None:
    """Copy what scoring reads of a run to the new folder `folder`, and score a row of missing values with it.

    Raises:
        ValueError: for a run that is none, is damaged, cannot read raw values, gives scores that are not finite, or was
            replaced meanwhile.
    """
    before = identify(run)
    if before is None or not (Path(before.place) / RESULT).is_file():
        raise ValueError(f"{run} holds no finished run; see `tablefold train`")
    copy, lookup, place = folder / _RUN, folder / _LOOKUP, Path(before.place)
    copy.mkdir(parents=True)
    lookup.mkdir()
    for name in (CONFIG, RESULT, WEIGHTS):
        shutil.copyfile(place / name, copy / name)
    for path in files_to_score(place / ENCODER):
        own = copy / path.relative_to(place)
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, own)
    if identify(run) != before:
        raise ValueError(f"{run} was replaced while it was read; it is tried again")
    try:
        scorer = Scorer(load_run(copy, mapped=True), "cpu", work=lookup)
    except ValueError as error:  # in the words of the place that the user knows
        raise ValueError(str(error).replace(str(copy), str(run))) from error
    try_out(scorer)
    digest = hashlib.sha256((copy / CONFIG).read_bytes())
    with (copy / WEIGHTS).open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    (folder / _VERSION).write_text(digest.hexdigest()[:_DIGITS])


def open_snapshot(folder: Path) -> tuple[Scorer, str]:
    """A scorer on what `take_snapshot` left, its weights and indexes mapped; and its version."""
    run = load_run(folder / _RUN, mapped=True)
    scorer = Scorer(run, "cpu", work=folder / _LOOKUP, built=True)
    try_out(scorer)
    return scorer, (folder / _VERSION).read_text()


def try_out(scorer: Scorer) -> None:
    """Score rows of missing values, one and many: all is loaded and compiled then.

    Raises:
        ValueError: where the scores are not finite.
    """
    for rows in (1, 64):
        scorer.score([dict.fromkeys(scorer.names)] * rows)
