"""One case or more for every method: the contract tests run on each. A method without a case fails the suite."""

from __future__ import annotations

from dataclasses import dataclass

from tablefold import Method, TableSpec, parse

TABLES = [TableSpec("user", 1000, 8), TableSpec("item", 317, 8), TableSpec("country", 20, 8)]


@dataclass(frozen=True)
class Case:
    """A spec, and the learnable floats it takes for `TABLES`, worked out by hand.

    `first_codes` are the float addresses that id 5 of `item` reads under seed 3: saved models depend on them.
    """

    spec: str
    parameters: int
    first_codes: tuple[int, ...]
    features: int = 3

    @property
    def method(self) -> Method:
        return parse(self.spec)


CASES = [
    Case("full", (1000 + 317 + 20) * 8, (8040,)),
    Case("hash:collisions=4", (250 + 80 + 5) * 8, (2040,)),
    Case("hash:collisions=2.5,by=mix", (400 + 127 + 8) * 8, (4168,)),
    Case("hash:max_rows=100", (100 + 100 + 20) * 8, (840,)),
    Case("qr:collisions=4,combine=mul", (250 + 4 + 80 + 4 + 5 + 4) * 8, (2072, 2672)),
    Case("qr:collisions=4,combine=mul,init=paper", (250 + 4 + 80 + 4 + 5 + 4) * 8, (2072, 2672)),
    Case("qr:collisions=4,combine=add", (250 + 4 + 80 + 4 + 5 + 4) * 8, (2072, 2672)),
    Case("qr:collisions=4,combine=concat", (250 + 4 + 80 + 4 + 5 + 4) * 4, (1036, 1336)),
    Case("qr:collisions=4,combine=features", (250 + 4 + 80 + 4 + 5 + 4) * 8, (2072, 2672), features=6),
    Case("qr:combine=mul", (32 + 32 + 18 + 18 + 5 + 4) * 8, (552, 656)),
    Case("qr:max_rows=150,combine=mul", (142 + 8 + 147 + 3 + 20) * 8, (1240, 2376)),
    Case("robe:block=8,floats=1000", 1000, (818,)),
    Case("robe:block=3,sign=true,floats=1000", 1000, (454, 974, 625)),
    Case("robe:block=1,floats=999", 999, (923, 688, 920, 103, 880, 85, 96, 987)),
]
