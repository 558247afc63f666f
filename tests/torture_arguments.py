"""The command line of the torture scripts: BINARY SOURCE [--count N] [--seed N] [--only N] [--keep DIR]."""
import argparse


def torture_arguments(count):
    """`count`: how many there are if nobody says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("source")
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--keep")
    return parser.parse_args()
