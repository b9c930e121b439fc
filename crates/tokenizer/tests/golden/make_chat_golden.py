"""Makes dialogs.json for tests/golden_chat.rs with Transformers (5.23), and checks Herd's templates on the way.

    python make_chat_golden.py LLAMA31_TEMPLATE

LLAMA31_TEMPLATE is the chat template published with Llama 3.1 (a .jinja file, or the tokenizer_config.json that holds
it; not part of this repository). The expected texts and ids are what Transformers makes with *that* template; Herd's
own template has to give the same.
"""

import json
import sys
from pathlib import Path

import jinja2
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
OURS = HERE / "../../src/chat"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Wetter für einen Ort <b>\"heute\"</b>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "default": None}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}, "strict": False}}}


def say(role, content):
    return {"role": role, "content": content}


def call(name, **arguments):
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


HI = [say("user", "Hi!")]
TOOL_TALK = [
    say("system", "Use tools."), say("user", " How is the weather in Köln? "), call("get_weather", city="Köln", days=2),
    say("tool", "12 °C, \"rain\"\n"), say("assistant", "Rainy."), say("user", "And now?"), call("clock"),
    say("ipython", {"hour": 12, "zone": ["CET", None, 1.5]}),
]  # fmt: skip
DIALOGS = [
    dict(messages=HI),
    dict(messages=HI, add_generation_prompt=True),
    dict(messages=[say("system", "  Be brief.\n\n"), *HI, say("assistant", "Hello.\n"), say("user", "2 + 2?\n\n")], add_generation_prompt=True),
    dict(messages=[*HI, say("assistant", "Ünïcode 🦙 — 東京\n\n\tindent"), say("user", "\x1c x \x85")]),
    dict(messages=[say("user", ""), say("assistant", "")]),
    dict(messages=[say("assistant", "I begin."), say("system", "late system message")]),
    dict(messages=HI, date_string="21 November 2026", add_generation_prompt=True),
    dict(messages=HI, tools=[WEATHER], add_generation_prompt=True),
    dict(messages=[say("system", "Use tools."), *HI], tools=[WEATHER, CLOCK], tools_in_user_message=False, add_generation_prompt=True),
    dict(messages=TOOL_TALK, tools=[WEATHER, CLOCK], add_generation_prompt=True),
    dict(messages=TOOL_TALK, custom_tools=[CLOCK], tools_in_user_message=False),
    dict(messages=HI, builtin_tools=["code_interpreter", "brave_search", "wolfram_alpha"]),
    dict(messages=[*HI, call("brave_search", query="Llama 3", region="de"), say("ipython", ["a", "b"]), say("assistant", "ok")], builtin_tools=["brave_search"]),
    dict(messages=[*HI, call("get_weather", city="Rom"), say("tool", "[]")], builtin_tools=["brave_search"], tools=[WEATHER]),
    # refused by both
    dict(messages=[say("system", "no user message")], tools=[WEATHER]),
    dict(messages=[*HI, {"role": "assistant", "tool_calls": call("a")["tool_calls"] * 2}]),
]  # fmt: skip


def main():
    reference = Path(sys.argv[1]).read_text()
    if reference.lstrip().startswith("{\""):
        reference = json.loads(reference)["chat_template"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(HERE / "tokenizer.json"), bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    )

    def render(template, dialog):
        try:
            options = {key: value for key, value in dialog.items() if key != "messages"} | {"chat_template": template}
            text = tokenizer.apply_chat_template(dialog["messages"], tokenize=False, **options)
            ids = tokenizer.apply_chat_template(dialog["messages"], return_dict=False, **options)
            return {"text": text, "ids": ids}
        except jinja2.exceptions.TemplateError as error:  # the templates refuse in words of their own
            return {"refused": type(error).__name__}

    rows = []
    for dialog in DIALOGS:
        expected = render(reference, dialog)
        ours = render((OURS / "llama31.jinja").read_text(), dialog)
        assert ours == expected, (dialog, ours, expected)
        plain = not any(m.get("tool_calls") or m["role"] in ("tool", "ipython") for m in dialog["messages"])
        llama3 = render((OURS / "llama3.jinja").read_text(), dialog) if plain else None
        rows.append({"dialog": dialog, "llama3.1": expected, "llama3": llama3})
    body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE / "dialogs.json").write_text(f"[\n{body}\n]\n")
    print(len(rows), "dialogs,", sum("refused" in r["llama3.1"] for r in rows), "refused")


main()
