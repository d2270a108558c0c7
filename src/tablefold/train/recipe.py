"""What a run's model is made of: enough to build it again, and to refuse data that does not fit it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tablefold.data import Schema
from tablefold.hashing import derive_key
from tablefold.method import Method
from tablefold.models import Network, build_model
from tablefold.placement import Placement
from tablefold.tables import TableSpec
from tablefold.train.config import Config

FORMAT = 1
"""Version of `config.json`; a reader refuses another."""

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
        config = self.config
        group = self.placement.build(self.tables, seed=config.seed)
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
    def from_json(cls, content: dict[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote."""
        if content.get("format") != FORMAT:
            raise ValueError(f"the run has format {content.get('format')}; this tablefold reads {FORMAT}")
        placement = content["placement"]
        return cls(
            config=Config.from_json(content["asked"]),
            placement=Placement(
                Method.from_json(placement["method"]), placement["threshold"], placement.get("storage", "fp32")
            ),
            dense=tuple(content["dense"]),
            tables=tuple(TableSpec(**table) for table in content["tables"]),
        )
