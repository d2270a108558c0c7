"""Operations on memory: what the one formula means, and (per device) how it is computed fast."""

from tablefold.ops.backends import backend, is_fused
from tablefold.ops.cpu import WildIdError
from tablefold.ops.gather import look_up

__all__ = ["WildIdError", "backend", "is_fused", "look_up"]
