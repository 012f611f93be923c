#!/usr/bin/env python3
"""Compare tokenizer and autoencoder of whole model folders with transformers and diffusers: ids must be equal, and the
largest difference of means and pictures below 1e-4 of the largest value, in f32.

    scripts/parity_vae.py [FAMILY ...] [--full] [--make-model FILE] [--keep DIR] [--release]

FAMILY is what the model maker knows, by default sd15 (pads with the end token) and sd21-v (pads with "!"). Models have
random weights; --full makes them in the public checkpoints' sizes (gigabytes) instead of tiny.
Needs torch, diffusers, transformers, safetensors and open_clip_torch (for its tokenizer file).
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import CLIPTokenizer

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MAKER = REPOSITORY.parent / "shared" / "bench" / "make_model.py"
FIXTURE = REPOSITORY / "tests" / "fixtures" / "tokenizer" / "golden.json"
WORDS = ("a red Apple, photograph of the ASTRONAUT's naïve café! 8k 1970s don't (((masterpiece))) 日本 яблоко 🍎 👩‍🚀 ½ e\u0301 "
         "\u00a0 - --ar").split(" ")
ALPHABETS = [*range(32, 0x2000), *range(0x3000, 0xD7FF), *range(0x1F300, 0x1FAFF)]


def tokenizer_case(model, out):
    """The fixture's texts; words of many scripts, with and without spaces, short and too long; any characters at all."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    random.seed(2)
    texts = [case["text"] for cases in json.loads(FIXTURE.read_text()).values() for case in cases]
    texts += [random.choice(["", " ", "  "]).join(random.choices(WORDS, k=random.randint(1, 60))) for _ in range(1000)]
    texts += ["".join(map(chr, random.choices(ALPHABETS, k=40))) for _ in range(1000)]
    ids = [tokenizer(text, padding="max_length", truncation=True, max_length=77).input_ids for text in texts]
    (out / "tokens.json").write_text(json.dumps([dict(text=text, ids=ids) for text, ids in zip(texts, ids)]))


def vae_case(model, out):
    """Pictures in [-1, 1] to scaled means, and scaled latents to pictures; sides that are not alike."""
    vae = AutoencoderKL.from_pretrained(model / "vae").eval()
    scale = vae.config.scaling_factor
    picture, latents = torch.rand(2, 3, 64, 96) * 2 - 1, torch.randn(2, vae.config.latent_channels, 8, 12)
    case = dict(picture=picture, latents=latents, mean=vae.encode(picture).latent_dist.mean * scale,
                decoded=vae.decode(latents / scale).sample)
    save_file({name: tensor.contiguous() for name, tensor in case.items()}, out / "vae.safetensors")


CASES = [tokenizer_case, vae_case]


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
    command = ["cargo", "test", *profile, "--test", "suite", "against_diffusers", "--", "--ignored", "--nocapture", "--test-threads=1"]
    run = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "LIMNER_PARITY_DIR": str(out)}, text=True,
                         stdout=subprocess.PIPE)
    lines = [line.partition("parity: ")[2] for line in run.stdout.splitlines() if "parity: " in line]
    print("\n".join(f"{family}: {line}" for line in lines))
    if run.returncode != 0 or not lines:
        print(run.stdout)
    return run.returncode == 0 and bool(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=["sd15", "sd21-v"], metavar="FAMILY")
    parser.add_argument("--full", action="store_true", help="the public checkpoints' sizes")
    parser.add_argument("--make-model", type=pathlib.Path, default=MAKER, help="the script that writes a random model (default: ../shared/bench/make_model.py)")
    parser.add_argument("--keep", type=pathlib.Path, help="keep models and references in this folder")
    parser.add_argument("--release", action="store_true", help="test the release build")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        passed = []
        for family in args.families:
            out = ((args.keep or pathlib.Path(scratch)) / family).resolve()
            out.mkdir(parents=True, exist_ok=True)
            passed.append(compare(family, out, args))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
