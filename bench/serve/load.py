#!/usr/bin/env python3
"""Many clients at once, some of which leave in the middle of their answer. Needs nothing but Python.

    python3 bench/serve/load.py MODEL_OR_URL [--requests 1000] [--at-once 32] [--leave 0.05] [--warm N] [--json]

With a model it starts `herd serve` itself (HERD names the program) and watches its memory. It ends with status 1 if a
request failed that was not to, if pages of the cache are still in use at the end, or if memory grew by more than a
tenth. The cache takes memory until it is full: --warm N sends so many requests before the first that is counted.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards brew tea and count stars in the northern sky".split()


def body(i, longest):
    """Request i: prompts share beginnings of several lengths, half of the answers are streamed."""
    rng = random.Random(i)
    topic = " ".join(WORDS[j % len(WORDS)] for j in range(4 + i % 40))
    request = {
        "messages": [{"role": "user", "content": f"{topic}. Say more about the {rng.choice(WORDS)}."}],
        "max_tokens": 4 + i * 7 % (longest - 3),
        "temperature": 0.8,
        "seed": i,
        "stream": i % 2 == 0,
    }
    return json.dumps(request).encode()


async def exchange(host, port, i, leave, longest):
    """Seconds to the first byte of the answer, to its end, and its tokens; None if the client left."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        data = body(i, longest)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()
        if leave:
            # In the queue, in the prompt or in the answer, as it comes.
            await asyncio.sleep(random.Random(i).random() * 0.5)
            return None
        first = await reader.read(1)
        to_first = time.perf_counter() - began
        rest = first + await reader.read()
        status = int(rest[9:12])
        if status != 200:
            raise RuntimeError(f"request {i}: {status}: {rest.decode(errors='replace')[-300:]}")
        if i % 2 == 0:
            if b"data: [DONE]" not in rest:
                raise RuntimeError(f"request {i}: the stream broke off")
            tokens = len(re.findall(rb'"content":"[^"]', rest))
        else:
            tokens = json.loads(rest.split(b"\r\n\r\n", 1)[1])["usage"]["completion_tokens"]
        return to_first, time.perf_counter() - began, tokens
    finally:
        writer.close()


async def get(host, port, path):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return text


async def metric(host, port, name):
    return float(re.search(rf"^{name} (\S+)$", await get(host, port, "/metrics"), re.M).group(1))


def resident_mb(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


async def run(host, port, pid, args):
    # Requests before the first that is counted fill the cache, which takes memory until it is full.
    before = iter(range(args.requests, args.requests + args.warm))

    async def warm():
        for i in before:
            await exchange(host, port, i, False, args.answer_tokens)

    await asyncio.gather(*(warm() for _ in range(args.at_once)))
    drawn_before = await metric(host, port, "herd_completion_tokens_total")
    leavers = set(random.Random(1).sample(range(args.requests), round(args.requests * args.leave)))
    numbers = iter(range(args.requests))
    done, errors, left, memory = [], [], 0, []

    async def client():
        nonlocal left
        for i in numbers:
            try:
                result = await exchange(host, port, i, i in leavers, args.answer_tokens)
            except Exception as error:  # every failure is counted and shown
                errors.append(str(error))
                continue
            if result is None:
                left += 1
            else:
                done.append(result)
            if pid and (len(done) + left) % max(args.requests // 20, 1) == 0:
                memory.append(round(resident_mb(pid), 1))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(args.at_once)))
    seconds = time.perf_counter() - began
    for _ in range(600):
        if sum([await metric(host, port, f"herd_{name}") for name in ("answers_running", "answers_paused", "requests_waiting")]) == 0:
            break
        await asyncio.sleep(0.1)
    pages = await metric(host, port, "herd_cache_pages_used")
    drawn = await metric(host, port, "herd_completion_tokens_total") - drawn_before
    firsts, wholes = sorted(d[0] for d in done), sorted(d[1] for d in done)
    growth = max(memory) / memory[0] - 1 if memory else 0.0
    result = {
        "requests": args.requests, "at_once": args.at_once, "answered": len(done), "left": left, "errors": len(errors),
        "seconds": round(seconds, 1), "requests_per_s": round(args.requests / seconds, 1), "tokens_per_s": round(drawn / seconds, 1),
        "first_byte_s_median": round(statistics.median(firsts), 3), "first_byte_s_p99": round(firsts[int(len(firsts) * 0.99)], 3), "answer_s_median": round(statistics.median(wholes), 3),
        "answer_s_p99": round(wholes[int(len(wholes) * 0.99)], 3), "pages_left": int(pages), "pages": int(await metric(host, port, "herd_cache_pages")),
        "preemptions": int(await metric(host, port, "herd_preemptions_total")),
        "recomputed_tokens": int(await metric(host, port, "herd_recomputed_tokens_total")),
        "memory_mb": memory, "memory_growth": round(growth, 4),
    }
    for error in errors[:5]:
        print(error, file=sys.stderr)
    print(json.dumps(result) if args.json else "\n".join(f"{k:34} {v}" for k, v in result.items()))
    return not errors and pages == 0 and growth < 0.1 and len(done) + left == args.requests


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--leave", type=float, default=0.05)
    parser.add_argument("--warm", type=int, default=0)
    parser.add_argument("--answer-tokens", type=int, default=24, help="of the longest answer")
    parser.add_argument("--threads")
    parser.add_argument("--cache-tokens", help="of a server that is started here")
    parser.add_argument("--pid", type=int, help="process whose memory is watched, with a URL")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    server, url = None, args.model
    if not url.startswith("http"):
        command = [os.environ.get("HERD", "target/release/herd"), "serve", args.model, "--port", "0"]
        if args.threads:
            command += ["--threads", args.threads]
        if args.cache_tokens:
            command += ["--cache-tokens", args.cache_tokens]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in server.stderr:
            if found := re.search(r"http://\S+?(?=\s|$)", line):
                url = found.group()
                break
    host, port = re.match(r"http://([^:/]+):(\d+)", url).groups()
    try:
        good = asyncio.run(run(host, int(port), server.pid if server else args.pid, args))
    finally:
        if server:
            server.terminate()
            server.wait()
    sys.exit(0 if good else 1)


main()
