"""What `herd bench infer` measures, done by llama.cpp through its own C functions: one JSON line a round."""

import argparse
import ctypes
import json
import time

import llama_cpp as L


def without_amx():
    """llama.cpp asks the system for leave to use AMX: from now on the answer is no (seccomp, x86-64 Linux)."""

    class Instruction(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]

    load, equal, give = 0x20, 0x15, 0x06
    steps = (Instruction * 6)(
        (load, 0, 0, 0), (equal, 0, 3, 158),  # arch_prctl
        (load, 0, 0, 16), (equal, 0, 1, 0x1023),  # ARCH_REQ_XCOMP_PERM
        (give, 0, 0, 0x00050000 | 38), (give, 0, 0, 0x7FFF0000),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(Program(6, steps)), 0, 0) == 0


def peak_rss_mb():
    with open("/proc/self/status") as status:
        kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return kib * 1024 / 1e6


def quiet(level, text, data):
    pass


QUIET = L.llama_log_callback(quiet)


def best(ctx, index, vocab):
    """The likeliest token; numpy finds it faster than llama.cpp's greedy sampler."""
    import numpy

    logits = numpy.ctypeslib.as_array(L.llama_get_logits_ith(ctx, index), shape=(vocab,))
    return int(logits.argmax())


def fill(batch, rows):
    for i, (token, position, sequence, logits) in enumerate(rows):
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = logits
    batch.n_tokens = len(rows)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--prompt-tokens", type=int, default=512)
    p.add_argument("--new-tokens", type=int, default=64)
    p.add_argument("--requests", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--no-amx", action="store_true")
    a = p.parse_args()
    if a.no_amx:
        without_amx()
    L.llama_log_set(QUIET, ctypes.c_void_p(0))
    import numpy  # noqa: F401  (before the clock starts)

    begin = time.perf_counter()
    L.llama_backend_init()
    model = L.llama_model_load_from_file(a.model.encode(), L.llama_model_default_params())
    params = L.llama_context_default_params()
    params.n_ctx = a.requests * (a.prompt_tokens + a.new_tokens + 16)
    params.n_seq_max = a.requests
    params.kv_unified = True
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = a.threads
    ctx = L.llama_init_from_model(model, params)
    load = time.perf_counter() - begin
    vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
    batch = L.llama_batch_init(512, 0, 1)
    def prompts(requests):
        """Computes the prompts and gives the first token of each answer."""
        rows = []
        for r in range(requests):
            for i in range(a.prompt_tokens):
                token = (i * 7919 + r * 104729 + 1) % vocab
                rows.append((token, i, r, i + 1 == a.prompt_tokens))
        last = [0] * requests
        for at in range(0, len(rows), 512):
            part = rows[at : at + 512]
            fill(batch, part)
            assert L.llama_decode(ctx, batch) == 0
            for i, (_, _, r, wanted) in enumerate(part):
                if wanted:
                    last[r] = best(ctx, i, vocab)
        return last

    prompts(1)
    first = time.perf_counter() - begin
    # As Herd's figures, all others are of a model that has answered once, with an empty cache.
    L.llama_memory_clear(L.llama_get_memory(ctx), True)
    start = time.perf_counter()
    last = prompts(a.requests)
    prefilled = time.perf_counter()
    for n in range(a.new_tokens - 1):
        fill(batch, [(last[r], a.prompt_tokens + n, r, True) for r in range(a.requests)])
        assert L.llama_decode(ctx, batch) == 0
        last = [best(ctx, r, vocab) for r in range(a.requests)]
    end = time.perf_counter()
    print(json.dumps({
        "load_s": load,
        "first_token_s": first,
        "prefill_tokens_per_s": a.requests * a.prompt_tokens / (prefilled - start),
        "decode_tokens_per_s": a.requests * (a.new_tokens - 1) / (end - prefilled) if a.new_tokens > 1 else 0.0,
        "peak_rss_mb": peak_rss_mb(),
    }))


if __name__ == "__main__":
    main()
