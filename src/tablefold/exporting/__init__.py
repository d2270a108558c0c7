"""Models as files that run without tablefold: ONNX for onnxruntime, pt2 for torch. One exporter per file.

`export` writes a model of one's own; `export_run` a run's, with the dictionaries that turn raw values into its ids.
"""

from tablefold.exporting.exporter import Exporter
from tablefold.registry import Registry


def _is_exporter(value: object) -> bool:
    return isinstance(value, Exporter)


EXPORTERS: Registry[Exporter] = Registry("tablefold.exporting", "exporter", _is_exporter, "tablefold.exporters")
"""Every exporter by name: those of this package, and of others (see `tablefold.registry`)."""


def find_exporter(name: str) -> Exporter:
    """The exporter of a name.

    Raises:
        ValueError: names the exporters.

    >>> find_exporter("pt2").suffix
    '.pt2'
    """
    if name not in EXPORTERS:
        raise ValueError(f"no exporter {name!r}; exporters: {', '.join(sorted(EXPORTERS))}")
    return EXPORTERS[name]
