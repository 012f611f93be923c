"""What transformers and diffusers make of a model folder: inputs and expected outputs for tests/suite/parity.rs.

    reference.py MODEL OUT [CASE ...] [--sizes 512x512,576x448] [--samplers ddim,euler] [--steps 20] [--brief | --plain]

`scripts/parity` runs this in an environment that has torch, diffusers and transformers. OUT gets tokens.json,
PART.safetensors and pictures.json. Weights are computed with in f32, in whatever precision they are stored.
"""
import argparse
import contextlib
import itertools
import json
import pathlib
import random

import numpy
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

# A picture's latents are what the autoencoder gives it as the mean; no noise of the seed is spent on it.
DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()

FIXTURE = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "tokenizer" / "golden.json"
WORDS = ("a red Apple, photograph of the ASTRONAUT's naïve café! 8k 1970s don't (((masterpiece))) 日本 яблоко 🍎 👩‍🚀 ½ e\u0301 "
         "\u00a0 - --ar").split(" ")
ALPHABETS = [*range(32, 0x2000), *range(0x3000, 0xD7FF), *range(0x1F300, 0x1FAFF)]
# Side of the pictures that the image encoder sees.
SEEN = 64
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
# only when told to; and latents are not clipped to [-1, 1], which it does unless told not to.
SAMPLERS = {
    "ddim": (DDIMScheduler, dict(timestep_spacing="leading", set_alpha_to_one=True, clip_sample=False), "leading"),
    "euler": (EulerDiscreteScheduler, dict(timestep_spacing="leading"), "leading"),
    "dpmpp_2m": (Fractional, dict(use_karras_sigmas=True, final_sigmas_type="zero"), "karras"),
}


def encoders(model):
    """Names of a model's text encoders: one, or two in SDXL."""
    return [name for name in ("text_encoder", "text_encoder_2") if (model / name).exists()]


def tokens(model, out, _args):
    """The fixture's texts; words of many scripts, with and without spaces, short and too long; any characters at all."""
    random.seed(2)
    texts = [case["text"] for cases in json.loads(FIXTURE.read_text()).values() for case in cases]
    texts += [random.choice(["", " ", "  "]).join(random.choices(WORDS, k=random.randint(1, 60))) for _ in range(1000)]
    texts += ["".join(map(chr, random.choices(ALPHABETS, k=40))) for _ in range(1000)]
    for i, name in enumerate(encoders(model)):
        tokenizer = CLIPTokenizer.from_pretrained(model / name.replace("text_encoder", "tokenizer"))
        length = min(77, tokenizer.model_max_length)
        ids = [tokenizer(text, padding="max_length", truncation=True, max_length=length).input_ids for text in texts]
        (out / f"tokens-{i}.json").write_text(json.dumps([dict(text=text, ids=ids) for text, ids in zip(texts, ids)]))


def text(model, out, _args):
    """Random token ids, with start, end and padding where CLIP has them; what a U-Net of the family is told of them."""
    for i, name in enumerate(encoders(model)):
        config = json.loads((model / name / "config.json").read_text())
        projects = config["architectures"] == ["CLIPTextModelWithProjection"]
        cls = CLIPTextModelWithProjection if projects else CLIPTextModel
        encoder = cls.from_pretrained(model / name, dtype=torch.float32).eval()
        size, length = config["vocab_size"], config["max_position_embeddings"]
        ids = torch.randint(0, size - 2, (2, length))
        ids[:, 0], ids[0, 9:], ids[1, -1:] = size - 2, size - 1, size - 1
        said = encoder(ids, output_hidden_states=True)
        xl = len(encoders(model)) > 1
        case = dict(ids=ids, expected=said.hidden_states[-2] if xl else said.last_hidden_state)
        if xl and projects:
            case["pooled"] = said.text_embeds
        save_file({name: tensor.contiguous() for name, tensor in case.items()}, out / f"text-{i}.safetensors")


