"""Holds our re-implementation of the old modules against golden files: the largest difference of each output.

Exit codes: 0 all within the tolerance, 1 one is above it, 2 a file that cannot be checked (unreadable, unknown class).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rtvla.errors import CheckpointError

OK, ABOVE, UNCHECKED = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    from rtvla.models.origin.golden import TOLERANCE, check

    parser = argparse.ArgumentParser(prog="check_golden", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    above, unchecked = False, False
    for path in parser.parse_args(argv).files:
        try:
            kind, found = check(path)
        except CheckpointError as error:
            print(f"check_golden: {error}", file=sys.stderr)
            unchecked = True
            continue
        print(f"{path.name}: {kind}")
        for one in found:
            print(f"  {one.output:<32} {one.dtype:<8} {one.largest:.2e}" + ("" if one.ok else "  above the tolerance"))
        above |= not all(one.ok for one in found)
    print(f"above {TOLERANCE:g}" if above else "not all could be checked" if unchecked else f"all within {TOLERANCE:g}")
    return ABOVE if above else UNCHECKED if unchecked else OK


if __name__ == "__main__":
    sys.exit(main())
