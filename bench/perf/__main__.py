"""Command line of the speed comparisons."""

from __future__ import annotations

import argparse
import os
import sys

from sisbench.perf.methods import MAPS, compare_methods

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main(arguments: list[str] | None = None) -> int:
    """Run a comparison and print it; 1 where a score differs by more than its tolerance."""
    parser = argparse.ArgumentParser(prog="python -m sisbench.perf", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("scoring", help="one-pass scoring against the usual tools")
    scoring.add_argument("--images", type=int, default=32, help="pairs of images (default 32)")
    scoring.add_argument("--size", type=int, default=256, help="their side (default 256)")
    scoring.add_argument("--rounds", type=int, default=3, help="rounds, the first is dropped")
    scoring.add_argument("--bf16", action="store_true", help="also where the CPU has no bf16")
    scoring.add_argument("--compile", action="store_true", help="also with torch.compile")
    scoring.add_argument("--device", default="cpu", help="of every network, on both sides")
    scoring.add_argument("--part", choices=("all", "pipeline", "micro"), default="all")
    speed = commands.add_parser("methods", help="seconds, memory, GMAC and size of every method")
    speed.add_argument("cases", nargs="*", help="parts of the names of the cases (default: all)")
    speed.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="batch sizes")
    speed.add_argument(
        "--maps", nargs="+", choices=MAPS, default=["faces"], help="label maps (default: faces)"
    )
    speed.add_argument("--rounds", type=int, default=3, help="timed calls; the best counts")
    speed.add_argument("--device", default="cpu", help="torch device")
    speed.add_argument(
        "--plain", metavar="FOLDER", help="also the plain forms: the folder tests of a checkout"
    )
    parsers = commands.add_parser("parsers", help="parsers and identity networks on the CPU")
    parsers.add_argument("names", nargs="*", help="networks (default: all but mit_ade20k)")
    parsers.add_argument("--images", type=int, default=8, help="pictures (default 8)")
    parsers.add_argument("--size", type=int, default=256, help="their side (default 256)")
    parsers.add_argument("--rounds", type=int, default=4, help="rounds, the first is dropped")
    chosen = parser.parse_args(arguments)
    if chosen.command == "parsers":
        from sisbench.perf.parsers import CASES, compare_parsers

        unknown = [name for name in chosen.names if name not in CASES]
        if unknown:
            parser.error(f"no network {', '.join(unknown)}; known: {', '.join(CASES)}")
        return compare_parsers(chosen.names, chosen.images, chosen.size, chosen.rounds, sys.stdout)
    if chosen.command == "methods":
        return compare_methods(
            chosen.cases,
            chosen.maps,
            chosen.batches,
            chosen.rounds,
            chosen.device,
            chosen.plain,
            sys.stdout,
        )
    for name in _THREADS:  # before torch and NumPy start their threads
        os.environ[name] = "1"
    from sisbench.perf.scoring import Wanted, compare_scoring

    wanted = Wanted(
        chosen.images,
        chosen.size,
        chosen.rounds,
        chosen.bf16,
        chosen.compile,
        chosen.device,
        chosen.part,
    )
    return compare_scoring(wanted, sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
