#!/usr/bin/env python3
"""Writes tests/golden/chat/*.json: chat templates, one for each construct, and what transformers makes of them.

    pip install transformers==5.24.0 jinja2==3.1.6      (no torch: the renderer alone)
    python3 scripts/make_chat_golden.py

A case of `constructs.json` is a template, the name of a conversation, and either the text, with the bytes that `{% generation %}` blocks
print where transformers places them rightly, or the error.
"""
import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "chat"
NOW = datetime.datetime(2026, 3, 5, 7, 8, 9)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather <at> a place & \"now\"",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Größe, 東京, it's"},
                "days": {"type": "array", "items": {"type": "integer"}},
                "limit": {"type": "number", "default": 1e-07, "maximum": 1e16, "minimum": 0.5},
            },
            "required": ["place"],
        },
    },
}
SHOP = {"name": "buy", "parameters": {"properties": {"items": {"type": "array"}, "keys": {"type": "string"}}, "empty": {}, "none": []}}
CONVERSATIONS = {
    "plain": {"messages": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": "Who wrote 'Emma'?"},
        {"role": "assistant", "content": "Jane Austen.\n"},
        {"role": "user", "content": "When? <b>&amp;</b> \"quote\" \\ tab\there"},
        {"role": "assistant", "content": " In 1815. Été, 東京, 🙂"},
    ]},
    "tools": {"messages": [
        {"role": "user", "content": "Weather in Bath, and buy 2 pens"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "id": "a1", "function": {"name": "get_weather", "arguments": {"place": "Bath", "days": [1, 2], "limit": 2.0}}},
            {"type": "function", "function": {"name": "buy", "arguments": {"items": ["pen", None, True], "price": 1e-05}}},
        ]},
        {"role": "tool", "name": "get_weather", "content": "{\"rain\": 0.25}"},
        {"role": "assistant", "content": "Some rain."},
    ], "tools": [WEATHER, SHOP]},
    "reasoning": {"messages": [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "reasoning": "It is even.", "content": "4"},
        {"role": "user", "content": "And 3?"},
        {"role": "assistant", "content": "7", "thinking": "Add three.", "reasoning_content": None, "extra": None},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "reasoning_content": "Yes.", "thinking": "No.", "content": "Sure"},
    ], "variables": {"enable_thinking": True, "style": {"tone": "dry", "levels": [1, 2.5, -3]}}},
    "parts": {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "Look:\u00a0it's"}, {"type": "image"}, {"type": "text", "text": "here\n"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A \"cat\"."}]},
    ]},
    "empty": {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]},
}

