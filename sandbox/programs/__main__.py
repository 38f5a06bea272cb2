"""Starts one of the programs: `NAME ARGUMENT...`. In the archive, this file lies at the top, beside the package."""

import sys
from importlib import import_module

from sandbox.programs import PROGRAMS


def main(arguments: list[str]) -> int:
    """Run the program that the first argument names; its exit code. Any other name is exit 2."""
    if not arguments or arguments[0] not in PROGRAMS:
        print(f"Usage: {'|'.join(PROGRAMS)} ARGUMENT...", file=sys.stderr)
        return 2
    code: int = import_module(f"sandbox.programs.{arguments[0]}").main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
