#!/usr/bin/env python3
"""Bits per dimension of pictures that a model was trained on, of held-out ones and of foreign ones: by the flow and by
the evidence lower bound, with and without their captions; and what a way to noise and back loses at each tolerance.

    scripts/likelihood.py LIMNER MODEL DATA [--pictures N] [--foreign FOLDER]

LIMNER is the program (target/release/limner), DATA a folder that `limner data` made. Prints tables in Markdown."""

import argparse
import json
import math
import pathlib
import random
import subprocess
import tempfile


def limner(program, *words):
    answer = subprocess.run([program, *map(str, words), "--json"], check=True, capture_output=True, text=True)
    return json.loads(answer.stdout)


def mean(values):
    values = list(values)
    middle = sum(values) / len(values)
    squares = sum((value - middle) ** 2 for value in values)
    return f"{middle:.3f} ± {math.sqrt(squares / max(len(values) - 1, 1) / len(values)):.3f}"


def likelihoods(args, pictures):
    """One line for a group of (file, caption): conditional and unconditional, by the flow and by the bound."""
    cells = []
    for captioned in (True, False):
        found = [
            limner(args.program, "likelihood", file, "--model", args.model, "--seed", 1, "--draws", args.draws,
                   "--tolerance", args.tolerance, "--levels", args.levels, "--prompt", caption if captioned else "")
            for file, caption in pictures
        ]
        cells += [mean(f["bits_per_dim"] for f in found), mean(f["elbo"]["bits_per_dim"] for f in found)]
        cells.append(f"{sum(f['elbo']['bits_per_dim'] >= f['bits_per_dim'] for f in found)} of {len(found)}")
    return cells


def round_trips(args, file, caption):
    print("\n| tolerance | evaluations, there and back | off by, relative | bytes off, at most |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
            found = limner(args.program, "encode", file, "--model", args.model, "--prompt", caption,
                           "--tolerance", tolerance, "--output", f"{folder}/noise.png")["report"]
            print(f"| {tolerance:.0e} | {found['evaluations']} | {found['round_trip']:.1e} | {found['round_trip_bytes']} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--foreign", type=pathlib.Path, help="a folder of other pictures")
    parser.add_argument("--pictures", type=int, default=20, help="of each group")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--levels", type=int, default=1000)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    records = json.loads((args.data / "index.json").read_text())["records"]
    random.Random(1).shuffle(records)
    groups = {}
    for record in records:
        group = groups.setdefault(record["split"], [])
        if len(group) < args.pictures:
            caption = " ".join(filter(None, [record["style"], record["concept"]]))
            group.append((args.data / record["file"], caption))
    if args.foreign:
        files = sorted(file for file in args.foreign.iterdir() if file.suffix in (".png", ".jpg", ".webp"))
        groups["foreign"] = [(file, "") for file in files[: args.pictures]]
    print("| pictures | flow, given the caption | bound | bound at least the flow | flow, alone | bound | bound at least |")
    print("|---|---|---|---|---|---|---|")
    for name, pictures in sorted(groups.items()):
        print("| " + " | ".join([name, *likelihoods(args, pictures)]) + " |", flush=True)
    round_trips(args, *groups[sorted(groups)[0]][0])


if __name__ == "__main__":
    main()
