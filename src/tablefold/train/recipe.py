"""What a run's model is made of: enough to build it again, and to refuse data that does not fit it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from tablefold.data import Schema
from tablefold.formats import FORMATS
from tablefold.hashing import derive_key
from tablefold.json_files import JsonValue
from tablefold.method import Method, all_methods
from tablefold.models import Network, build_model
from tablefold.placement import Placement
from tablefold.quoting import quoted
from tablefold.tables import TableSpec
from tablefold.train.config import Config

FORMAT = 2
"""Version of `config.json`; a reader refuses those it does not know."""

FORMAT_0_1 = 1
"""That of release 0.1, whose formats in few bits are no more: their runs are read into float32."""

MOST_COLUMNS = 10_000
"""Dense columns, and tables, of a run that is read back."""

_NETWORK_SEED = 1 << 32  # far from the small numbers under which groups derive seeds


@dataclass(frozen=True)
class Recipe:
    """All that is needed to build a run's model again: what was asked, and what the data turned it into.

    Args:
        config: what was asked.
        placement: the method at its final size, its threshold and its storage.
        dense: names of the dense columns.
        tables: the categorical columns.
    """

    config: Config
    placement: Placement
    dense: tuple[str, ...]
    tables: tuple[TableSpec, ...]

    @classmethod
    def of(cls, config: Config, schema: Schema) -> Recipe:
        """The recipe for a config on data with this schema.

        Raises:
            ValueError: where the method or its budget do not fit the tables.
        """
        tables = tuple(schema.table_specs(config.dim))
        return cls(config, config.placement(tables), schema.dense, tables)

    def build(self) -> Network:
        """The model as training starts, on the CPU."""
        return self._build("cpu")

    def blank(self) -> Network:
        """The model without its numbers, on the device "meta": it costs no memory, and says what its weights are."""
        with torch.device("meta"):
            return self._build("meta")

    def frame(self) -> Network:
        """The model to be given weights: its embeddings frozen, on the device "meta", its network on the CPU."""
        model = self._build("meta")
        model.group.freeze()
        return model

    def _build(self, device: str) -> Network:
        config = self.config
        group = self.placement.build(self.tables, seed=config.seed, device=device)
        seed = derive_key(config.seed, _NETWORK_SEED)
        return build_model(config.model, group, len(self.dense), seed=seed, **config.model_options)

    def check(self, schema: Schema) -> None:
        """Refuse data whose columns are not those of this run."""
        if schema.dense != self.dense:
            raise ValueError(
                f"the data has dense columns {list(schema.dense)}, the run was trained on {list(self.dense)}"
            )
        there = [(table.name, table.rows) for table in schema.tables]
        here = [(table.name, table.rows) for table in self.tables]
        if there != here:
            first = next((pair for pair in zip(there, here, strict=False) if pair[0] != pair[1]), None)
            detail = f"table {first[0]} against {first[1]}" if first else f"{len(there)} against {len(here)} tables"
            raise ValueError(
                f"the data's tables are not those the run was trained on ({detail}); "
                "prepare both from the same training part"
            )

    def to_json(self) -> dict[str, Any]:
        """For `config.json`; `from_json` inverts it."""
        return {
            "format": FORMAT,
            "asked": self.config.to_json(),
            "placement": {
                "spec": str(self.placement.method),
                "method": self.placement.method.to_json(),
                "threshold": self.placement.threshold,
                "storage": self.placement.storage,
            },
            "dense": list(self.dense),
            "tables": [asdict(table) for table in self.tables],
        }

    @classmethod
    def from_json(cls, content: JsonValue) -> Recipe:
        """The recipe that `to_json` wrote.

        Raises:
            ValueError: names the file, the field, and what must stand there.
        """
        version = content["format"].plain
        if version not in (FORMAT_0_1, FORMAT):
            given = content["format"].optional(lambda value: quoted(value.plain), "missing")
            raise ValueError(f"{content.file}: format is {given}; this tablefold reads {FORMAT_0_1} and {FORMAT}")
        if version == FORMAT_0_1:
            content = _in_fp32(content)
        return cls(
            config=Config.from_json(content["asked"]),
            placement=_placement(content["placement"]),
            dense=tuple(column.text() for column in content["dense"].items(MOST_COLUMNS)),
            tables=tuple(table.into(TableSpec) for table in content["tables"].items(MOST_COLUMNS)),
        )


def _in_fp32(content: JsonValue) -> JsonValue:
    """The recipe of a run of release 0.1, whose memory is read into float32 whatever it was kept in."""
    plain = dict(content.plain)
    for name in ("asked", "placement"):
        content[name].fields()  # refuses what is no object
        plain[name] = {**plain[name], "storage": "fp32"}
    return JsonValue(plain, content.file, content.place)


def _placement(content: JsonValue) -> Placement:
    method = content["method"]
    kind = all_methods()[method["method"].choice(all_methods())]
    typed = method.values_of(kind)
    with method.naming():
        built = Method.from_json({**method.plain, **typed})
    storage = content["storage"].optional(lambda value: value.choice(FORMATS), "fp32")
    return Placement(built, content["threshold"].integer(least=0), storage)
