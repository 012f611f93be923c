#!/usr/bin/env python3
"""Kill the server at random moments and show that no accepted job is lost, doubled or torn, and that a picture drawn again
after a kill has the pixels of one drawn in peace.

    scripts/crash_drill.py --binary target/debug/limner --model DIR [--kills 100] [--jobs 2] [--steps 20] [--seed 1]

Every life of the server gets `--jobs` submissions, each under a key of its own; one whose answer the kill cut off is sent
again, under the same key, to the next life. Exits with 1 when a promise was broken, and when no job was drawn twice (then
the kills missed the drawing, and nothing was shown). Standard library only.
"""
import argparse
import hashlib
import json
import pathlib
import random
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib

SEEDS = 5
PATIENCE = 600


class Server:
    """One life of the server."""

    def __init__(self, options, data):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        command = [options.binary, "serve", "--model", options.model, "--data", data]
        command += ["--listen", f"127.0.0.1:{port}", "--queue", "100000"]
        self.log = open(pathlib.Path(data).with_suffix(".log"), "ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def ready(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                sys.exit(f"the server ended by itself with {self.process.returncode}; see {self.log.name}")
            try:
                return self.ask("/readyz")
            except OSError:
                time.sleep(0.01)
        sys.exit("the server does not get ready")

    def ask(self, path, body=None, headers=None):
        request = urllib.request.Request(self.address + path, headers=headers or {})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def pixels(png):
    """A digest of a PNG's scanlines. Raises when the file is torn: a missing end, a wrong sum, too few lines."""
    if png[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("no PNG")
    at, data, kind = 8, b"", b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, at)
        content = png[at + 8:at + 8 + length]
        if struct.unpack_from(">I", png, at + 8 + length)[0] != zlib.crc32(kind + content):
            raise ValueError("wrong checksum")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", content)
        data += content if kind == b"IDAT" else b""
        at += 12 + length
    lines = zlib.decompress(data)
    if at != len(png) or len(lines) != height * (1 + 3 * width):
        raise ValueError("wrong length")
    return hashlib.sha256(lines).hexdigest()


def body(options, seed):
    return {"prompt": "red apple", "steps": options.steps, "seed": seed}


def references(options, data):
    """What each seed gives when nobody disturbs."""
    server = Server(options, data)
    server.ready()
    drawn = {s: pixels(server.ask("/api/v1/generate", body(options, s), {"Accept": "image/png"})) for s in range(SEEDS)}
    server.kill()
    return drawn


def submit(server, options, keys, accepted, broken):
    """Sends what has no answer yet, until the server is killed."""
    for key in [key for key in keys if key not in accepted]:
        try:
            answer = server.ask("/api/v1/jobs", body(options, int(key) % SEEDS), {"Idempotency-Key": key})
            accepted[key] = json.loads(answer)["id"]
        except urllib.error.HTTPError as error:
            broken.append(f"submission {key} was answered {error.code}: {error.read()[:200]}")
            return
        except (OSError, ValueError):
            return  # Killed before or within the answer: sent again later.


def live(options, data, keys, accepted, broken, chance):
    """One life that ends by kill -9, counted from the start of the process or from its readiness."""
    server = Server(options, data)
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 0.3))  # While it starts and recovers.
    else:
        server.ready()
        sender = threading.Thread(target=submit, args=(server, options, keys, accepted, broken))
        sender.start()
        time.sleep(chance.uniform(0, options.most_seconds))
        server.kill()
        sender.join()
        return
    server.kill()


def finish(server, accepted):
    """Waits until every accepted job is over, and returns them by key."""
    end, over = time.monotonic() + PATIENCE, {}
    while len(over) < len(accepted) and time.monotonic() < end:
        for key, job in accepted.items():
            if key not in over:
                try:
                    found = json.loads(server.ask(f"/api/v1/jobs/{job}"))
                except urllib.error.HTTPError:
                    found = {"state": "lost", "attempt": 0, "images": []}
                if found["state"] not in ("queued", "running"):
                    over[key] = found
        time.sleep(0.05)
    return over


def count(server, accepted, over, expected, data):
    """The figures, by name."""
    torn = different = 0
    for key, job in over.items():
        for image in job["images"]:
            try:
                different += pixels(server.ask(image["url"])) != expected[int(key) % SEEDS]
            except (ValueError, IndexError, struct.error, zlib.error, OSError):
                torn += 1
    states = [job["state"] for job in over.values()]
    excused = sum(1 for job in over.values() if job["state"] == "failed" and job["attempt"] >= 3)
    with sqlite3.connect(f"file:{data}/limner.db?mode=ro", uri=True) as database:
        rows = database.execute("SELECT count(*) FROM jobs").fetchone()[0]
        sound = database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    files = {path.name for path in pathlib.Path(data, "pictures").iterdir()}
    named = {image["id"] + ".png" for job in over.values() for image in job["images"]}
    return {
        "accepted": len(accepted),
        "done": states.count("done"),
        "given up after three attempts": excused,
        "drawn again": sum(1 for job in over.values() if job["state"] == "done" and job["attempt"] > 1),
        "lost": len(accepted) - states.count("done") - excused,
        "duplicated": rows - len(set(accepted.values())) + sum(len(job["images"]) > 1 for job in over.values()),
        "without picture": sum(job["state"] == "done" and not job["images"] for job in over.values()),
        "torn": torn,
        "other pixels": different,
        "orphaned files": len(files - named),
        "unsound databases": int(not sound),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2, help="submissions for each life")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--most-seconds", type=float, default=1.0, help="the longest that a life may last")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    options = parser.parse_args()
    chance, accepted, broken, keys = random.Random(options.seed), {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        expected = references(options, f"{folder}/peace")
        data = f"{folder}/drill"
        for kill in range(options.kills):
            keys += [str(len(keys) + n) for n in range(options.jobs)]
            live(options, data, keys, accepted, broken, chance)
        server = Server(options, data)
        server.ready()
        submit(server, options, keys, accepted, broken)
        over = finish(server, accepted)
        figures = count(server, accepted, over, expected, data)
        server.kill()
    print(f"{options.kills} kills: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    promises = ["lost", "duplicated", "without picture", "torn", "other pixels", "orphaned files", "unsound databases"]
    broken += [f"{name}: {figures[name]}" for name in promises if figures[name]]
    broken += [] if figures["drawn again"] else ["no job was drawn twice: the kills missed the drawing"]
    broken += [] if len(accepted) == len(keys) else [f"{len(keys) - len(accepted)} submissions were never accepted"]
    sys.exit("\n".join(broken) if broken else 0)


if __name__ == "__main__":
    main()