def unet(model, out, _args):
    """Three times in one batch, one of them fractional; sides that are a multiple of 8, and sides that are odd."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet", dtype=torch.float32).eval()
    t = torch.tensor([0.0, 411.25, 999.0])
    context, added = torch.randn(3, 20, unet.config.cross_attention_dim), {}
    if unet.config.addition_embed_type == "text_time":
        sizes = torch.tensor([[512, 512, 0, 0, 512, 512], [768, 1024, 3, 5, 1024, 1024], [1, 2, 3, 4, 5, 6]]).float()
        width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        added = dict(text_embeds=torch.randn(3, width), time_ids=sizes)
    for size, (height, width) in dict(even=(16, 24), odd=(13, 19)).items():
        x = torch.randn(3, unet.config.in_channels, height, width)
        expected = unet(x, t, context, added_cond_kwargs=added).sample
        save_file(dict(x=x, t=t, context=context, expected=expected.contiguous(), **added), out / f"unet-{size}.safetensors")


def vae(model, out, _args):
    """Pictures in [-1, 1] to scaled means, and scaled latents to pictures; sides that are not alike."""
    vae = AutoencoderKL.from_pretrained(model / "vae", dtype=torch.float32).eval()
    scale = vae.config.scaling_factor
    picture, latents = torch.rand(2, 3, 64, 96) * 2 - 1, torch.randn(2, vae.config.latent_channels, 8, 12)
    case = dict(picture=picture, latents=latents, mean=vae.encode(picture).latent_dist.mean * scale,
                decoded=vae.decode(latents / scale).sample)
    save_file({name: tensor.contiguous() for name, tensor in case.items()}, out / "vae.safetensors")


def photograph(width, height):
    """Smooth, and different everywhere."""
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float64)
    channels = [128 + 100 * numpy.sin(x / 9 + y / 31), 255 * x / width, 128 + 90 * numpy.cos(y / 7) * numpy.sin(x / 23)]
    return Image.fromarray(numpy.stack(channels, -1).astype(numpy.uint8))


def middle(width, height):
    """White in the middle, on whole latents: where a latent is partly repainted, programs differ."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 32 * 8, height // 32 * 8, width // 32 * 24, height // 32 * 24))
    return mask


def controlnet(model, unet):
    """A net beside the model, a copy of its U-Net whose last convolutions are not zero."""
    folder = model.parent / "controlnets" / "parity"
    if not folder.exists():
        torch.manual_seed(3)
        net = ControlNetModel.from_unet(unet)
        for name, parameter in net.named_parameters():
            if parameter.abs().max() == 0 and parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3 / parameter[0].numel() ** 0.5)
        net.save_pretrained(folder)
    return ControlNetModel.from_pretrained(folder, dtype=torch.float32)


def ip_adapter(model, unet):
    """An adapter with its image encoder beside the model; the folder."""
    folder, seen, tokens = model.parent / "ip-adapters", 32, 4
    if not folder.exists():
        torch.manual_seed(4)
        encoder = CLIPVisionConfig(hidden_size=32, intermediate_size=64, projection_dim=seen, num_hidden_layers=2,
                                   num_attention_heads=4, image_size=SEEN, patch_size=16)
        CLIPVisionModelWithProjection(encoder).save_pretrained(folder / "image_encoder")
        width, parameters = unet.config.cross_attention_dim, dict(unet.named_parameters())
        random = lambda *shape: torch.randn(*shape) / shape[-1] ** 0.5
        tensors = {"image_proj.proj.weight": random(tokens * width, seen), "image_proj.proj.bias": random(tokens * width),
                   "image_proj.norm.weight": torch.ones(width), "image_proj.norm.bias": torch.zeros(width)}
        attentions = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
        for i, name in enumerate(attentions):
            rows = len(parameters[name.removesuffix("processor") + "to_k.weight"])
            tensors |= {f"ip_adapter.{2 * i + 1}.{part}.weight": random(rows, width) for part in ("to_k_ip", "to_v_ip")}
        save_file(tensors, folder / "parity.safetensors")
    return folder


