"""A click model for a notebook: a data frame in, probabilities out."""

from __future__ import annotations

import copy
import shutil
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.preparation import Options, prepare
from tablefold.data.table import Columns, Table
from tablefold.files import new_folder
from tablefold.panics import without_panic_text
from tablefold.quoting import one_line
from tablefold.serving.scorer import Scorer, frame_of
from tablefold.train import Config, Run, load_run, train_run
from tablefold.train.loop import choose_device

_FRAME_FILE = "data frame.parquet"


class ClickModel:
    """A click model with folded tables, from a data frame to probabilities.

    It can be copied and pickled. A copy has its own files and does not need the original.

    It does what `tablefold prepare table`, `train` and `predict` do, in temporary folders. `save` writes a run, which
    `tablefold evaluate` and `predict` read too. Use the commands where data is too large for a notebook.

    Args:
        method: how tables are represented, such as "qr:collisions=4".
        compression: full bytes / embedding bytes to reach. At most one of this and `budget`.
        budget: bytes that all embeddings together may take.
        settings: any other field of `tablefold.train.Config`, such as `dim`, `model`, `epochs`, `lr`, `seed`.

    Attributes:
        run: the finished run after `fit` or `load`, with its recipe and its torch model; None before.
        result: after `fit`, its figures on the held-out test rows, its bytes and speed.

    Raises:
        ValueError: for a setting that is unknown or out of range.

    Example:
        >>> import polars as pl
        >>> rows = range(2000)
        >>> log = pl.DataFrame({"user": [f"u{row % 40}" for row in rows], "ad": [row % 7 for row in rows]})
        >>> log = log.with_columns(clicked=(pl.col("ad") < 3).cast(pl.Int64))
        >>> sizes = {"bottom_mlp": [], "top_mlp": [16]}
        >>> model = ClickModel("robe:block=4", budget=1000, dim=4, lr=0.01, epochs=2, model_options=sizes)
        >>> model = model.fit(log, label="clicked", categorical=["user", "ad"])
        >>> model.result["auc"] > 0.95, model.result["embedding_bytes"] <= 1000
        (True, True)
        >>> model.predict_proba(log.drop("clicked")).shape
        (2000, 2)
    """

    def __init__(
        self,
        method: str = "full",
        *,
        compression: float | None = None,
        budget: int | None = None,
        **settings: Any,
    ) -> None:
        unknown = sorted(set(settings) - (Config.__dataclass_fields__.keys() - {"data"}))
        if unknown:
            raise ValueError(f"ClickModel has no setting {unknown[0]!r}; it takes those of tablefold.train.Config")
        self._settings = {"method": method, "compression": compression, "budget": budget, **settings}
        Config("", **self._settings)  # refuses what cannot be, now
        self._kept: _Kept | None = None  # where the run of the last `fit` is
        self._scorer: Scorer | None = None  # made by the first prediction
        self.run: Run | None = None
        self.result: dict[str, Any] = {}

    def fit(
        self,
        data: Any,
        label: str,
        categorical: Sequence[str],
        dense: Sequence[str] = (),
        counts: Sequence[str] = (),
        *,
        times: Sequence[str] = (),
        lists: Sequence[str] = (),
        weight: str = "",
        min_count: int = 1,
    ) -> ClickModel:
        """Train on a log; gives this object. A second call starts anew.

        The first 6/7 of the rows train, the rest is held out, half for validation, half for `result`: the order of
        the rows should be that of time.

        Args:
            data: a data frame (polars, pandas, or anything else that exports Arrow), a dict of columns, or the path of
                a Parquet or CSV file.
            label: column of 0 and 1.
            categorical: columns that become tables; any type, compared as text.
            dense: columns of numbers, taken as they are; missing ones count as 0.
            counts: columns of numbers, taken as log(1 + x).
            times: columns of dates and times: their hour and weekday become tables, their order a dense column.
            lists: columns of lists, whose values' vectors are pooled: the first 20 of each.
            weight: column of numbers from 0, how much each row counts in training.
            min_count: values seen less often in training share one id.

        Raises:
            ValueError: for data or columns that do not fit.
        """
        columns = Columns(
            label,
            tuple(categorical),
            tuple(dense),
            tuple(counts),
            times=tuple(times),
            lists=tuple(lists),
            weight=weight,
        )
        columns.check("fit")
        with _Kept() as kept, TemporaryDirectory(prefix="work-", dir=kept.folder) as place:
            source, dataset = Table((_file_of(data, Path(place)),), columns), Path(place) / "data"
            with _speaking_of_data(place):
                prepare(source, dataset, Options(min_count=min_count))
            result = train_run(Config(str(dataset), **self._settings), kept.folder / "run")
            self._keep(kept, result)
        return self

    def predict_proba(self, data: Any) -> NDArray[np.float32]:
        """Probabilities of labels 0 and 1, float32 `[rows, 2]`, in the order of the rows; NaN for a malformed row.

        Args:
            data: as for `fit`, or a list of records (`[{"user": "ann", "city": 7}]`); the label may be missing.

        Raises:
            ValueError: before `fit`, for data that lacks a column, or where the model gives a score that is not finite.
        """
        run = self._fitted()
        if self._scorer is None:  # it reads the run's dictionaries, once
            self._scorer = Scorer(run, self._settings.get("device", "auto"))
        scorer = self._scorer
        if isinstance(data, (str, Path)):
            clicked = np.concatenate([piece.probability for piece in scorer.score_file(data)])
        else:
            clicked = scorer.score(data)
        return np.stack([1 - clicked, clicked], axis=1)

    def save(self, folder: str | Path) -> None:
        """Write the run as the new folder `folder`, whole or not at all.

        Raises:
            ValueError: before `fit`, or where `folder` holds something.
        """
        run = self._fitted()
        with new_folder(folder) as target:
            shutil.copytree(run.folder, target, dirs_exist_ok=True)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> ClickModel:
        """The model that `save` wrote, or any run of `tablefold train` on a table.

        Args:
            folder: the run.
            device: where it predicts: "auto" (CUDA where there is one), "cpu" or "cuda". Where it was trained does not
                matter.

        Raises:
            ValueError: when the folder holds no finished run, or a damaged one, or for a device that is not there.
        """
        choose_device(device)
        run = load_run(folder)
        settings = {**run.recipe.config.to_json(), "device": device}
        del settings["data"]
        model = cls(**settings)
        model.run = run
        return model

    def __getstate__(self) -> dict[str, Any]:
        """Everything, the run's files too: a copy is whole on another machine, after the original is gone."""
        state: dict[str, Any] = {"settings": self._settings, "result": self.result, "files": None, "weights": None}
        if self.run is not None:
            files = [path for path in self.run.folder.rglob("*") if path.is_file()]
            state["files"] = {str(path.relative_to(self.run.folder)): path.read_bytes() for path in files}
            state["weights"] = self.run.model.state_dict()  # as they are now, wherever they came from
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._settings, self.result, self._kept, self.run = dict(state["settings"]), {}, None, None
        self._scorer = None
        try:
            choose_device(self._settings.get("device", "auto"))
        except ValueError:  # it was asked for on another machine
            self._settings["device"] = "auto"
        if state["files"] is None:
            return
        with _Kept() as kept:
            for name, content in state["files"].items():
                path = kept.folder / "run" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._keep(kept, copy.deepcopy(state["result"]))
            self._fitted().model.load_state_dict(state["weights"])

    def _keep(self, kept: _Kept, result: dict[str, Any]) -> None:
        """Take over the run in a folder of ours; the one before goes with its folder."""
        self.run = load_run(kept.folder / "run")
        self._kept, self._scorer, self.result = kept, None, result

    def _fitted(self) -> Run:
        if self.run is None:
            raise ValueError("this ClickModel knows nothing yet; call fit or ClickModel.load first")
        return self.run


class _Kept:
    """A temporary folder that goes with this object: when it is no longer used, and at exit at the latest.

    As a context it goes at the end of a block that fails.
    """

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="tablefold-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # the error's traceback would keep this object, and so the folder
            self.remove()


def _file_of(data: Any, folder: Path) -> str:
    """A file with the rows of `data`: the one it names, or a new one in `folder`."""
    if isinstance(data, (str, Path)):
        return str(data)
    frame = frame_of(data)
    if not len(frame):
        raise ValueError("the data frame has no rows")
    path = folder / _FRAME_FILE
    try:
        with without_panic_text():
            frame.write_parquet(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"the data frame has a column that no file can hold: {one_line(str(error), 200)}") from error
    return str(path)


@contextmanager
def _speaking_of_data(place: str) -> Iterator[None]:
    """Errors name the data frame, not the file that it was written to in the folder `place`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace(str(Path(place) / _FRAME_FILE), "the data frame")) from error
