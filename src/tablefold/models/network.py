"""What every click model is: a network from dense columns and embedding vectors to a logit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from tablefold.method import EmbeddingGroup


class Network(nn.Module, ABC):
    """A click model over any group: `forward(dense, ids) -> logits [batch]`.

    A subclass names itself (`name`, what `--model` takes) and takes its sizes as keyword-only arguments with
    the paper's values as defaults; those arguments are its options everywhere. It computes `logits` from the
    vectors that `self.group` gives and knows no method: the group says how many features there are and how
    long their vectors are.

    Args:
        group: gives `[batch, features, dim]` for ids `[batch, tables]`.
        dense_columns: width of `dense`; 0 for data without dense columns.
    """

    name: ClassVar[str]

    def __init__(self, group: EmbeddingGroup, dense_columns: int) -> None:
        super().__init__()
        if dense_columns < 0:
            raise ValueError(f"dense_columns={dense_columns} must be at least 0")
        self.group = group
        self.dense_columns = dense_columns

    def forward(
        self, dense: Float[Tensor, "batch dense_columns"], ids: Int[Tensor, "batch tables"]
    ) -> Float[Tensor, " batch"]:
        """The logit of a click, `[batch]`: its sigmoid is the predicted click rate."""
        return self.logits(dense, self.group(ids))

    @abstractmethod
    def logits(
        self, dense: Float[Tensor, "batch dense_columns"], vectors: Float[Tensor, "batch features dim"]
    ) -> Float[Tensor, " batch"]:
        """The logit of a click from the dense columns and the group's vectors: all that `torch.compile` gains by."""

    @property
    def num_network_parameters(self) -> int:
        """Parameters outside the embeddings."""
        in_group = {id(parameter) for parameter in self.group.parameters()}
        return sum(parameter.numel() for parameter in self.parameters() if id(parameter) not in in_group)
