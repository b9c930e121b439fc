"""Asks Herd and llama.cpp's `llama-server` the same over the same model, and compares what they say.

    python3 compare.py MODEL.gguf --herd HERD --llama-server BINARY [--show]

MODEL is best in f32 (`herd convert MODEL f32.gguf --type f32`): quantised models are rounded differently by both, and
their answers part where two words are nearly as likely.

Both are started on free ports of this machine. For every request the status is compared, the fields and types of the
JSON (for a stream: of its chunks), and, at temperature 0, the text. What Herd leaves out or does otherwise on purpose is
listed in `KNOWN` with its reason; anything else is a failure. Needs nothing but Python.
"""

import argparse
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

GREEDY = {"temperature": 0, "seed": 1}
USER = [{"role": "user", "content": "Name three colours."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
TEXT = "The capital of France is"

# Name, method, path, body. Names that end in "~" have texts that need not be the same.
REQUESTS = [
    ("health", "GET", "/health", None),
    ("health v1", "GET", "/v1/health", None),
    ("models", "GET", "/v1/models", None),
    ("props", "GET", "/props", None),
    ("slots", "GET", "/slots", None),
    ("tokenize", "POST", "/tokenize", {"content": "Hello, wörld!"}),
    ("tokenize with pieces", "POST", "/tokenize", {"content": "Hello, wörld!", "with_pieces": True}),
    ("tokenize special", "POST", "/tokenize", {"content": "<|im_start|>a", "add_special": True, "parse_special": True}),
    ("detokenize", "POST", "/detokenize", {"tokens": [504, 3575, 282]}),
    ("apply template", "POST", "/apply-template", {"messages": USER}),
    ("completion", "POST", "/completion", {"prompt": TEXT, "n_predict": 8, **GREEDY}),
    ("completion, stop", "POST", "/completion", {"prompt": TEXT, "n_predict": 24, "stop": ["."], **GREEDY}),
    ("completion, no tokens", "POST", "/completion", {"prompt": TEXT, "n_predict": 0, **GREEDY}),
    ("completion, tokens", "POST", "/completion", {"prompt": [504, 3575, 282], "n_predict": 4, "return_tokens": True, **GREEDY}),
    ("completion, several", "POST", "/completion", {"prompt": [TEXT, "One, two,"], "n_predict": 4, **GREEDY}),
    ("completion, probabilities", "POST", "/completion", {"prompt": TEXT, "n_predict": 3, "n_probs": 2, **GREEDY}),
    ("completion, fields", "POST", "/completion", {"prompt": TEXT, "n_predict": 3, "response_fields": ["content", "timings/prompt_n"], **GREEDY}),
    ("completion, schema", "POST", "/completion", {"prompt": TEXT, "n_predict": 16, "json_schema": SCHEMA, **GREEDY}),
    ("completion, grammar", "POST", "/completion", {"prompt": TEXT, "n_predict": 8, "grammar": 'root ::= "yes" | "no"', **GREEDY}),
    ("completion, stream", "POST", "/completion", {"prompt": TEXT, "n_predict": 6, "stream": True, **GREEDY}),
    ("v1 completion", "POST", "/v1/completions", {"prompt": TEXT, "max_tokens": 8, **GREEDY}),
    ("v1 completion, logprobs", "POST", "/v1/completions", {"prompt": TEXT, "max_tokens": 3, "logprobs": 2, **GREEDY}),
    ("v1 completion, stream", "POST", "/v1/completions", {"prompt": TEXT, "max_tokens": 6, "stream": True, "stream_options": {"include_usage": True}, **GREEDY}),
    ("chat", "POST", "/v1/chat/completions", {"messages": USER, "max_tokens": 16, **GREEDY}),
    ("chat, system", "POST", "/v1/chat/completions", {"messages": [{"role": "system", "content": "Be brief."}, *USER], "max_tokens": 12, **GREEDY}),
    ("chat, parts", "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Name three colours."}]}], "max_tokens": 8, **GREEDY}),
    ("chat, logprobs", "POST", "/v1/chat/completions", {"messages": USER, "max_tokens": 3, "logprobs": True, "top_logprobs": 2, **GREEDY}),
    ("chat, stream", "POST", "/v1/chat/completions", {"messages": USER, "max_tokens": 6, "stream": True, "stream_options": {"include_usage": True}, **GREEDY}),
    ("chat, schema", "POST", "/v1/chat/completions", {"messages": USER, "max_tokens": 24, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, **GREEDY}),
    ("chat, forced tool~", "POST", "/v1/chat/completions", {"messages": USER, "max_tokens": 64, "tools": [TOOL], "tool_choice": "required", **GREEDY}),
    ("embeddings~", "POST", "/v1/embeddings", {"input": "Hello"}),
    ("embeddings, several~", "POST", "/v1/embeddings", {"input": ["Hello", "wörld"]}),
    ("metrics", "GET", "/metrics", None),
    ("no such address", "GET", "/v1/nothing", None),
    ("broken JSON", "POST", "/v1/chat/completions", b"{"),
    ("no messages", "POST", "/v1/chat/completions", {"max_tokens": 4}),
    ("wrong type", "POST", "/v1/chat/completions", {"messages": "hello"}),
    ("no prompt", "POST", "/completion", {"n_predict": 4}),
    ("bad grammar", "POST", "/completion", {"prompt": TEXT, "grammar": "root ::= ("}),
]

