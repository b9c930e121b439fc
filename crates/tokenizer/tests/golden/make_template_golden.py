"""Chat templates with what they use of Jinja, and what Transformers makes of them.

    python make_template_golden.py     (transformers 5.23)

Writes templates.json: [{template, messages, tools, add_generation_prompt, variables, text or error}].
"""

import json
import pathlib

from transformers.utils.chat_template_utils import render_jinja_template

HI = [dict(role="user", content="Hi  ")]
LONG = [
    dict(role="system", content=" Be brief.\n"),
    dict(role="user", content="What is 2+2?"),
    dict(role="assistant", content="4"),
    dict(role="user", content="And \"3+3\"?\té 中"),
]
CALL = [
    dict(role="user", content="Weather in Rome?"),
    dict(
        role="assistant",
        content=None,
        tool_calls=[
            dict(id="a1", type="function", function=dict(name="weather", arguments=dict(city="Rome", days=3, metric=True))),
            dict(id="a2", type="function", function=dict(name="time", arguments=dict(zone=None))),
        ],
    ),
    dict(role="tool", tool_call_id="a1", content='{"sky": "clear"}'),
]
TOOLS = [
    dict(
        type="function",
        function=dict(
            name="weather",
            description="The weather of a city.",
            parameters=dict(
                type="object",
                properties=dict(city=dict(type="string", description="Its name"), days=dict(type="integer", default=1)),
                required=["city"],
            ),
        ),
    )
]
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = """{% if messages[0]['role'] == 'system' %}
    {% set rest = messages[1:] %}
    {% set system = '<<SYS>>\\n' ~ messages[0]['content'].strip() ~ '\\n<</SYS>>\\n\\n' %}
{% else %}
    {% set rest = messages %}
    {% set system = '' %}
{% endif %}
{%- for m in rest -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- if m['role'] == 'user' -%}
{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip() + ' [/INST]' }}
{%- else -%}
{{ ' ' + m['content'].strip() + ' ' + eos_token }}
{%- endif -%}
{%- endfor -%}"""
TOOLED = """{%- macro describe(schema, depth) -%}
{%- for name, p in schema.properties.items() %}
{{ '  ' * depth }}- {{ name }} ({{ p.type }}{% if name in schema.required %}, required{% endif %}): {{ p.description | default('no description') }}{% if p.default is defined %} = {{ p.default }}{% endif %}
{%- endfor -%}
{%- endmacro -%}
{%- set ns = namespace(last=-1, calls=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- if tools is not none and tools | length > 0 %}
# Tools
{% for tool in tools %}
{{ tool | tojson }}
{{ tool.function | tojson(indent=4) }}
{{ describe(tool['function']['parameters'], 1) }}
{% endfor %}
{%- endif %}
{% for m in messages %}
{%- if m.tool_calls is defined and m.tool_calls %}
{%- for call in m.tool_calls %}
{%- set ns.calls = ns.calls + 1 %}
<call {{ ns.calls }}>{{ call.function.name }}({% for k, v in call.function.arguments | items %}{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}{% endfor %})</call>
{{ call.function.arguments }}
{%- endfor %}
{%- elif m.content is string %}
[{{ m.role | upper }}{{ ' (last)' if loop.index0 == ns.last }}] {{ m.content | trim }}
{%- endif %}
{% endfor %}"""
FEATURES = """{%- set list = [3, 1, 2] -%}
{{ true }} {{ none }} {{ 1.0 }} {{ 2 / 4 }} {{ 7 // 2 }} {{ list }} {{ {'a': [true, none, 'x']} }} {{ 'it\\'s' }}
{{ list | sort | join(', ') }} {{ list | first }} {{ list | last }} {{ list | length }} {{ list | reverse | list }}
{{ messages | map(attribute='role') | list }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }}
{{ 'a-b-c'.split('-') }} {{ 'a-b-c'.split('-', 1)[1] }} {{ '-'.join(['x', 'y']) }} {{ 'abc'[::-1] }} {{ 'abc'[1:] }}
{{ 'hello world'.title() }} {{ 'hello'.capitalize() }} {{ 'x,y' | replace(',', ';') }} {{ '  x '.strip() }}| {{ 'abcab'.count('ab') }} {{ 'abc'.find('c') }}
{{ 'Prefix: x'.startswith('Prefix') }} {{ 'k' in {'k': 1} }} {{ 3 is odd }} {{ messages is iterable }} {{ messages[0] is mapping }}
{{ missing is defined }} [{{ missing }}] {{ missing | default('none') }} {{ 'a' ~ 1 }}
{% for x in range(5) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }};{% endfor %}
{% for m in messages %}{{ loop.index }}/{{ loop.length }}{% generation %}<{{ m.content }}>{% endgeneration %}{% if loop.nextitem is defined %}+{% endif %}{% endfor %}
{{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=True) }} {{ 'é<&>' | tojson }}
{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}
{{ {'x': 1}.get('y', 'z') }} {{ {'x': 1}.keys() | list }} {{ {'x': 1}.values() | list }} {{ 'a\\nb'.splitlines() }} {{ "%s-%d" | format('q', 3) }}
{{ [1, 2] + [3] }} {{ 5 % 3 }} {{ 2 ** 3 }} {{ -3 | abs }} {{ 'abc' | length }} {{ ['a', 'b'] | join }} {{ 3.14159 | round(2) }} {{ '7' | int + 1 }} {{ not true }}"""
STRIPPED = "{%- for m in messages %}\n    {%- if m.content %}\n        {{- '<' ~ m.role ~ '>' ~ m.content }}\n    {%- endif %}\n{%- endfor %}\n\n{# a comment #}\n  {% if add_generation_prompt %}\nGO\n  {% endif %}\nend\n"
CASES = [
    (CHATML, HI, None, True, {}),
    (CHATML, LONG, None, False, {}),
    (INST, LONG, None, False, dict(bos_token="<s>", eos_token="</s>")),
    (INST, HI, None, True, dict(bos_token="<s>", eos_token="</s>")),
    (INST, [*HI, *HI], None, False, dict(bos_token="<s>", eos_token="</s>")),
    (TOOLED, CALL, TOOLS, True, {}),
    (TOOLED, LONG, None, True, {}),
    (TOOLED, CALL, [], False, {}),
    (FEATURES, LONG, None, False, {}),
    (STRIPPED, LONG, None, True, {}),
    (STRIPPED, HI, None, False, {}),
    ("{{ messages[0].content.nothing.more }}", HI, None, False, {}),
    ("{{ date_string if date_string is defined else strftime_now('%d %b %Y') | length }}", HI, None, False, {}),
    ("{{ date_string if date_string is defined else '' }}", HI, None, False, dict(date_string="26 Jul 2024")),
]


def main():
    rows = []
    for template, messages, tools, prompt, variables in CASES:
        row = dict(template=template, messages=messages, tools=tools, add_generation_prompt=prompt, variables=variables)
        try:
            texts, _ = render_jinja_template(
                [messages], tools=tools, chat_template=template, add_generation_prompt=prompt, **variables
            )
            row["text"] = texts[0]
        except Exception as error:
            row["error"] = str(error)
        rows.append(row)
        print(row.get("text"), row.get("error"), "\n-----")
    out = pathlib.Path(__file__).parent / "templates.json"
    out.write_text(json.dumps(rows, ensure_ascii=False, indent=1))


main()
