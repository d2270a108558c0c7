"""Show what each table would get, and why: nothing is built or trained.

The same options give `tablefold train` the same plan.

  tablefold plan criteo --method qr --budget 10MB
  tablefold plan --rows 882774559 --rows 200 --dim 128 --method robe:block=32 --compression 10000
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from tablefold.cli.columns import table_width
from tablefold.cli.options import add_method_options, add_tables_options, figures, planned


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add_tables_options(parser)
    add_method_options(parser)


def run(args: Namespace) -> None:
    """Plan, print."""
    plan = planned(args)
    print(plan.table(table_width()))
    if plan.full_bytes is not None:
        print(f"\ncompression {plan.full_bytes / plan.num_bytes:,.4g}x", end="")
    print(f"\n{figures(plan, args.data)}")
