"""Fault injection: each section provokes failures on purpose, and prints the outcome next to the expected one.

Run: python benchmarks/chaos.py [--only SECTION ...] [--short]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from chaos_databases import clocks, leaders, postgresql, sqlite
from chaos_disks import disks
from chaos_kills import kills, lead, slots
from chaos_limits import deadlines, memory, overhead
from chaos_material import Figure

SECTIONS: Mapping[str, Callable[[Path, bool], list[Figure]]] = {
    "kills": kills,
    "slots": slots,
    "postgresql": postgresql,
    "sqlite": sqlite,
    "leaders": leaders,
    "clocks": clocks,
    "disks": disks,
    "memory": memory,
    "deadlines": deadlines,
    "overhead": overhead,
}


def main() -> None:
    """Run the sections that are asked for; end with 1 where a figure is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--short", action="store_true", help="fewer kills, nights and seconds")
    parser.add_argument("--lead", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.lead:
        lead(asked.lead)
        return
    bad = [name for name in asked.only if not shown(name, asked.short)]
    if bad:
        sys.exit(f"Not as it should be: {', '.join(bad)}.")


def shown(name: str, short: bool) -> bool:
    """Run a section, print its figures, and return whether all are good."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"hpo-{name}-") as folder:
        figures = SECTIONS[name](Path(folder), short)
    print(f"{name} ({time.monotonic() - began:.0f} s)")
    for figure in figures:
        print(f"  {'good' if figure.good else 'BAD '}  {figure.name}: {figure.measured}", flush=True)
    return all(figure.good for figure in figures)


if __name__ == "__main__":
    main()
