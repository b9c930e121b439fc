#!/usr/bin/env python3
"""Checks that a model Herd wrote means the same to Transformers.

Starts `herd serve MODEL`, asks for a prompt's log-probabilities through the API, and compares them with those that
Transformers computes from the same folder; then compares the greedy answer to a chat, template included.

    pip install torch==2.15.0 transformers==5.23.0
    python check_with_transformers.py target/release/herd runs/quickstart/models/chat
"""

import json
import subprocess
import sys
import time
import urllib.request

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

herd, folder = sys.argv[1:3]
PORT = 8977
PROMPT = "The package is installed with the command"


def post(path, body):
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


server = subprocess.Popen([herd, "serve", folder, "--port", str(PORT), "--quiet"])
try:
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health")
            break
        except OSError:
            time.sleep(0.1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    answer = post("/v1/completions", dict(prompt=PROMPT, max_tokens=16, temperature=0, logprobs=1))
    choice = answer["choices"][0]
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=16, do_sample=False, output_scores=True, return_dict_in_generate=True)
    theirs = [torch.log_softmax(scores[0], -1).max().item() for scores in out.scores]
    ours = choice["logprobs"]["token_logprobs"]
    n = min(len(ours), len(theirs))
    worst = max(abs(a - b) for a, b in zip(ours[:n], theirs[:n]))
    text = tokenizer.decode(out.sequences[0, ids.shape[1]:], skip_special_tokens=True)
    print(f"completion: {choice['text']!r}; largest difference of {n} log-probabilities: {worst:.2e}")
    assert choice["text"] == text, f"Transformers goes on with {text!r}"
    assert worst < 1e-3

    dialog = [dict(role="user", content="Who are you?")]
    answer = post("/v1/chat/completions", dict(messages=dialog, max_tokens=32, temperature=0))
    ours = answer["choices"][0]["message"]["content"]
    ids = tokenizer.apply_chat_template(dialog, add_generation_prompt=True, return_tensors="pt", return_dict=True).input_ids
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=32, do_sample=False)
    theirs = tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)
    print(f"chat: {ours!r}")
    assert ours.strip() == theirs.strip(), f"Transformers answers {theirs!r}"
    print("the same in Herd and in Transformers")
finally:
    server.terminate()