# What differs on purpose: request name (or "*"), path of the field, and why. The elements of a list at the top count as one.
SAMPLERS = "settings of samplers that Herd has not"
OPENAI = "OpenAI's codes are words"
KNOWN = {
    ("*", "generation_settings"): SAMPLERS,
    ("*", "default_generation_settings.params"): SAMPLERS,
    ("*", "error.code"): OPENAI,
    ("models", "models"): "Ollama's list of the same",
    ("models", "data[].meta.ftype"): "a model may hold several types; `herd inspect` tells them",
    ("models", "data[].meta.size"): "`herd inspect` tells it",
    ("models", "data[].meta.vocab_type"): "llama.cpp's own number",
    ("models", "data[].aliases"): "the name, always",
    ("models", "data[].tags"): "none",
    ("props", "chat_template_caps"): "Herd renders templates whole and does not guess what they can do",
    ("props", "cors_proxy_enabled"): "no such thing",
    ("props", "media_marker"): "text only",
    ("props", "model_ftype"): "`herd inspect` tells it",
    ("props", "ui"): "llama-server's page",
    ("props", "ui_settings"): "llama-server's page",
    ("completion, no tokens", "text"): "no token means none, and the prompt in the cache, as llama-server documents it",
    ("v1 completion, logprobs", "choices[].logprobs"): "the lists of OpenAI's legacy form; llama-server has chat's",
    ("chat, schema", "text"): "JSON may have white space between its parts, and the grammars allow different amounts",
    ("chat, forced tool", "choices[].message.content"): "null, as OpenAI's",
    ("broken JSON", "status"): "400: the client's fault",
}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, command, log):
        self.port = free_port()
        self.process = subprocess.Popen([*map(str, command), "--port", str(self.port)], stdout=log, stderr=log)
        for _ in range(600):
            try:
                if self.ask("GET", "/health", None)[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                sys.exit(f"{command[0]} ended with {self.process.returncode}")
            time.sleep(0.1)
        sys.exit(f"{command[0]} does not answer")

    def ask(self, method, path, body):
        """Status, and the JSON of the answer, the list of JSONs of a stream, or text."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                status, kind, text = answer.status, answer.headers.get_content_type(), answer.read().decode()
        except urllib.error.HTTPError as error:
            status, kind, text = error.code, error.headers.get_content_type(), error.read().decode()
        if kind == "text/event-stream":
            lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
            return status, [json.loads(line) for line in lines if line != "[DONE]"]
        return status, json.loads(text) if kind == "application/json" else text

    def end(self):
        self.process.terminate()
        self.process.wait(20)


def shape(value, path=""):
    """Paths of all fields with the kinds of their values; elements of a list count as one."""
    if isinstance(value, dict):
        found = {(path, "object")}
        for key, inner in value.items():
            found |= shape(inner, f"{path}.{key}" if path else key)
        return found
    if isinstance(value, list):
        return {(path, "list")}.union(*(shape(inner, path + "[]") for inner in value))
    kind = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}[type(value)]
    return {(path, kind)}


def text_of(value):
    """What the model said."""
    if isinstance(value, list):
        return "".join(text_of(inner) for inner in value)
    if not isinstance(value, dict):
        return ""
    if "content" in value and isinstance(value["content"], str):
        return value["content"]
    if isinstance(value.get("prompt"), str) and "choices" not in value:
        return value["prompt"]
    parts = [c.get("text") or (c.get("message") or c.get("delta") or {}).get("content") or "" for c in value.get("choices", [])]
    return "".join(parts)


def known(name, path):
    name, path = name.removesuffix("~"), path.removeprefix("[].")
    return any(why for (request, field), why in KNOWN.items() if request in ("*", name) and (path == field or path.startswith((field + ".", field + "["))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--herd", type=pathlib.Path, required=True)
    parser.add_argument("--llama-server", type=pathlib.Path, required=True)
    parser.add_argument("--show", action="store_true", help="print both answers where they differ")
    args = parser.parse_args()
    for path in [args.model, args.herd, args.llama_server]:
        if not path.exists():
            sys.exit(f"{path} does not exist")
    log = tempfile.TemporaryFile()
    herd = Server([args.herd, "serve", args.model, "--cache-tokens", 4096], log)
    peer = Server([args.llama_server, "-m", args.model, "-c", 4096, "-np", 1, "--jinja", "--slots", "--metrics", "--embeddings", "--pooling", "mean", "--no-webui"], log)
    failed = 0
    try:
        for name, method, path, body in REQUESTS:
            (status, ours), (expected, theirs) = herd.ask(method, path, body), peer.ask(method, path, body)
            problems = []
            if status != expected and not known(name, "status"):
                problems.append(f"status {status}, llama-server {expected}")
            kinds_ours, kinds_theirs = (dict() for _ in range(2))
            for kinds, answer in [(kinds_ours, ours), (kinds_theirs, theirs)]:
                for field, kind in shape(answer):
                    kinds.setdefault(field, set()).add(kind)
            for field, kinds in sorted(kinds_theirs.items()):
                if known(name, field):
                    continue
                if field not in kinds_ours:
                    problems.append(f"{field or '(answer)'}: missing ({', '.join(sorted(kinds))})")
                elif not kinds_ours[field] & kinds:
                    problems.append(f"{field or '(answer)'}: {kinds_ours[field]}, llama-server {kinds}")
            if not name.endswith("~") and text_of(ours) != text_of(theirs) and not known(name, "text"):
                problems.append(f"text {text_of(ours)!r}, llama-server {text_of(theirs)!r}")
            failed += bool(problems)
            print(f"{'differs' if problems else 'same':<8} {name.removesuffix('~')}", *problems, sep="\n         ")
            if args.show and problems:
                print(json.dumps(ours)[:2000], json.dumps(theirs)[:2000], sep="\n")
    finally:
        herd.end()
        peer.end()
    print(f"{len(REQUESTS)} requests, {failed} differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
