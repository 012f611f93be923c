#!/usr/bin/env python3
"""Measure the server while it draws without a pause: how long /livez and an acceptance take, and how memory grows.

    scripts/serve_load.py --binary target/release/limner --model DIR [--seconds 30] [--small-jobs 1000]

Latency: one long job is always drawn; every 20 ms /livez is asked on a new connection, every 200 ms a job is submitted
(and cancelled outside the measured time). Memory: VmRSS after 200 jobs of one step, and after `--small-jobs` more.
Prints figures and judges nothing. Standard library only.
"""
import argparse
import json
import pathlib
import tempfile
import time
import urllib.request

from crash_drill import Server


def timed(call):
    began = time.monotonic()
    value = call()
    return 1000 * (time.monotonic() - began), value


def percentiles(name, times):
    times = sorted(times)
    at = lambda share: times[min(len(times) - 1, int(share * len(times)))]
    print(f"{name}: n {len(times)}, p50 {at(0.5):.1f} ms, p99 {at(0.99):.1f} ms, max {times[-1]:.1f} ms")


def submit(server, steps, count=1):
    body = {"prompt": "red apple", "steps": steps, "count": count}
    return json.loads(server.ask("/api/v1/jobs", body))["id"]


def cancel(server, job):
    request = urllib.request.Request(f"{server.address}/api/v1/jobs/{job}", method="DELETE")
    urllib.request.urlopen(request, timeout=60).read()


def latency(server, seconds):
    long, live, accept = submit(server, 1000, 64), [], []
    while json.loads(server.ask(f"/api/v1/jobs/{long}"))["state"] == "queued":
        time.sleep(0.01)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(10):
            live.append(timed(lambda: server.ask("/livez"))[0])
            time.sleep(0.02)
        milliseconds, job = timed(lambda: submit(server, 1))
        accept.append(milliseconds)
        cancel(server, job)
    state = json.loads(server.ask(f"/api/v1/jobs/{long}"))["state"]
    cancel(server, long) if state == "running" else print(f"the long job was {state} before the end: ask for less time")
    percentiles("/livez", live)
    percentiles("acceptance", accept)


def resident(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def draw_small(server, jobs):
    last = None
    for _ in range(jobs):
        last = submit(server, 1)
    while json.loads(server.ask(f"/api/v1/jobs/{last}"))["state"] in ("queued", "running"):
        time.sleep(0.05)


def memory(server, jobs):
    draw_small(server, 200)
    before = resident(server)
    draw_small(server, jobs)
    print(f"memory: {before} kB after 200 jobs, {resident(server) - before:+} kB after {jobs} more")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--small-jobs", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(options, f"{folder}/data")
        server.ready()
        latency(server, options.seconds)
        memory(server, options.small_jobs)
        server.kill()


if __name__ == "__main__":
    main()
