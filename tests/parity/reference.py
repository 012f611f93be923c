"""What transformers and diffusers make of a model folder: inputs and expected outputs for tests/suite/parity.rs.

    reference.py MODEL OUT [CASE ...] [--sizes 512x512,576x448] [--steps 20]

`scripts/parity` runs this in an environment that has torch, diffusers and transformers. OUT gets tokens.json,
PART.safetensors and pictures.json. Weights are computed with in f32, in whatever precision they are stored.
"""
import argparse
import json
import pathlib
import random

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

FIXTURE = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "tokenizer" / "golden.json"
WORDS = ("a red Apple, photograph of the ASTRONAUT's naïve café! 8k 1970s don't (((masterpiece))) 日本 яблоко 🍎 👩‍🚀 ½ e\u0301 "
         "\u00a0 - --ar").split(" ")
ALPHABETS = [*range(32, 0x2000), *range(0x3000, 0xD7FF), *range(0x1F300, 0x1FAFF)]
REQUEST = dict(prompt="a photograph of an astronaut riding a horse, sharp focus", negative_prompt="blurry, cropped",
               guidance="7.5", seed="5", noise="torch-cpu")


class Fractional(DPMSolverMultistepScheduler):
    """DPM-Solver++ that asks the network for the time of a noise level, as k-diffusion does. diffusers' own rounds it."""

    def set_timesteps(self, *args, **kwargs):
        super().set_timesteps(*args, **kwargs)
        table = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().log().double()
        levels, known = self.sigmas[:-1].double().log(), torch.arange(len(table), dtype=torch.float64)
        above = torch.searchsorted(table, levels).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        self.timesteps = (known[above - 1] + ((levels - low) / (high - low)).clamp(0, 1)).float()


# Ours, theirs with its settings, and the name of the ladder. All end at a noise level of 0, which diffusers' DDIM does
# only when told to.
SAMPLERS = {
    "ddim": (DDIMScheduler, dict(timestep_spacing="leading", set_alpha_to_one=True), "leading"),
    "euler": (EulerDiscreteScheduler, dict(timestep_spacing="leading"), "leading"),
    "dpmpp_2m": (Fractional, dict(use_karras_sigmas=True, final_sigmas_type="zero"), "karras"),
}


def tokens(model, out, _args):
    """The fixture's texts; words of many scripts, with and without spaces, short and too long; any characters at all."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    length = min(77, tokenizer.model_max_length)
    random.seed(2)
    texts = [case["text"] for cases in json.loads(FIXTURE.read_text()).values() for case in cases]
    texts += [random.choice(["", " ", "  "]).join(random.choices(WORDS, k=random.randint(1, 60))) for _ in range(1000)]
    texts += ["".join(map(chr, random.choices(ALPHABETS, k=40))) for _ in range(1000)]
    ids = [tokenizer(text, padding="max_length", truncation=True, max_length=length).input_ids for text in texts]
    (out / "tokens.json").write_text(json.dumps([dict(text=text, ids=ids) for text, ids in zip(texts, ids)]))


def text(model, out, _args):
    """Random token ids of full length, with start and end where CLIP has them."""
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval()
    size, length = encoder.config.vocab_size, encoder.config.max_position_embeddings
    ids = torch.randint(0, size - 2, (2, length))
    ids[:, 0], ids[0, 9:], ids[1, -1:] = size - 2, size - 1, size - 1
    save_file(dict(ids=ids, expected=encoder(ids).last_hidden_state.contiguous()), out / "text.safetensors")


def unet(model, out, _args):
    """Three times in one batch, one of them fractional; sides that are a multiple of 8, and sides that are odd."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet", dtype=torch.float32).eval()
    t = torch.tensor([0.0, 411.25, 999.0])
    context = torch.randn(3, 20, unet.config.cross_attention_dim)
    for size, (height, width) in dict(even=(16, 24), odd=(13, 19)).items():
        x = torch.randn(3, unet.config.in_channels, height, width)
        expected = unet(x, t, context).sample
        save_file(dict(x=x, t=t, context=context, expected=expected.contiguous()), out / f"unet-{size}.safetensors")


def vae(model, out, _args):
    """Pictures in [-1, 1] to scaled means, and scaled latents to pictures; sides that are not alike."""
    vae = AutoencoderKL.from_pretrained(model / "vae", dtype=torch.float32).eval()
    scale = vae.config.scaling_factor
    picture, latents = torch.rand(2, 3, 64, 96) * 2 - 1, torch.randn(2, vae.config.latent_channels, 8, 12)
    case = dict(picture=picture, latents=latents, mean=vae.encode(picture).latent_dist.mean * scale,
                decoded=vae.decode(latents / scale).sample)
    save_file({name: tensor.contiguous() for name, tensor in case.items()}, out / "vae.safetensors")


def pictures(model, out, args):
    """Latents of whole pictures with guidance, by a pipeline with a generator on the CPU."""
    pipeline = DiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    config, requests = pipeline.scheduler.config, []
    for size in args.sizes.split(","):
        width, height = map(int, size.split("x"))
        for sampler, (scheduler, settings, schedule) in SAMPLERS.items():
            pipeline.scheduler = scheduler.from_config(config, **settings)
            latents = pipeline(
                REQUEST["prompt"], negative_prompt=REQUEST["negative_prompt"], guidance_scale=float(REQUEST["guidance"]),
                generator=torch.Generator("cpu").manual_seed(int(REQUEST["seed"])), num_inference_steps=args.steps,
                width=width, height=height, output_type="latent").images
            name = f"{sampler} {schedule} {size}"
            save_file(dict(expected=latents.contiguous()), out / f"{name}.safetensors")
            fields = dict(sampler=sampler, schedule=schedule, steps=str(args.steps), width=str(width), height=str(height))
            requests.append(dict(name=name, fields=REQUEST | fields))
    (out / "pictures.json").write_text(json.dumps(requests))


CASES = dict(tokens=tokens, text=text, unet=unet, vae=vae, pictures=pictures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--sizes", default="128x128,144x112")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    with torch.no_grad():
        for case in args.cases:
            torch.manual_seed(1)
            CASES[case](args.model, args.out, args)


if __name__ == "__main__":
    main()
