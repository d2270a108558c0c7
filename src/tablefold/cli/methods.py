"""List the methods: their options, and when to use each.

An option is given as in `--method qr:collisions=4,combine=mul`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from tablefold.cli.columns import wrapped


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one method only, with its whole description")


def run(args: Namespace) -> None:
    """Print them."""
    import inspect

    from tablefold.method import all_methods
    from tablefold.spec import nearest

    methods = all_methods()
    if args.name is None:
        print(wrapped("\n\n".join(describe_method(methods[name]) for name in sorted(methods))))
        return
    if args.name not in methods:
        near = nearest(args.name, methods)
        raise ValueError(f"no method {args.name!r}{near}; methods: {', '.join(sorted(methods))}")
    kind = methods[args.name]
    print(wrapped(f"{describe_method(kind)}\n\n{inspect.getdoc(kind)}"))


def describe_method(kind: type) -> str:
    """Name and summary on a line, then a line for each option: its type, its default."""
    from tablefold.spec import describe
    from tablefold.text_tables import text_table

    title = f"{kind.name}: {kind.summary}"  # type: ignore[attr-defined]
    options = [
        [f"  {option}", words, f"default {default}" + (", a size" if option in kind.size_options else "")]  # type: ignore[attr-defined]
        for option, words, default in describe(kind)
    ]
    if not options:
        return f"{title}\n  no options"
    lines = text_table(["", "", ""], options).splitlines()[1:]
    return "\n".join([title, *lines])
