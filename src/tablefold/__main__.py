"""`python -m tablefold` is the `tablefold` command."""

import sys

from tablefold.cli import main

if __name__ == "__main__":
    sys.exit(main())