LOOP = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
            {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Each: name, conversations, template.
CASES = [
    ("loop", "plain parts empty", LOOP),
    ("one trailing newline goes", "empty", "a\n\n"),
    ("windows newlines", "plain", "{% for m in messages %}\r\n{{ m.role }}\r\n{% endfor %}\rend\r\n"),
    ("block tags take their line", "plain", "start\n  {% if true %}\n  yes\n  {% endif %}\nend {% if true %}\nx{% endif %}\n"),
    ("dashes", "plain", "a \n {%- if true -%} \n b \n {%- endif -%} \n c {{- ' d ' -}} \n e {#- gone -#} \n f"),
    ("pluses", "plain", "a\n  {%+ if true +%}\n b\n  {%+ endif +%}\n c {{ 1 }}\n d"),
    ("comments", "plain", "a\n  {# gone #}\nb {# {% generation %} #}\nc {#- {{ no }} -#}\n d"),
    ("raw blocks", "plain", "a\n  {% raw %}\n {{ kept }} {% generation %}\n  {% endraw %}\nb {%- raw -%}\n {% if %} {%- endraw -%}\n c"),
    ("tags in texts", "plain", "{{ '{% generation %} %} }} {{' }}{% if '%}' == \"%}\" %}same{% endif %}{{ {'a': {'b': 1}} }}"),
    ("loop variables", "plain", "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}{{ loop.revindex0 }}"
     "{{ loop.previtem.role if loop.previtem is defined }}>{{ loop.nextitem.role if not loop.last }} {{ loop.cycle('a', 'b') }};{% endfor %}"),
    ("loop controls", "plain", "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}"
     "{% if loop.index == 3 %}{% break %}{% endif %},{% endfor %}"),
    ("loop filters and else", "plain", "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}"
     "{% for m in messages if m.role == 'x' %}{% else %}none{% endfor %}"),
    ("recursive loops", "tools", "{% for t in [[1, [2, 3]], 4] recursive %}{{ loop(t) if t is not number else t }}-{% endfor %}"),
    ("scopes", "plain", "{% set x = 'out' %}{% for m in messages %}{{ x }}{% set x = m.role %}{{ x }};{% endfor %}{{ x }}"
     "{% if true %}{% set x = 'if' %}{% endif %}{{ x }}{% with x = 1, y = 2 %}{{ x }}{{ y }}{% endwith %}{{ x }}"),
    ("fresh variables in each turn", "plain", "{% for m in messages %}{% if seen is defined %}again{% endif %}{% set seen = 1 %}{% endfor %}"),
    ("namespace", "plain", "{% set ns = namespace(system='', count=0, items=[], last=none) %}{% for m in messages %}"
     "{% if m.role == 'system' %}{% set ns.system = m.content %}{% endif %}{% set ns.count = ns.count + 1 %}{% set ns.items = ns.items + [m.role] %}"
     "{% endfor %}{{ ns.system | trim }}{{ ns.count }}{{ ns.items }}{{ ns.last }}{{ ns.nothing is defined }}"),
    ("macros", "plain", "{% macro turn(role, text='none', end='!') %}[{{ role }}|{{ text }}{{ end }}]{{ caller() if caller }}{% endmacro %}"
     "{{ turn('a') }}{{ turn('b', end='?', text='t') }}{{ turn(role='c') | upper }}{% call turn('d') %} inner {{ messages | length }} {% endcall %}"),
    ("macros within macros", "tools", "{% macro show(value, depth=0) %}{% if value is mapping %}{% for k, v in value.items() %}\n{{ '  ' * depth }}{{ k }}:"
     "{{ show(v, depth + 1) }}{% endfor %}{% elif value is string %}{{ value }}{% elif value is iterable %}{% for v in value %}{{ show(v, depth) }},{% endfor %}"
     "{% else %}{{ value }}{% endif %}{% endmacro %}{{ show(tools[0]) }}"),
    ("set blocks", "plain", "{% set text %}\n  {{ messages[0].content }}\n{% endset %}[{{ text }}]{% set loud | trim | upper %} a {{ text }} {% endset %}[{{ loud }}]"),
    ("filter blocks", "plain", "{% set x = 'out' %}a\n  {%- filter upper | trim %} {{ messages[0].role }}{% set x = 'in' %}{{ x }} {% endfilter -%} \n {{ x }}\n  {% filter replace('i', 'o') %}\n  x\n  {% endfilter %}\nb"),
    ("first message", "plain tools", "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set loop_messages = messages[1:] %}"
     "{% else %}{% set loop_messages = messages %}{% endif %}{{ system is defined }}{{ loop_messages | length }}{{ loop_messages is sequence }}"
     "{% for m in loop_messages %}{{ m.role }}{% endfor %}"),
    ("slices", "plain", "{{ messages[-1].role }}{{ (messages[1:-1] | list) | length }}{{ messages[::-1][0].role }}{{ messages[3:][0].content[:4] }}"
     "{{ 'héllo'[1:3] }}{{ 'héllo'[::-1] }}{{ 'abc'[-1] }}{{ 'abc'[5:] }}{{ messages[:0] | length }}{{ [1, 2, 3, 4][1::2] }}{{ (1, 2, 3)[:2] }}"),
    ("string methods", "plain", "{{ ' a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xxaxx'.lstrip('x') }}|{{ 'ab\\n'.rstrip() }}|{{ 'a,b,c'.split(',') }}|{{ 'a,b,c'.split(',', 1) }}|"
     "{{ ' a  b c '.split() }}|{{ ' a  b c '.split(none, 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ ' a  b c '.rsplit(maxsplit=1) }}|{{ 'a b'.split(sep=' ') }}|"
     "{{ 'a</think>b'.split('</think>')[-1] }}|{{ 'abc'.startswith('a') }}{{ 'abc'.endswith(('x', 'bc')) }}{{ 'abc'.startswith('b', 1) }}|{{ 'aXbX'.replace('X', '-', 1) }}|"
     "{{ 'ab'.upper() }}{{ 'AB'.lower() }}{{ 'aB'.capitalize() }}{{ 'aB'.swapcase() }}|{{ \"they're bill_g's ÉTÉ\".title() }}|{{ 'abcb'.find('b') }}{{ 'abcb'.rfind('b') }}{{ 'é b'.index('b') }}"
     "{{ 'abcb'.find('b', 2) }}{{ 'abc'.find('z') }}{{ 'banana'.count('an') }}{{ 'banana'.count('a', 2) }}|{{ ','.join(['a', 'b']) }}"),
    ("more string methods", "plain", "{{ 'prefix-x'.removeprefix('prefix-') }}|{{ 'x.py'.removesuffix('.py') }}|{{ 'a=b=c'.partition('=') }}|{{ 'a=b=c'.rpartition('=') }}|{{ 'ab'.partition('=') }}|"
     "{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'ab'.center(5, '*') }}|{{ 'a\\nb\\r\\nc\\u2028d'.splitlines() }}{{ 'a\\nb\\n'.splitlines(true) }}|"
     "{{ 'abc'.isalpha() }}{{ '12'.isdigit() }}{{ ' \\t'.isspace() }}{{ 'aB1'.isalnum() }}{{ 'AB'.isupper() }}{{ 'Straße'.casefold() }}|{{ '{} and {x}'.format(1, x='y') }}"),
    ("percent", "plain", "{{ '%s has %d of %05.2f%%' % ('a', 3, 1.5) }}|{{ '%s' % messages[0].role }}|{{ '%s!' % 'b' | upper }}|{{ 'x%sx' % none ~ '-' }}|{{ '%s' % [1, 'a'] }}|{{ 7 % 4 }}|"
     "{{ '%03d' % (messages | length) }}|{{ '%s, %s' | format('a', 'b') }}{% if '%s' % 1 == '1' %}yes{% endif %}"),
    ("neighbouring texts", "plain", "{{ 'a' 'b' \"c\" }}{{ ('a' 'b').upper() }}{% set x = 'd' 'e' %}{{ x }}{{ ['a' 'b', 'c'] }}"),
    ("dictionary methods", "tools", "{% for tool in tools %}{{ tool.get('type', 'none') }}{{ tool.get('nothing') }}{{ tool.keys() | list }}{{ tool.copy() == tool }}{% for k, v in tool.items() %}{{ k }}{% endfor %}"
     "{{ tool.values() | list | length }}{% endfor %}{{ 'name' in tools[1] }}{{ 'x' not in tools[1] }}{{ {'a': 1, 2: 'b'}.items() | list }}{{ dict(a=1, b='c') }}{{ dict([('x', 1)], y=2) }}{{ dict.fromkeys(['q']) }}"),
    ("keys named like methods", "tools", "{% set p = tools[1].parameters.properties %}{{ p['items'].type }}{{ p['items'] is mapping }}{{ p.items is mapping }}{{ p.items is defined }}{% if p.values %}method{% endif %}"
     "{% for name, value in p.items() %}{{ name }}={{ value.type }};{% endfor %}{% set q = tools[0].function.parameters.properties.place %}{{ q['items'] is mapping }}{% if q['items'] %}stands in{% endif %}"
     "{{ q['items']['type'] is defined }}{{ 'items' in q }}{{ q.get('items') }}{{ ['items'][0] }}{% for x in ['keys'] %}{{ x }}{% endfor %}{{ q['pop'] is defined }}{{ tools[1]['none'] }}"),
    ("nested access", "reasoning", "{{ tools[0].function['parameters'].properties.limit.maximum if tools }}{{ style.levels[-1] if style is defined }}{{ style['tone'] if style }}{{ style.none is defined }}{{ messages[0]['x'] }}|{{ nothing }}|{{ messages[9] is defined }}"),
    ("tojson", "tools plain", "{{ tools | tojson }}{{ messages[-1] | tojson }}{{ {'b': 1.0, 'a': [true, none, 1e-7, 1e16, 123456789.125], 3: -0.0} | tojson }}{{ '<&>\\u00e9\\u2028' | tojson }}{{ (1, 'a') | tojson }}{{ messages[0].content | tojson }}"),
    ("tojson with arguments", "tools", "{{ tools[0] | tojson(indent=2) }}|{{ tools[1] | tojson(indent=4, ensure_ascii=false) }}|{{ tools[0].function.parameters | tojson(ensure_ascii=true) }}|"
     "{{ tools[1] | tojson(separators=(',', ':')) }}|{{ tools[1] | tojson(sort_keys=true, indent='\\t') }}|{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=0) }}{{ '🙂' | tojson(true) }}{{ tools[1] | tojson(indent=none) }}"),
    ("tools or none", "tools plain", "{{ tools is defined }}{{ tools is none }}{% if tools %}{{ tools | length }}{% endif %}{{ documents is none }}{{ tools is not none and tools is iterable }}{% if tools is defined and tools is sequence %}list{% endif %}"),
    ("tool calls", "tools", "{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}{% for call in m.tool_calls %}{% if call.function %}{% set call = call.function %}{% endif %}"
     "{{ '{\"name\": \"' ~ call.name ~ '\", \"arguments\": ' }}{{ call.arguments | tojson }}{% for k, v in call.arguments | items %}{{ k }}={{ v | tojson if v is mapping or (v is sequence and v is not string) else v | string }};{% endfor %}"
     "{{ call.arguments.price }}{% endfor %}{% elif m.role == 'tool' %}{{ m.name }}{{ m.content }}{% endif %}{{ 'content' in m }}{% endfor %}"),
    ("reasoning", "reasoning", "{% for m in messages %}{{ m.role }}:{% for k, v in m.items() %}{{ k }}={{ v }},{% endfor %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.thinking }}{{ enable_thinking }}\n{% endfor %}"),
    ("parts", "parts plain", "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{% if part.type == 'text' %}{{ part['text'] | trim }}{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endif %}{% endfor %}{{ messages[0].content }}"),
    ("none and empty content", "tools empty", "{% for m in messages %}{{ m.content }}{{ m.content is none }}{{ m.content is defined }}{{ m['content'] or 'empty' }}{{ m.content | default('absent') }}{{ m.content | default('absent', true) }};{% endfor %}"),
    ("printed values", "tools", "{{ none }}{{ true }}{{ 1.0 }}{{ 1e-5 }}{{ 1e22 }}{{ 0.1 + 0.2 }}{{ [1.5, none, 'a\\'b', \"q\\\"\", 'x\\u00a0\\u200b\\u0301é\\n', 1e-7] }}{{ {'a': {'b': []}} }}{{ (1,) }}{{ () }}{{ -7 // 2 }}{{ -7 % 3 }}{{ 2 ** 10 }}{{ 7 / 2 }}{{ tools[0].function.parameters.properties.limit }}"),
    ("operators", "plain", "{{ 1 ~ 'a' ~ none ~ true ~ 1.5 }}{{ 'a' * 3 }}{{ [1] + [2] }}{{ 'a' in 'cat' }}{{ 2 in [1, 2] }}{{ 1 < 2 < 3 }}{{ not 1 == 2 }}{{ 'a' if false }}{{ '' or 'b' }}{{ 1 and 0 }}{{ 'a' < 'b' }}{{ 1 == 1.0 }}{{ '1' == 1 }}{{ true == 1 }}{{ -2 | abs }}"),
    ("tests", "tools parts", "{% for x in ['a', 1, 1.5, true, none, [], {}, (1,), messages[1:], nothing] %}{{ x is string }}{{ x is number }}{{ x is integer }}{{ x is float }}{{ x is boolean }}{{ x is none }}{{ x is sequence }}{{ x is iterable }}{{ x is mapping }}{{ x is defined }}{{ x is true }}{{ x is callable }};{% endfor %}"
     "{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ 'a' is in ['a'] }}{{ 1 is eq 1 }}{{ 'A' is upper }}{{ range is callable }}{{ none is not sameas true }}"),
    ("filters", "tools plain", "{{ ' a ' | trim }}{{ 'xax' | trim('x') }}{{ none | trim }}{{ [1, 2] | join(', ') }}{{ messages | map(attribute='role') | join('|') }}{{ messages | map(attribute='name', default='-') | list }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
     "{{ messages | rejectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | list }}{{ messages | selectattr('tool_calls', 'defined') | list | length }}{{ ['b', 'A', 'c'] | sort }}{{ [3, 1] | max }}{{ [1, 2] | sum }}{{ 'abc' | first }}{{ [1, 2] | last }}{{ 'abc' | length }}"
     "{{ [1, 1, 2] | unique | list }}{{ 'abc' | reverse }}{{ [1, 2, 3] | batch(2) | list }}{{ 'a b' | title }}{{ 'aB' | capitalize }}{{ 'a<b>\"\\'&' | e }}{{ '<b>' | safe }}{{ 'abc' | list }}{{ {'b': 1, 'A': 2} | dictsort }}{{ 'a-b' | replace('-', '+') }}{{ [0, 1, none] | select | list }}{{ ['a', 'B'] | map('upper') | list }}"),
    ("numbers from texts", "plain", "{{ '12' | int }}{{ ' 3.9 ' | int }}{{ 'x' | int }}{{ 'x' | int(-1) }}{{ 2.7 | int }}{{ 'ff' | int(base=16) }}{{ '1.5' | float }}{{ 'x' | float(default=2.5) }}{{ 2.345 | round(2) }}{{ 2.5 | round }}{{ 7 | round }}{{ 2.1 | round(0, 'ceil') }}{{ true | int }}{{ none | int }}"),
    ("indent", "tools", "{{ 'a\\nb\\n\\nc\\n' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\n\\nb' | indent(2, blank=true) }}|{{ 'a\\nb' | indent('> ') }}|{{ '' | indent(first=true) }}|{{ tools[1] | tojson(indent=1) | indent(width=3) }}"),
    ("default", "plain", "{{ nothing | default('a') }}{{ none | default('b') }}{{ none | default('c', true) }}{{ '' | default('d', boolean=true) }}{{ '' | d('e', boolean=false) }}{{ nothing | default(none) }}{{ nothing | default(default_value=[]) }}{{ nothing | default }}"),
    ("time", "plain", "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d %H:%M:%S.%f %p %I %j %A %B %a %y %U %w') }}|{{ strftime_now('%-d %-H %e %D %F %T %c %x %X %% %Z%z') }}"),
    ("special tokens", "plain", "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ pad_token is defined }}{{ bos_token + 'x' }}"),
    ("generation prompt", "plain", "{{ add_generation_prompt }}{% if add_generation_prompt %}<|assistant|>{% endif %}{{ 'x' if not add_generation_prompt }}"),
    ("cycler and joiner", "plain", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{% set j = joiner('; ') %}{{ j() }}x{{ j() }}y"),
    ("ranges", "plain", "{% for i in range(3) %}{{ i }}{% endfor %}{{ range(5, 0, -2) | list }}{{ range(messages | length)[-1] }}"),
    ("unpacking", "tools", "{% set a, b = 1, 'x' %}{{ a }}{{ b }}{% for k, v in [('p', 1), ('q', 2)] %}{{ k }}{{ v }}{% endfor %}{% set first, rest = messages[0], messages[1:] %}{{ rest | length }}{{ first.role }}"),
    ("blocks", "plain", "a{% block turn %} {{ messages[0].role }} {% endblock %}b"),
    ("refused by the template", "plain", "{% for m in messages %}\n{% if m.role == 'system' %}{{ raise_exception('No system message: ' + m.role) }}{% endif %}\n{% endfor %}"),
    ("refused without a text", "plain", "{{ raise_exception(none) }}"),
    ("numbers with exponents", "tools", "{% set limit = tools[0].function.parameters.properties.limit %}{{ 'a' ~ limit.default ~ limit.maximum }}{{ [limit.default] | join(',') }}{{ limit }}{{ limit | string }}{{ limit.default is number }}"
     "{{ limit.default is float }}{{ limit.default is callable }}{{ limit.default | float }}{{ limit.maximum | int }}{{ '%s' % limit.default }}{{ '%s' % limit }}{{ limit | tojson }}{{ limit | upper }}"),
    ("loops over what is not there", "plain", "{% for x in nothing %}{{ x }}{% else %}none{% endfor %}"),
    ("loops over tuples", "plain", "{% for x in 1, 2 %}{{ x }}{% endfor %}{% for k, v in {'a': 1}.items() if v in [1] %}{{ k }}{% endfor %}{% for x in ([3] if true else none) if x %}{{ x }}{% endfor %}"),
    ("a loop over none", "plain", "{% for tool in tools %}{{ tool }}{% endfor %}"),
    ("none as a list", "plain", "{{ none | list }}"),
    ("attribute of nothing", "plain", "a\n{{ nothing.attribute }}"),
    ("item of nothing", "plain", "{{ messages[0].nothing['x'] }}"),
    ("keys of nothing", "plain", "{{ messages[0].nothing.items() }}"),
    ("sum with nothing", "plain", "{{ 'a' + nothing }}"),
    ("sum of a text and parts", "parts", "{{ 'a' + messages[0].content }}"),
    ("sum of a text and none", "plain", "{{ 'a' + none }}"),
    ("nothing as JSON", "plain", "{{ nothing | tojson }}"),
    ("unknown filter", "plain", "{{ 'a' | no_such_filter }}"),
    ("unknown function", "plain", "{{ no_such_function() }}"),
    ("unknown method", "plain", "{{ 'a'.no_such_method() }}"),
    ("private attributes of namespaces", "plain", "{% set ns = namespace(_x=1) %}"),
    ("changes of lists", "plain", "{{ messages.append(1) }}"),
    ("open block", "plain", "a\n{% if true %}\nb"),
    ("open tag", "plain", "a\nb {{ messages"),
]

GENERATION = [
    ("generation of ChatML", "plain empty", CHATML),
    ("generation within a line", "plain", "{% for m in messages %}{% if m.role == 'assistant' %}[{% generation %}{{ m.content }}</s>{% endgeneration %}]{% else %}{{ m.content }}{% endif %}{% endfor %}"),
    ("generation has its own scope", "plain", "{% set x = 'out' %}{% for m in messages %}{% generation %}{% set x = m.role %}{{ x }}{% endgeneration %}{{ x }};{% endfor %}{{ x }}"),
    ("generation over lines", "plain", "{% for m in messages %}{%-\n generation\n -%} {{ m.role }}{{ loop.index }} {%-\n\nendgeneration %}\n.{% endfor %}"),
    ("two blocks in a turn", "tools", "{% for m in messages %}{{ m.role }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}|{% generation %}{{ m.tool_calls | tojson if m.tool_calls }}{% endgeneration %}{% endif %}{% endfor %}"),
]
# Whitespace around generation blocks, in all forms of the four signs.
for before in ("", "-", "+"):
    for after in ("", "-", "+"):
        GENERATION.append((
            f"generation{before or '.'}{after or '.'}", "plain",
            f"{{% for m in messages %}}\n  <{{{{ m.role }}}}>\n  {{%{before} generation {after}%}}\n  {{{{ m.content }}}}\n  {{%{before} endgeneration {after}%}}\n\n|{{% endfor %}}"))
# Blocks that are captured: transformers places them wrongly, so only their text is kept.
CAPTURED = [
    ("generation in a macro", "plain", "{% macro turn(m) %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}"),
    ("generation in a set block", "plain", "{% for m in messages %}{% set turn %}<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}{% endset %}{{ turn }}{% endfor %}"),
    ("generation that is trimmed", "plain", "{% for m in messages %}{% set turn %}{% generation %}{{ m.content }}{% endgeneration %}{% endset %}<{{ m.role }}>{{ turn | trim }}{% endfor %}"),
]


def render(template, conversation, generation_prompt):
    messages = chat_template_utils._normalize_chat_messages(conversation["messages"])
    texts, spans = chat_template_utils.render_jinja_template(
        conversations=[messages], tools=conversation.get("tools"), documents=None, chat_template=template,
        return_assistant_tokens_mask=True, add_generation_prompt=generation_prompt, **{**TOKENS, **conversation.get("variables", {})})
    return texts[0], [[len(texts[0][:end].encode()) for end in span] for span in spans[0] if span[0] < span[1]]


def case(name, template, conversation, generation_prompt, spans_are_right):
    made = {"name": name, "template": template, "conversation": conversation, "generation_prompt": generation_prompt}
    try:
        text, spans = render(template, CONVERSATIONS[conversation], generation_prompt)
    except Exception as error:  # whatever jinja2 or Python raises
        return made | {"error": f"{type(error).__name__}: {error}"}
    made["text"] = text
    if spans_are_right:
        made["generations"] = spans
    return made


cases = []
for table, spans_are_right in ((CASES, False), (GENERATION, True), (CAPTURED, False)):
    for name, conversations, template in table:
        for conversation in conversations.split():
            prompts = (False, True) if "add_generation_prompt" in template else (False,)
            cases += [case(name, template, conversation, prompt, spans_are_right) for prompt in prompts]

GOLDEN.mkdir(exist_ok=True)
golden = {
    "made_by": f"scripts/make_chat_golden.py, transformers {transformers.__version__}, jinja2 {jinja2.__version__}",
    "now": NOW.isoformat(), "special_tokens": TOKENS, "conversations": CONVERSATIONS, "cases": cases,
}
(GOLDEN / "constructs.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
print(f"{len(cases)} cases, {sum('error' in case for case in cases)} of them errors")
