"""Drives a Herd server with OpenAI's own Python client.

    pip install openai jsonschema openapi-spec-validator
    cargo build --release -p herd-serve --example tiny_server
    python crates/serve/tests/openai/test_client.py [BASE_URL]

Without BASE_URL it starts the server over a small random model itself.
"""

import asyncio
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import jsonschema
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


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says what the weather is like",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
MUSIC = {"type": "function", "function": {"name": "stop_music", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}


def tools():
    request = dict(model=model, messages=USER, max_tokens=300, seed=5, tools=[WEATHER, MUSIC])
    named = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(**request, tool_choice=named)
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls" and answer.choices[0].message.content is None
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])

    # The stream says the same, and its parts are put together by the client's own helper.
    chunks = list(client.chat.completions.create(**request, tool_choice=named, stream=True))
    parts = [p for c in chunks for p in c.choices[0].delta.tool_calls or []]
    assert parts[0].id and parts[0].function.name == "get_weather" and all(p.index == 0 for p in parts)
    assert "".join(p.function.arguments for p in parts) == call.function.arguments
    assert len(parts) > 3, "streamed, not given at once"
    assert not any(c.choices[0].delta.content for c in chunks)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    with client.chat.completions.stream(**request, tool_choice=named) as helper:
        helper.until_done()
        helped = helper.get_final_completion().choices[0].message.tool_calls[0]
    assert helped.function.arguments == call.function.arguments

    # Several at once, unless one is enough; their results are read.
    several = 0
    for seed in range(8):
        request["seed"] = seed
        many = client.chat.completions.create(**request, tool_choice="required").choices[0].message.tool_calls
        one = client.chat.completions.create(**request, tool_choice="required", parallel_tool_calls=False)
        assert len(one.choices[0].message.tool_calls) == 1
        several += len(many) > 1
    assert several > 0
    history = USER + [
        {"role": "assistant", "tool_calls": [c.to_dict() for c in many]},
        *({"role": "tool", "tool_call_id": c.id, "content": "sunny"} for c in many),
    ]
    after = client.chat.completions.create(**{**request, "messages": history, "max_tokens": 5}, tool_choice="auto")
    assert after.usage.prompt_tokens > answer.usage.prompt_tokens + 10
    assert client.chat.completions.create(**{**request, "max_tokens": 5}, tool_choice="none").choices[0].message.tool_calls is None


def json_schema():
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 8}},
        "required": ["name", "legs"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema, "strict": True}}
    request = dict(model=model, messages=USER, max_tokens=200, response_format=form)
    for temperature in (0, 1, 2):
        answer = client.chat.completions.create(**request, temperature=temperature, seed=1, n=4)
        for choice in answer.choices:
            assert choice.finish_reason == "stop"
            jsonschema.validate(json.loads(choice.message.content), schema)
    chunks = client.chat.completions.create(**request, temperature=2, seed=1, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == answer.choices[0].message.content
    regex = client.chat.completions.create(model=model, messages=USER, extra_body={"structured_outputs": {"regex": "[ab]{4}"}})
    assert re.fullmatch("[ab]{4}", regex.choices[0].message.content)
    gbnf = client.chat.completions.create(model=model, messages=USER, extra_body={"grammar": 'root ::= "<" (root | [ab]) ">"'}, max_tokens=60)
    assert re.match("<+[ab]", gbnf.choices[0].message.content)
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "banana"}}}
    assert fails(openai.BadRequestError, response_format=bad).param == "response_format"


