"""One case or more for every method: the contract tests run on each. A method without a case fails the suite."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tablefold import Method, TableSpec, parse

LOOKUP = os.path.relpath(Path(__file__).parent / "lookup")

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
    def large_tables(self) -> list[TableSpec]:
        """Tables with ids enough for statistics; metadata there are for `TABLES` alone."""
        if "lookup" in self.spec:
            return TABLES[:2]
        return [TableSpec("user", 20_000, 16), TableSpec("item", 3_000, 16)]

    @property
    def method(self) -> Method:
        return parse(self.spec)


CASES = [
    Case("full", (1000 + 317 + 20) * 8, (8040,)),
    Case("hash:collisions=4", (250 + 80 + 5) * 8, (2040,)),
    Case("hash:collisions=2.5,by=mix", (400 + 127 + 8) * 8, (4168,)),
    Case("hash:collisions=4,by=quotient", (250 + 80 + 5) * 8, (2008,)),
    Case("hash:max_rows=99,by=quotient", (91 + 80 + 20) * 8, (736,)),
    Case("hash:max_rows=100", (100 + 100 + 20) * 8, (840,)),
    Case("qr:collisions=4,combine=mul", (250 + 4 + 80 + 4 + 5 + 4) * 8, (2072, 2672)),
    Case("qr:collisions=4,combine=mul,init=paper", (250 + 4 + 80 + 4 + 5 + 4) * 8, (2072, 2672)),
    Case("qr:collisions=4,combine=add", (250 + 4 + 80 + 4 + 5 + 4) * 8, (2072, 2672)),
    Case("qr:collisions=4,combine=concat", (250 + 4 + 80 + 4 + 5 + 4) * 4, (1036, 1336)),
    Case("qr:collisions=4,combine=features", (250 + 4 + 80 + 4 + 5 + 4) * 8, (2072, 2672), features=6),
    Case("qr:combine=mul", (32 + 32 + 18 + 18 + 5 + 4) * 8, (552, 656)),
    Case("qr:max_rows=150,combine=mul", (142 + 8 + 147 + 3 + 20) * 8, (1240, 2376)),
    Case("mixed_radix:k=3,combine=mul", (3 * 10 + 3 * 7 + 3 * 3) * 8, (280, 296, 352)),
    Case("mixed_radix:moduli=40x25x20,combine=add", 3 * (40 + 25 + 20) * 8, (720, 1000, 1200)),
    Case("mixed_radix:k=4,max_rows=60,combine=concat", (51 + 9 + 54 + 6) * 2 + 20 * 8, (130, 228, 232, 236)),
    Case("chinese_remainder:k=3,combine=mul", (13 + 11 + 7 + 11 + 6 + 5 + 5 + 4 + 1) * 8, (288, 376, 384)),
    Case("chinese_remainder:moduli=37x27x25,combine=features", 3 * (37 + 27 + 25) * 8, (752, 1048, 1264), features=9),
    Case("chinese_remainder:k=2,max_rows=100,combine=mul", (85 + 12 + 95 + 4 + 20) * 8, (816, 1544)),
    Case(f"custom:lookup={LOOKUP},combine=mul", (2 + 7 + 21 + 8 + 36 + 9) * 8, (344, 448)),
    Case(
        f"custom:lookup={LOOKUP},max_rows=100,combine=concat", (2 + 7 + 21 + 8) * 2 + (96 + 4) * 4 + 20 * 8, (96, 460)
    ),
    Case("path:collisions=4,hidden=16", 335 * 8 + 12 * 280, (2040,)),
    Case("path:collisions=8,hidden=16,k=3", 168 * 8 + 18 * 280, (1040,)),
    Case("path:max_rows=150,hidden=64,function=linear", 238 * 8 + 14 * 72, (800,)),
    Case("robe:block=8,floats=1000", 1000, (818,)),
    Case("robe:block=3,sign=true,floats=1000", 1000, (454, 974, 625)),
    Case("robe:block=4,aligned=true,floats=1001", 1000, (824, 88)),
    Case("robe:block=32,wrap=true,floats=1001", 1001, (977,)),
    Case("unified:lookups=2,rows=200", 200 * 4, (424, 688)),
    Case("hash_embeddings:k=2,floats=1001", 1001, (48, 576, 806, 807)),
    Case("low_rank:rank=2", 2 * (1000 + 317 + 20) + 3 * 2 * 8, (2026,)),
    Case("low_rank:rank=6", 6 * (1000 + 317) + 2 * 6 * 8 + 20 * 8, (6078,)),
    Case("mixed_dimensions:scale=16", 2 * (1008 + 325) + 4 * 28, (2026,)),
    Case("mixed_dimensions:alpha=0.5,scale=32", 1008 + 325 + 4 * 28, (1013,)),
    Case("hot:rows=50,over=qr:collisions=4,combine=mul", (50 + 50 + 20 + 238 + 4 + 67 + 4) * 8, (440, -1, -1)),
    Case("hot:rows=3,over=hash:collisions=4", (9 + 250 + 79 + 5) * 8, (-1, 2088)),
    Case("hot:share=0.01,over=robe:block=4,floats=1000", (10 + 3) * 8 + 1000, (-1, 693, 593)),
    Case("hot:rows=10,over=low_rank:rank=2", 30 * 8 + 2 * (990 + 307 + 10 + 24), (120, -1)),
    Case(
        "hot:rows=10,over=qr:collisions=4,combine=features",
        3 * 10 * 16 + (248 + 4 + 77 + 4 + 3 + 4) * 8,
        (240, -1, -1),
        features=6,
    ),
    Case("robe:block=1,floats=999", 999, (923, 688, 920, 103, 880, 85, 96, 987)),
    Case("clustered_residual:rows=50", (50 + 50 + 20) * 8, (400,)),
    Case("clustered_residual:rows=30,stages=1,codebook=32", (30 + 32 + 30 + 32 + 20) * 8, (496, 776)),
    Case("graded:stops=100x400,widths=8x2x0,growth=2", 24 * 8 + 1416 + 1250 + 160, (1544, 1624, -1, -1)),
    Case("graded:scale=2000", 58 * 8 + 1146 + 888 + 20 * 8, (1442, 1574, -1, -1, -1)),
    Case("clusters:rows=30", (30 + 30 + 20) * 8, (240,)),
    Case("clusters:rows=30,stored=true", (30 + 30 + 20) * 8, (240,)),
    Case("clusters:stops=64x300,clusters=64x16x4,widths=8x2x0", 2 * 84 * 8 + 2 * 488 + 160, (1200, -1, -1, -1)),
    Case("residual:stages=2,rows=32", (2 * 32 + 2 * 32 + 20) * 8, (552, 768)),
    Case("residual:stages=3,rows=16,sharing=2", (47 + 47 + 20) * 8, (376 + 40, 376 + 128 + 40, 376 + 248)),
    Case("residual:stages=1,rows=16,sharing=2", (16 + 16 + 16) * 8, (128 + 40, -1)),
    Case("residual:stages=1,rows=33,sharing=3", (33 + 33 + 20) * 8, (264 + 40, -1, -1)),
    Case("clustered_residual:rows=30,stages=2,codebook=16,sharing=2", (61 + 61 + 20) * 8, (488, 488 + 240 + 40, 896)),
]
