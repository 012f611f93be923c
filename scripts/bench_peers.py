#!/usr/bin/env python3
"""Limner beside PyTorch and OpenVINO: one guided U-Net call and one decode, in turn, several rounds. See scripts/bench-peers."""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ENGINES = ["limner", "openvino", "torch"]


def serve(engine, precision, model, size, batch, threads, work):
    """Loads one engine, then runs the part that each line of the input names and says how many seconds it took."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.set_grad_enabled(False)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    latent = size // 8
    dtype = torch.bfloat16 if engine == "torch" and precision == "bf16" else torch.float32
    config = UNet2DConditionModel.load_config(model, subfolder="unet")
    inputs = {
        "unet": (torch.randn(2 * batch if batch else 1, config["in_channels"], latent, latent), torch.tensor(500),
                 torch.randn(2 * batch if batch else 1, 77, config["cross_attention_dim"])),
        "decode": (torch.randn(1, 4, latent, latent),),
    }
    extra = {}
    if config.get("addition_embed_type"):
        width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        rows = inputs["unet"][0].shape[0]
        extra = {"text_embeds": torch.randn(rows, width), "time_ids": torch.zeros(rows, 6)}

    class Unet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = UNet2DConditionModel.from_pretrained(model, subfolder="unet", torch_dtype=dtype).eval()

        def forward(self, x, t, text):
            given = {name: value.to(x.dtype) for name, value in extra.items()}
            return self.net(x, t, text, added_cond_kwargs=given or None, return_dict=False)[0]

    class Decode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = AutoencoderKL.from_pretrained(model, subfolder="vae", torch_dtype=dtype).eval()

        def forward(self, z):
            return self.net.decode(z, return_dict=False)[0]

    parts = {}
    for name, module in (("unet", Unet), ("decode", Decode)):
        given = inputs[name]
        if engine == "torch":
            net = module().to(memory_format=torch.channels_last)
            given = tuple(g.to(dtype) if g.dtype == torch.float32 else g for g in given)
            parts[name] = lambda net=net, given=given: net(*given)
            continue
        import openvino as ov

        path = pathlib.Path(work) / f"{pathlib.Path(model).parent.name}-{name}-{size}-{batch}.xml"
        if not path.exists():
            shapes = [ov.PartialShape(list(g.shape)) for g in given]
            ov.save_model(ov.convert_model(module(), example_input=given, input=shapes), path, compress_to_fp16=False)
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
        numbers = {i: g.numpy() for i, g in enumerate(given)}
        parts[name] = lambda request=request, numbers=numbers: request.infer(numbers)
    for part in parts.values():
        part()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        parts[line.strip()]()
        print(time.perf_counter() - began, flush=True)


class Peer:
    """An engine in a process of its own."""

    def __init__(self, engine, precision, a, work):
        self.name = f"{engine} {precision}"
        command = [sys.executable, __file__, a.model, "--serve", engine, "--precision", precision, "--size", str(a.size),
                   "--batch", str(a.batch), "--threads", str(a.threads), "--work", work]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if line.strip() == "ready":
                return
        raise SystemExit(f"{self.name} did not start: run it by hand with --serve to see why")

    def run(self):
        return {part: self.one(part) for part in ("unet", "decode")}

    def one(self, part):
        print(part, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def peak(self):
        return peak_of(self.process.pid)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Limner:
    """`limner bench --serve`: the same, in our own program."""

    def __init__(self, precision, a):
        self.name = f"limner {precision}"
        command = [a.limner, "bench", "--model", a.model, "--products", precision, "--width", str(a.size), "--height", str(a.size),
                   "--batch", str(max(1, a.batch)), "--serve"]
        if a.batch == 0:
            command.append("--unguided")
        environment = {**os.environ, "RAYON_NUM_THREADS": str(a.threads)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit("limner did not start")

    run, one, peak, close = Peer.run, Peer.one, Peer.peak, Peer.close


def peak_of(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return "unknown processor"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model")
    p.add_argument("--serve", choices=ENGINES)
    p.add_argument("--precision", default="bf16,f32")
    p.add_argument("--engines", default=",".join(ENGINES))
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--batch", type=int, default=1, help="pictures; 0 is one without guidance")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--limner", default="target/release/limner")
    p.add_argument("--work", default="target/peers")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    if a.serve:
        return serve(a.serve, a.precision, a.model, a.size, a.batch, a.threads, a.work)
    pathlib.Path(a.work).mkdir(parents=True, exist_ok=True)
    rows = []
    for precision in a.precision.split(","):
        peers = [Limner(precision, a) if engine == "limner" else Peer(engine, precision, a, a.work) for engine in a.engines.split(",")]
        took = {peer.name: {"unet": [], "decode": []} for peer in peers}
        for turn in range(a.rounds):
            # Nobody is always first.
            for peer in peers[turn % len(peers):] + peers[:turn % len(peers)]:
                for part, seconds in peer.run().items():
                    took[peer.name][part].append(seconds)
        for peer in peers:
            parts = {part: (statistics.median(all), min(all)) for part, all in took[peer.name].items()}
            rows.append({"engine": peer.name, "peak_gib": peer.peak(), **{f"{part}_{kind}": value for part, pair in parts.items()
                                                                           for kind, value in zip(("median", "best"), pair)}})
            peer.close()
    what = f"{a.size}x{a.size}, " + ("no guidance" if a.batch == 0 else f"batch {a.batch} with guidance")
    title = f"{pathlib.Path(a.model).parent.name}, {what}, {a.threads} threads, {processor()}, {datetime.date.today()}, {a.rounds} rounds"
    if a.json:
        return print(json.dumps({"title": title, "rows": rows}))
    print(title + "\n")
    print("| engine | U-Net call, median (best) | ratio to Limner | decode, median (best) | ratio to Limner | peak memory |\n|---|---|---|---|---|---|")
    for row in rows:
        ours = next((r for r in rows if r["engine"] == f"limner {row['engine'].split()[1]}"), row)
        cells = [f"{row[f'{part}_median']:.2f} s ({row[f'{part}_best']:.2f}) | {row[f'{part}_median'] / ours[f'{part}_median']:.2f}" for part in ("unet", "decode")]
        print(f"| {row['engine']} | {cells[0]} | {cells[1]} | {row['peak_gib']:.1f} GiB |")


main()
