"""What depends on no input is computed when a model is exported, once, not in every call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

_GROWTH = 1.125
"""How much larger than what it is computed from a constant may be: else it stays in the graph, as it was written."""

_SMALL = 4096
"""Bytes of a constant that may always be."""


def fold_constants(module: GraphModule) -> GraphModule:
    """The module, with the operations that depend on no input replaced by their results.

    Equal operations on the same constants are computed once. What only went into results is left out, so that nothing
    is kept twice.
    """
    same = _constants(module)
    inside = _worth_folding(same)
    outer = [node for node in inside if node.op != "get_attr" and any(user not in inside for user in node.users)]
    values = _computed(module, same, {same[node] for node in outer})
    numbers, root = {node: number for number, node in enumerate(values)}, {}
    for node in outer:
        name = f"constant_{numbers[same[node]]}"
        root[name] = values[same[node]]
        _replace(module.graph, node, name)
    return _cleared(module, root)


def _constants(module: GraphModule) -> dict[Node, Node]:
    """The nodes that depend on no input, each with the first one that computes the same."""
    same: dict[Node, Node] = {}
    first: dict[Hashable, Node] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            what: Hashable = id(_attribute(module, node.target))
        elif (
            node.op == "call_function" and _has_fixed_value(node) and all(each in same for each in node.all_input_nodes)
        ):
            what = (node.target, repr(map_arg((node.args, node.kwargs), lambda each: same[each])))
        else:
            continue
        same[node] = first.setdefault(what, node)
    return same


def _has_fixed_value(node: Node) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.device.type == "meta":
        return False
    return not any(isinstance(size, torch.SymInt) for size in value.shape)


def _worth_folding(same: dict[Node, Node]) -> set[Node]:
    """Those of some constants that are to be computed: all but what is larger than its sources, and goes into no
    constant that is not."""
    sources: dict[Node, frozenset[Node]] = {}
    for node in same:
        before = [sources[each] for each in node.all_input_nodes]
        sources[node] = frozenset([same[node]]) if node.op == "get_attr" else frozenset().union(*before)
    inside = set(same)
    for node in reversed(list(same)):
        if node.op == "get_attr" or all(user in inside for user in node.users):
            continue
        if _nbytes(node) > _SMALL + _GROWTH * sum(_nbytes(source) for source in sources[node]):
            inside.remove(node)
    return inside


def _nbytes(node: Node) -> int:
    value = cast(Tensor, node.meta["val"])
    return value.numel() * value.element_size()


def _computed(module: GraphModule, same: dict[Node, Node], wanted: set[Node]) -> dict[Node, Tensor]:
    """The values of some constants; what is computed on the way is forgotten as soon as it was used."""
    needed = _ancestors(wanted, same)
    uses = Counter(same[each] for node in needed for each in set(node.all_input_nodes))
    values: dict[Node, Tensor] = {}
    for node in (each for each in same if each in needed):
        if node.op == "get_attr":
            values[node] = _attribute(module, node.target)
            continue
        args, kwargs = map_arg((node.args, node.kwargs), lambda each: values[same[each]])
        with torch.no_grad():
            values[node] = cast(Any, node.target)(*args, **kwargs)
        for each in {same[each] for each in node.all_input_nodes}:
            uses[each] -= 1
            if not uses[each] and each not in wanted:
                del values[each]
    return {node: values[node] for node in values if node in wanted}


def _ancestors(wanted: Iterable[Node], same: dict[Node, Node]) -> set[Node]:
    found: set[Node] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [same[each] for each in node.all_input_nodes]
    return found


def _replace(graph: Graph, node: Node, name: str) -> None:
    with graph.inserting_before(node):
        constant = graph.create_node("get_attr", name)
    constant.meta = {"val": node.meta["val"]}
    node.replace_all_uses_with(constant)


def _cleared(module: GraphModule, root: dict[str, Any]) -> GraphModule:
    """The module without what nothing needs any more: checks of what is certain, and constants that were folded."""
    for node in reversed(module.graph.nodes):
        checks = node.op == "call_module" or "_assert_tensor_metadata" in str(node.target)
        if not node.users and node.op not in ("output", "placeholder") and (checks or not node.is_impure()):
            module.graph.erase_node(node)
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target not in root:
            root[str(node.target)] = _attribute(module, node.target)
    return GraphModule({name: _held(value) for name, value in root.items()}, module.graph)


def _held(value: Tensor) -> Tensor:
    """A constant that owns what it holds and nothing else; a view would carry what it is a view of into the file."""
    if isinstance(value, nn.Parameter):
        return value
    return value.detach().clone(memory_format=torch.contiguous_format)


def _attribute(module: nn.Module, name: Any) -> Tensor:
    owner, _, last = str(name).rpartition(".")
    value: Tensor = getattr(module.get_submodule(owner), last)
    return value
