#!/usr/bin/env python3
"""Compare this crate's networks with diffusers and transformers: the largest difference must be below 1e-4 of the
largest value, in f32.

    scripts/parity.py [FAMILY ...] [--full] [--make-model FILE] [--keep DIR] [--release]

FAMILY is what the model maker knows, by default sd15 and sd21-v: 1x1 convolution and linear projections, quick GELU and
GELU. Models have random weights; --full makes them in the public checkpoints' sizes (gigabytes) instead of tiny.
Needs torch, diffusers, transformers, safetensors and open_clip_torch (for its tokenizer file).
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MAKER = REPOSITORY.parent / "shared" / "bench" / "make_model.py"


def text_case(model, out):
    """Random token ids of full length, with start and end where CLIP has them."""
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder").eval()
    ids = torch.randint(0, 49000, (2, 77))
    ids[:, 0], ids[0, 9:], ids[1, 76:] = 49406, 49407, 49407
    save_file(dict(ids=ids, expected=encoder(ids).last_hidden_state.contiguous()), out / "text.safetensors")


def unet_case(model, out):
    """Three times in one batch, one of them fractional; sides that are a multiple of 8, and sides that are odd."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet").eval()
    t = torch.tensor([0.0, 411.25, 999.0])
    context = torch.randn(3, 77, unet.config.cross_attention_dim)
    for size, (height, width) in dict(even=(16, 24), odd=(13, 19)).items():
        x = torch.randn(3, unet.config.in_channels, height, width)
        expected = unet(x, t, context).sample
        save_file(dict(x=x, t=t, context=context, expected=expected.contiguous()), out / f"unet-{size}.safetensors")


CASES = [text_case, unet_case]


def compare(family, out, args):
    """Make the model and the references in `out`, then run the ignored tests on them; returns whether they passed."""
    size = [] if args.full else ["--tiny"]
    model = out / "model"
    subprocess.run([sys.executable, args.make_model, family, model, *size], check=True, stdout=subprocess.DEVNULL)
    torch.manual_seed(1)
    with torch.no_grad():
        for case in CASES:
            case(model, out)
    profile = ["--release"] if args.release else []
    command = ["cargo", "test", *profile, "--test", "suite", "parity", "--", "--ignored", "--nocapture", "--test-threads=1"]
    run = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "LIMNER_PARITY_DIR": str(out)}, text=True,
                         stdout=subprocess.PIPE)
    lines = [line.partition("parity: ")[2] for line in run.stdout.splitlines() if "parity: " in line]
    print("\n".join(f"{family}: {line}" for line in lines) if lines else run.stdout)
    if run.returncode != 0:
        print(run.stdout)
    return run.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=["sd15", "sd21-v"], metavar="FAMILY")
    parser.add_argument("--full", action="store_true", help="the public checkpoints' sizes")
    parser.add_argument("--make-model", type=pathlib.Path, default=MAKER, help="the script that writes a random model (default: ../shared/bench/make_model.py)")
    parser.add_argument("--keep", type=pathlib.Path, help="keep models and references in this folder")
    parser.add_argument("--release", action="store_true", help="test the release build")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.keep or pathlib.Path(scratch)
        passed = []
        for family in args.families:
            out = (root / family).resolve()
            out.mkdir(parents=True, exist_ok=True)
            passed.append(compare(family, out, args))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
