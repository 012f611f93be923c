#!/usr/bin/env python3
"""Measure the server while it draws without a pause: how long /livez and an acceptance take, whether every
listener hears everything, and how memory grows.

    scripts/serve_load.py --binary target/release/limner --model DIR [--seconds 30] [--listeners 500] [--small-jobs 1000]

Latency: one long job is always drawn; every 20 ms /livez is asked on a new connection, every 200 ms a job is submitted
(and cancelled outside the measured time). Listeners: as many connections follow one job of 50 steps, which waits behind
another until all are there; each must hear every step, and the end. Memory: VmRSS after 200 jobs of one step, and after `--small-jobs` more.
Prints figures and judges nothing. Standard library only.
"""
import argparse
import asyncio
import json
import pathlib
import re
import tempfile
import time
import urllib.parse
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


async def listen(server, job, there):
    """The numbers and names of the events of `job`, as they came over a connection of its own."""
    address = urllib.parse.urlsplit(server.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 22)
    writer.write(f"GET /api/v1/jobs/{job}/events HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode())
    text = await reader.readuntil(b"event: snapshot")
    there()
    text += await reader.read(-1)
    writer.close()
    # One event may come in several chunks: the sizes between them are taken out.
    body = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", text.split(b"\r\n\r\n", 1)[1])
    return [(name.decode(), int(number)) for number, name in re.findall(rb"id: \w+-(\d+)\nevent: (\w+)\n", body)]


async def everybody(server, count):
    before, job = submit(server, 1000, 64), submit(server, 50)
    arrived = 0

    def there():
        nonlocal arrived
        arrived += 1
        if arrived == count:
            cancel(server, before)

    heard = await asyncio.gather(*[listen(server, job, there) for _ in range(count)])
    # Numbers count up over all jobs. The snapshot's depends on when one came; from there on everyone must hear the same.
    all_of_it = max((events[1:] for events in heard), key=len)
    whole = [events for events in heard if events[1:] == all_of_it]
    steps = [name for name, _ in all_of_it].count("step")
    print(f"listeners: {len(whole)} of {count} heard the same {len(all_of_it)} events: {steps} steps of 50, and {all_of_it[-1][0]}")


def resident(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def draw_small(server, jobs):
    """In groups, so that what is measured is what stays behind, not how many wait."""
    for begin in range(0, jobs, 50):
        last = [submit(server, 1) for _ in range(min(50, jobs - begin))][-1]
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
    parser.add_argument("--listeners", type=int, default=500)
    parser.add_argument("--small-jobs", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(options, f"{folder}/data")
        server.ready()
        latency(server, options.seconds)
        memory(server, options.small_jobs)
        asyncio.run(everybody(server, options.listeners))
        server.kill()


if __name__ == "__main__":
    main()
