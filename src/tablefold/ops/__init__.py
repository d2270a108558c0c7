"""Operations on memory: what the one formula means, and (per device) how it is computed fast."""

from tablefold.ops.reference import Gather

__all__ = ["Gather"]
