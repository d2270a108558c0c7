"""A folded model as a folder: its weights in safetensors, and a JSON file that says what its tables are.

    model.safetensors   every weight of the model; memory packed in its formats, pointers
    tablefold.json      for each drop-in its names and kind; for each group its plan, seed, and check of addresses
    README.md           what was folded, and how to load it

The folder holds no code: it is loaded into a freshly built model, whose tables are replaced by frozen drop-ins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tablefold.files import new_folder
from tablefold.folding.finding import TableModule
from tablefold.folding.replacing import carry_over, make_drop_in, put
from tablefold.group import EmbeddingGroup
from tablefold.json_files import JsonValue, load_json, parse_json, write_json
from tablefold.nn import Embedding, EmbeddingBag, Folded
from tablefold.ops.bags import PoolMode
from tablefold.plans import Plan
from tablefold.quoting import one_line, quoted
from tablefold.tables import show_bytes

WEIGHTS, SPEC, CARD = "model.safetensors", "tablefold.json", "README.md"

ITSELF = "tablefold"
"""In the header of a file that stands alone: what the JSON file of a folder says."""

FORMAT = 1
"""Of the folder."""

MOST = 100_000
"""Drop-ins of a folder that is read back."""

_STATE = "_extra_state"


def save_pretrained(
    model: nn.Module, folder: str | Path, *, data: str = "", figures: Mapping[str, float] | None = None
) -> None:
    """Write a folded model as a new folder, whole or not at all.

    Its drop-ins may come from `fold`, or be `tablefold.Embedding` and `EmbeddingBag` themselves. Memory is packed in
    the file, as by `freeze()`; the model itself does not change.

    Args:
        model: with at least one drop-in in it.
        folder: a new one.
        data: what the model was trained on, for its card.
        figures: how good it is, such as `{"AUC": 0.91}`, for its card.

    Raises:
        ValueError: for a model without drop-ins, or a folder that holds something.
    """
    groups, drop_ins = _groups(model), _drop_ins(model)
    if not drop_ins:
        raise ValueError(f"{type(model).__name__} has no folded table in it: call tablefold.fold first")
    state, tied = _state(model, groups)
    numbers = {group: number for number, group in enumerate(groups)}
    spec = {
        "format": FORMAT,
        "groups": [_group_json(group, next(each for each in drop_ins if each.group is group)) for group in groups],
        "tables": [_table_json(module, names, numbers) for module, names in drop_ins.items()],
        "tied": tied,
    }
    with new_folder(folder) as target:
        save_file(state, target / WEIGHTS)
        (target / WEIGHTS).chmod((target.stat().st_mode & 0o666) | 0o200)  # safetensors would keep others out
        write_json(target / SPEC, spec)
        about = _about(data, figures or {})
        (target / CARD).write_text(_card(model, groups, drop_ins, state, about), encoding="utf-8")


def from_pretrained(folder: str | Path, model: nn.Module) -> nn.Module:
    """Load what `save_pretrained` wrote into a freshly built model, which may be on meta. Returns the model.

    Its tables become frozen drop-ins, which read memory as it is packed. All else gets the weights that were saved.

    Args:
        folder: what `save_pretrained` wrote, or a file of `tablefold fold`.
        model: of the same class, built with the same arguments; its tables full.

    Raises:
        ValueError: for a folder that is damaged, or a model that has other modules.
    """
    folder = Path(folder)
    weights = folder / WEIGHTS if folder.is_dir() else folder
    content = load_json(folder / SPEC) if folder.is_dir() else _header(folder)
    if content["format"].integer() != FORMAT:
        content["format"].refuse(f"{FORMAT}, the format of this release")
    groups = [_group_from(each) for each in content["groups"].items(MOST)]
    for each in content["tables"].items(MOST):
        _put_back(model, each, groups)
    state = _read(weights)
    for alias, name in content["tied"].fields().items():
        if name.text() not in state:
            name.refuse("the name of a weight")
        state[alias] = state[name.text()]
    known = {saved.group: saved.addresses for saved in groups}
    for prefix, group in _prefixes(model):
        if group in known:
            state[f"{prefix}{_STATE}"] = torch.tensor(known[group])
    with content["tables"].naming():
        _load(model, state)
    return model


def _groups(model: nn.Module) -> list[EmbeddingGroup]:
    return list(dict.fromkeys(module.group for module in model.modules() if isinstance(module, Folded)))


def _drop_ins(model: nn.Module) -> dict[Folded, list[str]]:
    found: dict[Folded, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Folded):
            found.setdefault(module, []).append(name)
    return found


def _prefixes(model: nn.Module) -> list[tuple[str, EmbeddingGroup]]:
    """Every group of a model, with the beginning of its names in the state dict that has it."""
    return [(f"{name}.", group) for name, group in model.named_modules() if isinstance(group, EmbeddingGroup)]


def _state(model: nn.Module, groups: list[EmbeddingGroup]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(all weights, memory packed; the names of weights that are there under another)."""
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    for prefix, group in _prefixes(model):
        state.pop(f"{prefix}{_STATE}", None)
        for array, memory in zip(group.address_map.arrays, group.arrays, strict=True):
            if f"{prefix}memory.{array.name}" in state:
                state[f"{prefix}memory.{array.name}"] = group.packed(array, memory.detach())
    first: dict[tuple[Any, ...], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and first.setdefault(place, name) != name:
            tied[name] = first[place]
    return {name: each.detach().cpu().contiguous().clone() for name, each in state.items() if name not in tied}, tied


def _group_json(group: EmbeddingGroup, module: Folded) -> dict[str, Any]:
    if module.plan is None:
        raise ValueError(f"{group.spec or 'a group'} was built by hand, without a plan that a folder could name")
    addresses = group.get_extra_state().tolist()
    return {"plan": module.plan.to_json(), "seed": module.seed, "addresses": [str(each) for each in addresses]}


@dataclass(frozen=True, eq=False)
class _Saved:
    """A group that is read back: without its weights, and what to check them by."""

    group: EmbeddingGroup
    plan: Plan
    seed: int
    addresses: list[int]


def _group_from(content: JsonValue) -> _Saved:
    plan, seed = Plan.from_json(content["plan"]), content["seed"].integer()
    with content.naming():
        group = plan.build(seed=seed, device="meta").freeze()
        return _Saved(group, plan, seed, [int(each.text()) for each in content["addresses"].items(3)])


def _table_json(module: Folded, names: list[str], numbers: Mapping[EmbeddingGroup, int]) -> dict[str, Any]:
    dtype = str(module.vector_type).removeprefix("torch.")
    found: dict[str, Any] = {"names": names, "group": numbers[module.group], "table": module.table, "dtype": dtype}
    found |= {"padding_idx": module.padding_idx, "keeps_padding": module.keeps_padding, "kind": "Embedding"}
    if isinstance(module, EmbeddingBag):
        found |= {"kind": "EmbeddingBag", "mode": module.mode, "include_last_offset": module.include_last_offset}
    return found


def _put_back(model: nn.Module, content: JsonValue, groups: list[_Saved]) -> None:
    """Replace a module by the drop-in that was saved."""
    saved = groups[content["group"].integer(0, len(groups) - 1)]
    group = saved.group
    names = [name.text() for name in content["names"].items(MOST)]
    table = content["table"].choice([table.name for table in group.tables])
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, known in zip(names, content["names"].items(), strict=True):
        if not isinstance(modules.get(name), (nn.Embedding, nn.EmbeddingBag)):
            known.refuse(f"the name of a table of this {type(model).__name__}")
    made = _drop_in(content, group, table, cast(TableModule, modules[names[0]]))
    made.plan, made.seed = saved.plan, saved.seed
    put(model, names, carry_over(modules[names[0]], made))


def _drop_in(content: JsonValue, group: EmbeddingGroup, table: str, like: TableModule) -> Folded:
    """The drop-in of a table as it was saved; as the module that it replaces, where only a checkpoint was there."""
    kind = content["kind"].choice(["Embedding", "EmbeddingBag", "as built"])
    if kind == "as built":
        return make_drop_in(like, group, table)
    padding = content["padding_idx"].optional(lambda value: value.integer(0), None)
    dtype = getattr(torch, content["dtype"].choice(["float16", "bfloat16", "float32", "float64"]))
    made: Folded
    if kind == "EmbeddingBag":
        mode: PoolMode = content["mode"].choice(get_args(PoolMode))  # type: ignore[assignment]
        last = content["include_last_offset"].flag()
        made = EmbeddingBag.over(group, table, padding, mode, last, dtype=dtype)
    else:
        made = Embedding.over(group, table, padding, dtype=dtype)
    made.keeps_padding = content["keeps_padding"].flag()
    return made


def _header(path: Path) -> JsonValue:
    """What the header of a file that stands alone says."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(ITSELF)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged ({one_line(str(error), 200)})") from error
    if text is None:
        raise ValueError(f"{path} is no folded checkpoint: write one with `tablefold fold`")
    return parse_json(text, str(path))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged ({one_line(str(error), 200)})") from error


def _load(model: nn.Module, state: dict[str, Tensor]) -> None:
    device = next((each.device for each in model.parameters() if not each.is_meta), torch.device("cpu"))
    try:
        model.load_state_dict({name: each.to(device) for name, each in state.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights are not those of this model ({one_line(str(error), 300)})") from error


def _about(data: str, figures: Mapping[str, float]) -> list[str]:
    """What a card says of data and figures."""
    lines = [*(["", f"Trained on {one_line(' '.join(data.split()), 1000)}."] if data else [])]
    if figures:
        lines += ["", "| figure | |", "|---|---|"]
        lines += [f"| {one_line(name, 100)} | {value:.6g} |" for name, value in figures.items()]
    return lines


def _card(
    model: nn.Module,
    groups: list[EmbeddingGroup],
    drop_ins: dict[Folded, list[str]],
    state: Mapping[str, Tensor],
    about: list[str],
) -> str:
    """The model card."""
    folded = sum(group.num_bytes for group in groups)
    full = sum(table.num_bytes for group in groups for table in group.tables)
    lines = [
        *("---", "library_name: tablefold", "tags: [tablefold, recommender, embeddings]", "---", ""),
        *(f"# {type(model).__name__}, folded", ""),
        f"{len(drop_ins)} embedding tables in {show_bytes(folded)}, of {show_bytes(full)} in float32: "
        f"{full / folded:.4g}x smaller. The whole file has {show_bytes(sum(each.nbytes for each in state.values()))}.",
        *("", "| table | rows | dim | representation | bytes |", "|---|---|---|---|---|"),
    ]
    for module, names in drop_ins.items():
        name, size = quoted(names[0], 100).strip("'"), show_bytes(module.num_bytes)
        lines.append(f"| {name} | {module.num_embeddings:,} | {module.embedding_dim} | {module.group.spec} | {size} |")
    return "\n".join(
        [
            *lines,
            *about,
            "",
            "```python",
            "import tablefold",
            "",
            "model = tablefold.from_pretrained(FOLDER, Model(...))",
            "```",
            "",
        ]
    )
