"""Compile ahead of the first use, as for an image that will run where nothing can be written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from tablefold.compilation import Made, observed
from tablefold.extras import installed
from tablefold.ops.cpu import KERNELS, kernel

_ROWS = 100


def warmup(dtypes: Sequence[str] = ("float32",), tell: Callable[[Made], object] | None = None) -> list[Made]:
    """Compile all kernels for memory of some types, and the loops that prepare data, or find that they are compiled.

    Args:
        dtypes: "float32", "float64" or both.
        tell: called with each function as soon as it is compiled or read.

    Returns:
        What was compiled or read, with the seconds it took and the file in which it is kept. What this process has used
        before is not listed.

    Raises:
        ValueError: for another type.
    """
    all_made: list[Made] = []
    with observed() as made, tempfile.TemporaryDirectory(prefix="tablefold-warmup-") as folder:
        logs = _prepare(Path(folder)) if installed("polars", "pyarrow") else ()
        for _ in chain(_load_kernels(dtypes), logs):
            for each in made:
                all_made.append(each)
                if tell is not None:
                    tell(each)
            made.clear()
    return all_made


def _load_kernels(dtypes: Sequence[str]) -> Iterator[None]:
    for module, name in KERNELS:
        found = kernel(module, name)
        for dtype in found.dtypes if len(found.dtypes) == 1 else dtypes:
            found.address(dtype)
            yield


def _prepare(folder: Path) -> Iterator[None]:
    """Make a small log and prepare it in each way that has loops of its own: they are compiled for what they meet."""
    from tablefold.data import Dataset, Numbering
    from tablefold.data.criteo import Criteo
    from tablefold.data.encoder import Encoder
    from tablefold.data.encoder_folder import EncoderFolder, save_encoder
    from tablefold.data.joined import join
    from tablefold.data.preparation import Options, prepare
    from tablefold.data.private import Private
    from tablefold.data.synthetic import Synthetic, generate
    from tablefold.data.text_hash import hash_texts

    generate(Synthetic(_ROWS), folder / "log.txt")
    yield
    hash_texts(["a"])
    yield
    log = Criteo((str(folder / "log.txt"),))
    for name, options in (("ranked", Options(permute_ids=0)), ("hashed", Options(ids="hash"))):
        prepare(log, folder / name, options)
        yield
    prepare(Private(log, bytes(16)), folder / "private")
    yield
    dataset = Dataset(folder / "ranked")
    save_encoder(dataset.numbered(Numbering.permuted(dataset.schema, 1)), folder / "encoder")
    yield
    join(dataset, EncoderFolder.read(folder / "encoder", log.dense, dataset.schema.tables))
    yield
    list(Encoder(folder / "encoder", log.dense, dataset.schema.tables).read(log.files[0]))
    yield
