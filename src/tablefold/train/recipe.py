"""What a run's model is made of: enough to build it again, and to refuse data that does not fit it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tablefold.data import Schema
from tablefold.formats import FORMATS, FP32, find_format
from tablefold.hashing import derive_key
from tablefold.json_files import JsonValue
from tablefold.methods.full import Full
from tablefold.models import Network, build_model, find_model
from tablefold.plans import Part, Plan, method_from_json, tables_from_json
from tablefold.quoting import quoted
from tablefold.tables import Column, TableSpec, check_columns, plain_columns
from tablefold.train.config import Config

FORMAT = 2
"""Version of `config.json`; a reader refuses those it does not know."""

FORMAT_0_1 = 1
"""That of release 0.1, whose formats in few bits are no more: their runs are read into float32."""

MOST_COLUMNS = 10_000
"""Dense columns of a run that is read back."""

_NETWORK_SEED = 1 << 32  # far from the small numbers under which groups derive seeds


@dataclass(frozen=True)
class Origin:
    """The run that a training goes on from.

    Args:
        run: its folder, as it was named.
        weights: digest of its weights: what is trained depends on these, wherever the folder is.
    """

    run: str
    weights: str


@dataclass(frozen=True)
class Recipe:
    """All that is needed to build a run's model again: what was asked, and what the data turned it into.

    Args:
        config: what was asked.
        plan: what every table gets; its tables are the categorical columns.
        dense: names of the dense columns.
        columns: what the matrix of ids holds; an id for every table unless given.
        origin: the run whose weights it began with, if it did not begin anew.

    Raises:
        ValueError: for columns that do not read the tables.
    """

    config: Config
    plan: Plan
    dense: tuple[str, ...]
    columns: tuple[Column, ...] = ()
    origin: Origin | None = None

    def __post_init__(self) -> None:
        names = [table.name for table in self.tables]
        columns = check_columns(self.columns, names) if self.columns else plain_columns(names)
        object.__setattr__(self, "columns", columns)

    @classmethod
    def of(cls, config: Config, schema: Schema, plan: Plan | None = None, origin: Origin | None = None) -> Recipe:
        """The recipe for a config on data with this schema; the plan is what the config asks for unless given.

        Raises:
            ValueError: where the method or its budget do not fit the tables.
        """
        tables = schema.table_specs(config.dim)
        return cls(config, plan or config.plan(tables), schema.dense, schema.id_columns, origin)

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """Those of the data; the plan's are more where the model has several for each."""
        return tuple(find_model(self.config.model).read_by(self.plan.tables))

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
        group = self.plan.build(seed=config.seed, device=device)
        seed = derive_key(config.seed, _NETWORK_SEED)
        columns = None if self.is_plain else self.columns
        return build_model(config.model, group, len(self.dense), columns=columns, seed=seed, **config.model_options)

    @property
    def is_plain(self) -> bool:
        """Whether the matrix of ids has a column for each table and nothing is said of them."""
        return self.columns == plain_columns(table.name for table in self.tables)

    def check_columns(self, schema: Schema) -> None:
        """Refuse data whose columns are not called as those of this run, or whose lists are others."""
        if [table.name for table in schema.tables] != [
            table.name for table in self.tables
        ] or schema.dense != self.dense:
            self.check(schema)
        self._check_lists(schema)

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
        self._check_lists(schema)

    def _check_lists(self, schema: Schema) -> None:
        if [replace(each, side="") for each in schema.id_columns] != [replace(each, side="") for each in self.columns]:
            raise ValueError("the data's lists are not those the run was trained on; prepare both by the same schema")

    def to_json(self) -> dict[str, Any]:
        """For `config.json`; `from_json` inverts it."""
        return {
            "format": FORMAT,
            "asked": self.config.to_json(),
            "plan": self.plan.to_json(),
            "dense": list(self.dense),
            **({} if self.is_plain else {"columns": [asdict(column) for column in self.columns]}),
            **({} if self.origin is None else {"origin": asdict(self.origin)}),
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
        planned = "placement" not in content.fields()
        config = asked(content)
        plan = Plan.from_json(content["plan"]) if planned else _plan_of_placement(content)
        columns = tuple(column.into(Column) for column in content["columns"].optional(_items, []))
        dense = tuple(column.text() for column in content["dense"].items(MOST_COLUMNS))
        origin = content["origin"].optional(lambda value: value.into(Origin, complete=True), None)
        with content["columns"].naming():
            return cls(config, plan, dense, columns, origin)


def _items(content: JsonValue) -> list[JsonValue]:
    return content.items(MOST_COLUMNS)


def asked(content: JsonValue) -> Config:
    """What a run was asked for, from its `config.json`.

    Raises:
        ValueError: names the file, the field, and what must stand there.
    """
    given = content["asked"]
    given.fields()  # refuses what is no object
    if "placement" not in content.plain:
        return Config.from_json(given)
    closed = {"threshold": 0, "storage": FP32.name, **given.plain}  # there were no plans to leave these to
    if content["format"].plain == FORMAT_0_1:
        closed["storage"] = FP32.name  # what its memory is read into, whatever it was kept in
    return Config.from_json(replace(given, plain=closed))


def _plan_of_placement(content: JsonValue) -> Plan:
    """The plan of a run that was made before there were plans: a method, and small tables full behind it."""
    placement, tables = content["placement"], tables_from_json(content["tables"])
    method, threshold = method_from_json(placement["method"]), placement["threshold"].integer(least=0)
    name = FP32.name
    if content["format"].plain != FORMAT_0_1:
        name = placement["storage"].optional(lambda value: value.choice(FORMATS), name)
    kept = find_format(name)
    small = tuple(table for table in tables if table.rows is not None and table.rows <= threshold)
    folded = tuple(table for table in tables if table not in small)
    parts = (Part(folded, method, kept), Part(small, Full(), kept))
    with content["tables"].naming():
        return Plan(tables, tuple(part for part in parts if part.tables))
