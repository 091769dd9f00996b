"""Try every order of a copy's steps anew: what a browser judges question `order` of notebook 04 by.

    python tools/orders.py

Takes a minute and a half; a test tries some of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from anonfolio.exercises.cow_copy_order import TRIED, possible_orders, tried


def main() -> None:
    """Write the file."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lines = [f"{json.dumps(' '.join(order))}: {json.dumps(tried(order))}" for order in possible_orders()]
    TRIED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
