"""The folder of a study.

OUT/
    study.json            the study, its data, and its runs in order
    inputs/NAME.json      what a run is asked to do
    outputs/NAME.json     what came out, with the hash of the input: done if that matches
    models/NAME/          the trained runs, if they are kept
    work/                 runs under way
"""

from __future__ import annotations

from pathlib import Path

from tablefold.json_files import load_json

STUDY, INPUTS, OUTPUTS, MODELS, WORK = "study.json", "inputs", "outputs", "models", "work"


def check_out(out: Path) -> None:
    """Refuse a folder that holds something and no study: what is in it may be lost otherwise.

    Raises:
        ValueError: for such a folder, for a file, and for a `study.json` that is somebody else's.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder")
    if (out / STUDY).exists():
        try:
            content = load_json(out / STUDY)
            for run in content["runs"].items():
                run["name"].text()
            content["data"]["sha256"].text()
        except ValueError as error:
            raise ValueError(f"{out} holds a {STUDY} that is no study's ({error}); name a new folder") from error
    elif strangers := sorted(path.name for path in out.iterdir() if not _is_ours(path)) if out.is_dir() else []:
        raise ValueError(f"{out} holds something that is no study ({strangers[0]!r}); name a new folder")


def _is_ours(path: Path) -> bool:
    """Whether a study whose first file was not there yet, or its lock, left this."""
    return path.name == ".lock" or path.name.startswith(f".{STUDY}.")