def stop():
    request = dict(model=model, prompt="the cat", max_tokens=60, temperature=0)
    text = client.completions.create(**request).choices[0].text
    word = text[20:26]
    answer = client.completions.create(**request, stop=["<none>", word])
    assert answer.choices[0].text == text[: text.index(word)] and answer.choices[0].finish_reason == "stop"
    chunks = client.completions.create(**request, stop=word, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == text[: text.index(word)], "no part of it leaks"


def seeds():
    def says(seed):
        answer = client.chat.completions.create(model=model, messages=USER, max_tokens=16, seed=seed)
        return answer.choices[0].message.content

    assert says(1) == says(1) and len({says(seed) for seed in range(5)}) > 1
    assert len({says(openai.NOT_GIVEN) for _ in range(5)}) > 1


def embeddings():
    answer = client.embeddings.create(model=model, input=["the cat", "the dog", "the cat"])
    cat, dog, again = (d.embedding for d in answer.data)
    assert cat == again and cat != dog and abs(sum(x * x for x in cat) - 1) < 1e-4
    plain = client.embeddings.create(model=model, input="the cat", encoding_format="float").data[0].embedding
    assert max(abs(a - b) for a, b in zip(plain, cat)) < 1e-6
    assert len(client.embeddings.create(model=model, input=[[1, 2, 3]], dimensions=10).data[0].embedding) == 10


def description():
    from openapi_spec_validator import validate

    with urllib.request.urlopen(str(client.base_url).replace("/v1/", "/openapi.json")) as reply:
        document = json.load(reply)
    validate(document)
    schemas = document["components"]["schemas"]
    answer = client.chat.completions.create(model=model, messages=USER, max_tokens=4).to_dict()
    jsonschema.validate(answer, {**schemas["ChatResponse"], "components": document["components"]})


def native():
    """What llama-server's clients ask for, against the description of it."""

    def ask(path, body=None):
        url = str(client.base_url).replace("/v1/", path)
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    _, document = ask("/openapi.json")
    schemas = document["components"]["schemas"]

    def check(answer, schema):
        jsonschema.validate(answer, {**schemas[schema], "components": document["components"]})

    status, answer = ask("/completion", {"prompt": "the cat", "n_predict": 4, "response_fields": ["content", "timings/predicted_n"]})
    assert (status, answer["timings/predicted_n"], set(answer)) == (200, 4, {"content", "timings/predicted_n"})
    status, answer = ask("/completion", {"prompt": "the cat", "n_predict": 4})
    check(answer, "NativeResponse")
    status, slots = ask("/slots")
    assert status == 200 and len(slots) == ask("/props")[1]["total_slots"]
    for slot in slots:
        check(slot, "Slot")
    # The small model fills in nothing and ranks nothing.
    for path, body in [("/infill", {"input_prefix": "a", "input_suffix": "b"}), ("/v1/rerank", {"query": "a", "documents": ["b"]})]:
        status, answer = ask(path, body)
        check(answer, "Error")
        assert (status, answer["error"]["code"]) == (501, "not_supported")


def errors():
    assert fails(openai.BadRequestError, temperature=9).param == "temperature"
    assert fails(openai.BadRequestError, messages=[]).param == "messages"
    assert fails(openai.BadRequestError, stop=["x"] * 10_000).param == "stop"
    assert fails(openai.BadRequestError, tools=[{"type": "retrieval"}]).param == "tools[0].type"
    assert fails(openai.BadRequestError, max_tokens=10**8).code == "context_length_exceeded"
    assert fails(openai.BadRequestError, messages=[{"role": "user", "content": "word " * 20_000}]).code == "context_length_exceeded"
    assert fails(openai.NotFoundError, model="gpt-4").code == "model_not_found"
    assert fails(openai.APIStatusError, messages=[{"role": "user", "content": "x" * (100 << 20)}]).status_code == 413
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
    address = str(client.base_url).replace("/v1/", "/metrics")
    for _ in range(100):
        metrics = urllib.request.urlopen(address).read().decode()
        if re.search(r"^herd_cache_pages_used 0$", metrics, re.M):
            break
        time.sleep(0.02)
    else:
        raise AssertionError("pages are still in use")
    assert client.chat.completions.create(model=model, messages=USER, max_tokens=2).choices


server, address = None, sys.argv[1] if len(sys.argv) > 1 else None
if address is None:
    program = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/tiny_server"
    server = subprocess.Popen([program, "0"], stderr=subprocess.PIPE, text=True)
    address = re.search(r"http://\S+", server.stderr.readline()).group() + "/v1"
try:
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    for check in [
        models, chat, stream, tools, json_schema, logprobs, parameters, stop, seeds, completions, embeddings, description,
        native, errors, crowd, leaves,
    ]:
        began = time.time()
        check()
        print(f"ok  {check.__name__} ({time.time() - began:.1f} s)")
    print("all good with openai", openai.__version__)
finally:
    if server:
        server.kill()
