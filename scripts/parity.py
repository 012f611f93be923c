#!/usr/bin/env python3
"""Compare tokenizer, text encoder, U-Net and autoencoder with transformers and diffusers on whole model folders: ids must
be equal, and the largest difference of outputs below 1e-4 of the largest value, in f32.

    scripts/parity.py [FAMILY ...] [--full] [--make-model FILE] [--keep DIR] [--release]
    scripts/parity.py --model DIR       # an existing folder: the text encoder and the U-Net only

FAMILY is what the model maker knows, by default sd15 and sd21-v: 1x1 convolution and linear projections, quick GELU and
GELU, padding with the end token and with "!". Models have random weights; --full makes them in the public checkpoints' sizes (gigabytes) instead of tiny.
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
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MAKER = REPOSITORY.parent / "shared" / "bench" / "make_model.py"
FIXTURE = REPOSITORY / "tests" / "fixtures" / "tokenizer" / "golden.json"
WORDS = ("a red Apple, photograph of the ASTRONAUT's naïve café! 8k 1970s don't (((masterpiece))) 日本 яблоко 🍎 👩‍🚀 ½ e\u0301 "
         "\u00a0 - --ar").split(" ")
ALPHABETS = [*range(32, 0x2000), *range(0x3000, 0xD7FF), *range(0x1F300, 0x1FAFF)]


def token_case(model, out):
    """The fixture's texts; words of many scripts, with and without spaces, short and too long; any characters at all."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    length = min(77, tokenizer.model_max_length)
    random.seed(2)
    texts = [case["text"] for cases in json.loads(FIXTURE.read_text()).values() for case in cases]
    texts += [random.choice(["", " ", "  "]).join(random.choices(WORDS, k=random.randint(1, 60))) for _ in range(1000)]
    texts += ["".join(map(chr, random.choices(ALPHABETS, k=40))) for _ in range(1000)]
    ids = [tokenizer(text, padding="max_length", truncation=True, max_length=length).input_ids for text in texts]
    (out / "tokens.json").write_text(json.dumps([dict(text=text, ids=ids) for text, ids in zip(texts, ids)]))


def text_case(model, out):
    """Random token ids of full length, with start and end where CLIP has them."""
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval()
    size, length = encoder.config.vocab_size, encoder.config.max_position_embeddings
    ids = torch.randint(0, size - 2, (2, length))
    ids[:, 0], ids[0, 9:], ids[1, -1:] = size - 2, size - 1, size - 1
    save_file(dict(ids=ids, expected=encoder(ids).last_hidden_state.contiguous()), out / "text.safetensors")


def unet_case(model, out):
    """Three times in one batch, one of them fractional; sides that are a multiple of 8, and sides that are odd."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet").eval()
    t = torch.tensor([0.0, 411.25, 999.0])
    context = torch.randn(3, 20, unet.config.cross_attention_dim)
    for size, (height, width) in dict(even=(16, 24), odd=(13, 19)).items():
        x = torch.randn(3, unet.config.in_channels, height, width)
        expected = unet(x, t, context).sample
        save_file(dict(x=x, t=t, context=context, expected=expected.contiguous()), out / f"unet-{size}.safetensors")


def vae_case(model, out):
    """Pictures in [-1, 1] to scaled means, and scaled latents to pictures; sides that are not alike."""
    vae = AutoencoderKL.from_pretrained(model / "vae").eval()
    scale = vae.config.scaling_factor
    picture, latents = torch.rand(2, 3, 64, 96) * 2 - 1, torch.randn(2, vae.config.latent_channels, 8, 12)
    case = dict(picture=picture, latents=latents, mean=vae.encode(picture).latent_dist.mean * scale,
                decoded=vae.decode(latents / scale).sample)
    save_file({name: tensor.contiguous() for name, tensor in case.items()}, out / "vae.safetensors")




def compare(name, model, cases, out, args):
    """Compute the references in `out`, then run the ignored tests on them; returns whether they passed."""
    torch.manual_seed(1)
    with torch.no_grad():
        for case in cases:
            case(model, out)
    if not (out / "model").exists():
        (out / "model").symlink_to(model.resolve())
    profile = ["--release"] if args.release else []
    skip = [argument for case in SKIPS if case not in cases for argument in ("--skip", SKIPS[case])]
    command = ["cargo", "test", *profile, "--test", "suite", "parity", "--", "--ignored", "--nocapture", "--test-threads=1", *skip]
    run = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "LIMNER_PARITY_DIR": str(out)}, text=True,
                         stdout=subprocess.PIPE)
    lines = [line.partition("parity: ")[2] for line in run.stdout.splitlines() if "parity: " in line]
    print("\n".join(f"{name}: {line}" for line in lines))
    if run.returncode != 0 or not lines:
        print(run.stdout)
    return run.returncode == 0 and bool(lines)


SKIPS = {vae_case: "parity_of_the_autoencoder"}
CASES = [token_case, text_case, unet_case, vae_case]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=["sd15", "sd21-v"], metavar="FAMILY")
    parser.add_argument("--full", action="store_true", help="the public checkpoints' sizes")
    parser.add_argument("--model", type=pathlib.Path, help="compare this folder, without its autoencoder, and make none")
    parser.add_argument("--make-model", type=pathlib.Path, default=MAKER, help="the script that writes a random model (default: ../shared/bench/make_model.py)")
    parser.add_argument("--keep", type=pathlib.Path, help="keep models and references in this folder")
    parser.add_argument("--release", action="store_true", help="test the release build")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = (args.keep or pathlib.Path(scratch)).resolve()
        passed = []
        for family in [args.model.resolve().name] if args.model else args.families:
            out = root / family
            out.mkdir(parents=True, exist_ok=True)
            if args.model:
                passed.append(compare(family, args.model, [c for c in CASES if c is not vae_case], out, args))
                continue
            size = [] if args.full else ["--tiny"]
            subprocess.run([sys.executable, args.make_model, family, out / "model", *size], check=True, stdout=subprocess.DEVNULL)
            passed.append(compare(family, out / "model", CASES, out, args))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
