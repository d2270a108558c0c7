"""The arrays of a group as tests look at them: the only one, or all floats in the order of their addresses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tablefold.group import EmbeddingGroup
from tablefold.terms import AddressMap


def one_array(group: EmbeddingGroup) -> Tensor:
    """The memory of a group that has one array."""
    (array,) = group.arrays
    return array


def by_address(address_map: AddressMap, arrays: Sequence[Tensor]) -> Tensor:
    """The floats of arrays, or of their gradients, region by region: `[floats]`."""
    flat = [array.to_dense().reshape(-1) for array in arrays]
    regions = zip(address_map.regions, address_map.places, strict=True)
    return torch.cat([flat[number][first : first + region.floats] for region, (number, first) in regions])


def into_arrays(address_map: AddressMap, flat: Tensor) -> list[Tensor]:
    """What `by_address` was given."""
    parts = torch.split(flat, [region.floats for region in address_map.regions])
    return [torch.cat([parts[number] for number in array.regions]).view(array.shape) for array in address_map.arrays]


def flat_memory(group: EmbeddingGroup) -> Tensor:
    """What a group learns, in the order of addresses."""
    return by_address(group.address_map, [array.detach() for array in group.arrays])


def flat_gradient(group: EmbeddingGroup) -> Tensor:
    """Its gradient, zero where there is none."""
    found = [torch.zeros_like(array) if array.grad is None else array.grad for array in group.arrays]
    return by_address(group.address_map, found)


def whole(gradient: Tensor) -> Tensor:
    """The dense gradient; of a sparse one, each row must be there once, in ascending order."""
    if gradient.is_sparse:
        rows = gradient._indices()[0]
        assert gradient.is_coalesced()
        assert bool((rows[1:] > rows[:-1]).all())
    return gradient.to_dense()