def lora(model):
    """An adapter for attention in all networks, made by PEFT and saved as diffusers does; the folder."""
    folder = model.parent / "loras"
    if not folder.exists():
        torch.manual_seed(5)
        pipeline, saved = DiffusionPipeline.from_pretrained(model, dtype=torch.float32), {}
        for part in ["unet", *encoders(model)]:
            network = getattr(pipeline, part)
            layers = ["to_q", "to_k", "to_v", "to_out.0"] if part == "unet" else ["q_proj", "k_proj", "v_proj", "out_proj"]
            network.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=layers, init_lora_weights=False))
            for name, parameter in network.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.1)
            saved[f"{part}_lora_layers"] = get_peft_model_state_dict(network)
            saved[f"{part}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
        pipeline.save_lora_weights(folder, weight_name="parity.safetensors", **saved)
    return folder


def inversion(model, pipeline):
    """Three vectors for each text encoder, by which the word `parityword` is read."""
    file = model.parent / "embeddings" / "parityword.safetensors"
    keys = ["emb_params"] if len(encoders(model)) == 1 else ["clip_l", "clip_g"]
    if not file.exists():
        torch.manual_seed(6)
        file.parent.mkdir()
        widths = [getattr(pipeline, name).config.hidden_size for name in encoders(model)]
        save_file({key: torch.randn(3, width) * 0.5 for key, width in zip(keys, widths)}, file)
    vectors = load_file(file)
    return {name: vectors[key] for name, key in zip(encoders(model), keys)}


@contextlib.contextmanager
def worded(model, pipeline, prompt):
    """The prompt as diffusers takes it, with the pipeline changed by what it names."""
    words, lora_tag, _ = prompt.partition("<lora:parity:0.8>")
    if lora_tag:
        pipeline.load_lora_weights(lora(model), weight_name="parity.safetensors", adapter_name="parity")
        pipeline.set_adapters(["parity"], [0.8])
    vectors = inversion(model, pipeline) if "parityword" in words else {}
    for name, states in vectors.items():
        tokenizer, encoder = getattr(pipeline, name.replace("text_encoder", "tokenizer")), getattr(pipeline, name)
        pipeline.load_textual_inversion(states, token="parityword", tokenizer=tokenizer, text_encoder=encoder)
    yield words
    if lora_tag:
        pipeline.unload_lora_weights()
    for name in vectors:
        tokenizer, encoder = getattr(pipeline, name.replace("text_encoder", "tokenizer")), getattr(pipeline, name)
        pipeline.unload_textual_inversion(tokenizer=tokenizer, text_encoder=encoder)


def runs(inpaints, size):
    """What is drawn at a size: a name, fields of the request besides the common ones, and its pictures."""
    photo, mask = photograph(*size), middle(*size)
    if inpaints:
        yield "inpaint ", {}, dict(image=photo, mask=mask)
        return
    yield "", {}, {}
    yield "image to image ", dict(strength="0.6"), dict(image=photo)
    yield "LoRA ", dict(prompt=REQUEST["prompt"] + "<lora:parity:0.8>"), {}
    yield "textual inversion ", dict(prompt=REQUEST["prompt"] + ", parityword"), {}
    yield "ControlNet ", dict(control="parity:0.7:0.1:0.8"), dict(control_image=photo)
    yield "IP-Adapter ", dict(ip_adapter="parity:0.6"), dict(ip_adapter_image=photograph(SEEN, SEEN))


def draw(model, pipeline, fields, files):
    """Latents by a diffusers pipeline with a generator on the CPU."""
    given, prompted = dict(width=int(fields["width"]), height=int(fields["height"])), "ip_adapter_image" in files
    if "control_image" in files:
        _, weight, start, end = fields["control"].split(":")
        pipeline = AutoPipelineForText2Image.from_pipe(pipeline, controlnet=controlnet(model, pipeline.unet))
        given |= dict(image=files["control_image"], controlnet_conditioning_scale=float(weight),
                      control_guidance_start=float(start), control_guidance_end=float(end))
    elif prompted:
        pipeline.load_ip_adapter(ip_adapter(model, pipeline.unet), subfolder="", weight_name="parity.safetensors")
        pipeline.set_ip_adapter_scale(float(fields["ip_adapter"].split(":")[1]))
        given |= dict(ip_adapter_image=files["ip_adapter_image"])
    elif "mask" in files:
        pipeline = AutoPipelineForInpainting.from_pipe(pipeline)
        given |= dict(image=files["image"], mask_image=files["mask"], strength=1.0)
    elif files:
        pipeline = AutoPipelineForImage2Image.from_pipe(pipeline)
        given = dict(image=files["image"], strength=float(fields["strength"]))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(int(fields["seed"]))
    with worded(model, pipeline, fields["prompt"]) as words:
        latents = pipeline(words, negative_prompt=fields["negative_prompt"], guidance_scale=float(fields["guidance"]),
                           generator=generator, num_inference_steps=int(fields["steps"]), output_type="latent",
                           **given).images
    if prompted:
        pipeline.unload_ip_adapter()
    return latents


def pictures(model, out, args):
    """Whole pictures with guidance, from noise and from pictures, with every sampler."""
    pipeline = DiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    config, requests = pipeline.scheduler.config, []
    inpaints = pipeline.unet.config.in_channels == 9
    for size in args.sizes.split(","):
        width, height = map(int, size.split("x"))
        for sampler, (kind, fields, files) in itertools.product(args.samplers.split(","), runs(inpaints, (width, height))):
            if args.brief and kind and (sampler != "euler" or size != args.sizes.split(",")[-1]):
                continue
            if args.plain and kind and not inpaints:
                continue
            scheduler, settings, schedule = SAMPLERS[sampler]
            pipeline.scheduler = scheduler.from_config(config, **settings)
            fields = REQUEST | fields | dict(sampler=sampler, schedule=schedule, steps=str(args.steps), width=str(width),
                                             height=str(height))
            name = f"{kind}{sampler} {schedule} {size}"
            save_file(dict(expected=draw(model, pipeline, fields, files).contiguous()), out / f"{name}.safetensors")
            for file, picture in files.items():
                picture.save(out / f"{file}-{size}.png")
            requests.append(dict(name=name, fields=fields, files={file: f"{file}-{size}.png" for file in files}))
    (out / "pictures.json").write_text(json.dumps(requests))


CASES = dict(tokens=tokens, text=text, unet=unet, vae=vae, pictures=pictures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--sizes", default="128x128,144x112")
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--brief", action="store_true", help="what is drawn from pictures or adapters by Euler at the last size only")
    parser.add_argument("--plain", action="store_true", help="nothing is drawn from pictures or adapters, except to inpaint")
    args = parser.parse_args()
    with torch.no_grad():
        for case in args.cases:
            torch.manual_seed(1)
            CASES[case](args.model, args.out, args)


if __name__ == "__main__":
    main()
