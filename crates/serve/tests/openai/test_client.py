"""Drives a Herd server with OpenAI's own Python client.

    pip install openai
    cargo build --release -p herd-serve --example tiny_server
    python crates/serve/tests/openai/test_client.py [BASE_URL]

Without BASE_URL it starts the server over a small random model itself.
"""

import asyncio
import pathlib
import re
import subprocess
import sys

import openai

ROOT = pathlib.Path(__file__).resolve().parents[4]
USER = [{"role": "user", "content": "the cat sat on the"}]


def fails(kind, **request):
    try:
        client.chat.completions.create(**{"model": model, "messages": USER, "max_tokens": 4, **request})
    except kind as error:
        return error
    raise AssertionError(f"{request} was accepted")


def models():
    assert [m.id for m in client.models.list()] == [model]
    assert client.models.retrieve(model).object == "model"


def chat():
    answer = client.chat.completions.create(model=model, messages=USER, max_tokens=12, seed=3, n=2)
    again = client.chat.completions.create(model=model, messages=USER, max_tokens=12, seed=3, n=2)
    assert [c.message.content for c in answer.choices] == [c.message.content for c in again.choices]
    assert answer.choices[0].message.content != answer.choices[1].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].finish_reason in ("stop", "length")


def stream():
    request = dict(model=model, messages=USER, max_tokens=12, temperature=0)
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    with client.chat.completions.stream(**request) as helper:
        deltas = [event.delta for event in helper if event.type == "content.delta"]
    assert "".join(deltas) == text


def logprobs():
    answer = client.chat.completions.create(
        model=model, messages=USER, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2
    )
    for token in answer.choices[0].logprobs.content:
        assert token.logprob <= 0 and token.top_logprobs[0].token == token.token
        assert bytes(token.bytes).decode(errors="replace") == token.token


def parameters():
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        max_completion_tokens=5,
        temperature=0.8,
        top_p=0.9,
        frequency_penalty=0.5,
        presence_penalty=0.5,
        logit_bias={"7": 2},
        stop=["\n\n", "END"],
        user="someone",
        extra_body={"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1},
    )
    assert answer.usage.completion_tokens <= 5


def completions():
    answer = client.completions.create(model=model, prompt=["the cat", "the dog"], max_tokens=5, n=2, seed=1, logprobs=1)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert len(answer.choices[0].logprobs.tokens) <= 5
    chunks = client.completions.create(model=model, prompt="the cat", max_tokens=5, seed=1, n=1, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == answer.choices[0].text


def errors():
    assert fails(openai.BadRequestError, temperature=9).param == "temperature"
    assert fails(openai.BadRequestError, messages=[]).param == "messages"
    assert fails(openai.BadRequestError, max_tokens=10**8).code == "context_length_exceeded"
    assert fails(openai.NotFoundError, model="gpt-4").code == "model_not_found"
    assert client.chat.completions.create(model=model, messages=USER, max_tokens=2).choices


def crowd():
    async def all_at_once():
        asynchronous = openai.AsyncOpenAI(base_url=client.base_url, api_key="none")
        requests = [
            asynchronous.chat.completions.create(model=model, messages=USER, max_tokens=20, seed=i % 4) for i in range(32)
        ]
        return [a.choices[0].message.content for a in await asyncio.gather(*requests)]

    texts = asyncio.run(all_at_once())
    assert all(text == texts[i % 4] for i, text in enumerate(texts)), "the same seed says the same in any company"


def leaves():
    chunks = client.chat.completions.create(model=model, messages=USER, max_tokens=1000, temperature=0, stream=True)
    for _, chunk in zip(range(5), chunks):
        pass
    chunks.close()
    assert client.chat.completions.create(model=model, messages=USER, max_tokens=2).choices


server, address = None, sys.argv[1] if len(sys.argv) > 1 else None
if address is None:
    server = subprocess.Popen([ROOT / "target/release/examples/tiny_server", "0"], stderr=subprocess.PIPE, text=True)
    address = re.search(r"http://\S+", server.stderr.readline()).group() + "/v1"
try:
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    for check in [models, chat, stream, logprobs, parameters, completions, errors, crowd, leaves]:
        check()
        print("ok ", check.__name__)
    print("all good with openai", openai.__version__)
finally:
    if server:
        server.kill()
