#!/usr/bin/env python3
"""Writes tests/fixtures/chat/cases.json: chat templates, what they are given, and what PyPI transformers' own environment of jinja2 makes of it.

    python3 tools/make_chat_fixtures.py

The templates are tests/fixtures/chat/*.jinja (written for this project, in the styles of well-known models) and the small ones below. A case has
"template" (or "file"), the number of its "input", and either "expected" or "fails": true where jinja2 raises. Needs PyPI transformers 5 and jinja2 3.1.6 or later, no torch.
"""
import datetime
import glob
import json
import os
import random
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers.utils import chat_template_utils  # noqa: E402

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "fixtures", "chat")
NOW = 1753272000  # strftime_now's time, seconds since 1970


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, tz or datetime.timezone.utc).replace(tzinfo=None)


chat_template_utils.datetime = FixedTime


def render(template, variables):
    """The text, or the exception that jinja2 ends with."""
    try:
        return chat_template_utils._compile_jinja_template(template).render(**variables), None
    except Exception as error:  # any: the sandbox lets Python's own through
        return None, error


# Conversations.

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a place, \"now\" & later: it's <live>.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "Name of the city"}, "unit": {"type": "string", "enum": ["C", "F"]},
                                         "days": {"type": "integer", "default": 3, "nullable": True}}, "required": ["city"]}, "return": {"type": "number"}}},
    {"type": "function", "function": {"name": "add", "description": "Adds numbers.", "parameters": {
        "type": "object", "properties": {"values": {"type": "array", "items": {"type": "number"}}, "options": {"type": "object", "properties": {
            "exact": {"type": "boolean"}, "large": {"type": "integer", "maximum": 18446744073709551616}}}}, "required": ["values"]}}},
]
CALL = {"type": "function", "id": "call12345", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "wind": None, "rain": 0.5, "list": [1, "a", True]}}}


def conversations():
    user = {"role": "user", "content": "Hello, how are you?"}
    answer = {"role": "assistant", "content": "Fine, thank you.\n"}
    system = {"role": "system", "content": "  You are brief.  "}
    yield "one turn", {"messages": [user]}
    yield "system", {"messages": [system, user]}
    yield "two turns", {"messages": [system, user, answer, {"role": "user", "content": " And now? "}]}
    yield "ends with the assistant", {"messages": [user, answer]}
    yield "characters", {"messages": [{"role": "user", "content": "Grüße 中文 🙂 \"quoted\" \\ back </s> <b>&amp;\t\r\n end"}]}
    yield "empty content", {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}, {"role": "user", "content": "?"}]}
    yield "parts", {"messages": [{"role": "user", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]}]}
    yield "thinking", {"messages": [user, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes.", "reasoning_content": "Hm.", "thinking": "Hm."}, user]}
    yield "reasoning apart", {"messages": [user, {"role": "assistant", "content": "Yes.", "reasoning_content": "Long thought.\n"}, user, {"role": "assistant", "content": "No.", "reasoning_content": "Short."}]}
    yield "tools", {"messages": [system, user], "tools": TOOLS}
    yield "tool call", {"messages": [user, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "{\"temp\": 12}"}], "tools": TOOLS}
    yield "tool call, no content", {"messages": [user, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "12"},
                                                 {"role": "assistant", "content": "It is 12."}, user], "tools": TOOLS}
    yield "two tool calls", {"messages": [user, {"role": "assistant", "content": "I look.", "tool_calls": [CALL, {"type": "function", "id": "call67890", "function": {"name": "add", "arguments": {"values": [1, 2.5, -3e-7, 1e22]}}}]},
                                          {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "a"}, {"role": "tool", "name": "add", "tool_call_id": "call67890", "content": "b"}], "tools": TOOLS}
    yield "roles in disorder", {"messages": [answer, user, user]}
    yield "unknown role", {"messages": [{"role": "critic", "content": "Hm."}]}
    yield "developer", {"messages": [{"role": "developer", "content": "Be kind."}, user]}
    yield "documents", {"messages": [user], "documents": [{"title": "A", "text": "Text of a."}, {"title": "B", "text": "Text of b."}]}
    for name, options in {"no thinking": {"enable_thinking": False}, "thinking on": {"enable_thinking": True, "thinking": True}, "effort": {"reasoning_effort": "high", "model_identity": "You are X."},
                          "date": {"date_string": "1 Jan 2025"}}.items():
        yield name, {"messages": [system, user], **options}
    yield "nothing", {"messages": []}


SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def given(conversation, generates):
    """As transformers hands a conversation over."""
    return {**SPECIAL, "tools": None, "documents": None, "add_generation_prompt": generates, **conversation}


def random_value(rng, depth):
    kind = rng.randrange(10 if depth > 0 else 7)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 1, -7, 42, 10**12, 2**63 - 1, 2**64])
    if kind == 2:
        return rng.choice([0.5, 1e100, -2.5, 3.0, 1e-5, 123456789.125, 1e16, 1e15])
    if kind < 7:
        return rng.choice(["", "a", "Some Text", "it's", 'say "x"', "tab\tnew\nline", "é中🙂", "\u200b\x07", "a/b\\c", "<b>", "  padded  "])
    if kind < 8:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(["name", "a b", "é", "z", "items", "1", "key"]): random_value(rng, depth - 1) for _ in range(rng.randrange(4))}


def random_conversation(rng):
    """A conversation as people have them: roles in turn, at times parts, tools, calls, thoughts; at times out of order."""
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": rng.choice(["system", "system", "system", "developer"]), "content": random_text(rng)})
    for _ in range(rng.randrange(1, 5)):
        content = random_text(rng)
        if rng.random() < 0.15:
            content = [{"type": "text", "text": random_text(rng)} for _ in range(rng.randrange(1, 3))]
        messages.append({"role": "user", "content": content})
        answer = {"role": "assistant", "content": random_text(rng)}
        if rng.random() < 0.2:
            answer["reasoning_content"] = answer["thinking"] = random_text(rng)
        if rng.random() < 0.15:
            answer["content"] = "<think>" + random_text(rng) + "</think>" + random_text(rng)
        if rng.random() < 0.25:
            calls = [{"type": "function", "id": "call%05d" % rng.randrange(100000), "function": {"name": rng.choice(["get_weather", "add"]), "arguments": {
                rng.choice(["city", "days", "x"]): random_value(rng, 2) for _ in range(rng.randrange(3))}}} for _ in range(rng.randrange(1, 3))]
            answer["tool_calls"] = calls
            if rng.random() < 0.3:
                del answer["content"]
            messages.append(answer)
            for call in calls:
                messages.append({"role": "tool", "name": call["function"]["name"], "tool_call_id": call["id"], "content": random_text(rng)})
            continue
        messages.append(answer)
    if rng.random() < 0.6 and messages[-1]["role"] == "assistant":
        messages.pop()
    if rng.random() < 0.05:
        rng.shuffle(messages)
    conversation = {"messages": messages}
    if rng.random() < 0.4:
        conversation["tools"] = rng.choice([TOOLS, TOOLS[:1], [{"type": "function", "function": {"name": "f", "description": random_text(rng), "parameters": {
            "type": "object", "properties": {"p": {"type": rng.choice(["string", "object", ["string", "null"]]), "x": random_value(rng, 2)}}}}}]])
    if rng.random() < 0.2:
        conversation["enable_thinking"] = rng.random() < 0.5
    return conversation


def random_text(rng):
    return "".join(rng.choice(["Hello", " ", "world", "\n", ".", "é", "中", "'", '"', "{", "}", "</think>", "1", "\t", "Q: ", "🙂"]) for _ in range(rng.randrange(12)))


# Small templates, one a line, about one thing each; ⏎ is a line end.

VALUES = {"s": "Some Text", "e": "", "n": 3, "f": 2.5, "t": True, "z": None, "l": [3, 1, 2], "d": {"b": 1, "a": "x", "items": 5}, "m": [{"role": "user", "n": 2}, {"role": "tool"}, {"role": "user", "n": 1}],
          "u": "é中🙂ß", "w": " \t\n a b \u00a0", "big": 2**64, "q": "it's \"q\"\n"}

SMALL = """
{{ s }}|{{ e }}|{{ n }}|{{ f }}|{{ t }}|{{ z }}|{{ l }}|{{ d }}|{{ u }}|{{ big }}|{{ nothing }}|{{ q }}
{{ [s, e, n, f, t, z, u, q, big, w] }}
{{ (1,) }}{{ () }}{{ (1, 'a') }}{{ 1, 2 }}
{{ nothing.x }}
{{ d.x }}{{ d.x is defined }}{{ d['x'] is undefined }}
{{ d.x.y }}
{{ d['items'] }}{{ d.a }}{{ d['a'] }}{{ d.b + 1 }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{{ d.keys() }}{{ d.values() }}{{ d.items() }}
{{ d.get('a') }}{{ d.get('zz') }}{{ d.get('zz', 7) }}
{{ l.append(1) }}
{{ d.pop('a') }}
{{ d.update({}) }}
{{ 1 + 2 * 3 - 4 / 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ 7.5 // 2 }}|{{ -7.5 % 2 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1e3 }}|{{ 1.0 }}|{{ 1e16 }}|{{ 123456789012345680.0 }}|{{ 0.0001 }}|{{ 0.00001 }}|{{ 1e-7 }}|{{ 1_000 }}|{{ 0x1f }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1.5e2 }}
{{ 'a' 'b' }}{{ "x" * 3 }}{{ 3 * 'ab' }}{{ [1] * 2 }}{{ [1] + [2] }}{{ (1,) + (2,) }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ [1] + (1,) }}
{{ 'a' ~ 1 ~ none ~ true ~ nothing }}
{{ 'x' < 'y' }}{{ 1 < 2 < 3 }}{{ 1 < 2 > 3 }}{{ 1 == 1.0 == true }}{{ 'a' == 1 }}{{ [1, 2] < [1, 3] }}{{ (1, 2) == (1, 2) }}{{ [1] == (1,) }}{{ {'a': 1} == {'a': 1.0} }}{{ none == nothing }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ 'b' in 'abc' }}{{ 'x' not in 'abc' }}{{ 1 in [1, 2] }}{{ 'a' in d }}{{ 5 in d.values() }}{{ 'a' in nothing }}{{ '' in '' }}
{{ 1 in 'abc' }}
{{ 1 in 5 }}
{{ not t }}{{ not e }}{{ t and s }}{{ e or s }}{{ e and s }}{{ not not l }}{{ z or nothing or 'last' }}{{ (t and not e) or z }}
{{ 'yes' if t else 'no' }}{{ 'yes' if e else 'no' }}{{ 'yes' if e }}{{ ('a' if e) is defined }}{{ 1 if e else 2 if e else 3 }}
{{ s[0] }}{{ s[-1] }}{{ s[100] }}{{ u[1] }}{{ u[-1] }}{{ s[1:3] }}{{ s[:-2] }}{{ s[::-1] }}{{ u[::2] }}{{ u[1:] }}{{ s[5:2] }}{{ s[-100:100] }}{{ s[::-2] }}{{ u[-3:-1] }}
{{ l[0] }}{{ l[-1] }}{{ l[9] }}{{ l[1:] }}{{ l[::-1] }}{{ l[:1] }}{{ l[5:] }}{{ l[-2:] }}{{ (1, 2, 3)[1:] }}{{ l[::2] }}{{ l[2:0:-1] }}
{{ l[::0] }}
{{ n[0] }}{{ n[1:] }}
{{ l['a'] }}{{ l.0 }}{{ m.0.role }}{{ m[0]['role'] }}
{{ s.upper() }}{{ s.lower() }}{{ s.title() }}{{ s.capitalize() }}{{ s.swapcase() }}{{ u.upper() }}{{ 'ÉA'.lower() }}{{ "they're bill's 3rd".title() }}{{ 'éa ß'.capitalize() }}
{{ w.strip() }}|{{ w.lstrip() }}|{{ w.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcab'.lstrip('ab') }}|{{ 'abc'.rstrip('cb') }}|{{ 'éaé'.strip('é') }}|{{ 'a'.strip('') }}|{{ ' a '.strip(none) }}
{{ 'a,b,,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a b c'.split(' ', 1) }}{{ 'a b c'.rsplit(' ', 1) }}{{ ' a b  c '.split(none, 1) }}{{ ' a b  c '.rsplit(none, 1) }}{{ 'a'.split('x') }}{{ ''.split(',') }}{{ ''.split() }}{{ 'a-b'.split(sep='-') }}{{ 'a b c d'.split(maxsplit=2) }}
{{ 'abc'.split('') }}
{{ '</think>x</think>y'.split('</think>')[-1] }}{{ 'a\\nb\\r\\nc\\n\\nd'.splitlines() }}{{ 'a\\nb\\n'.splitlines(true) }}{{ ''.splitlines() }}
{{ s.startswith('Some') }}{{ s.endswith(('x', 'Text')) }}{{ s.startswith(('a', 'b')) }}{{ s.startswith('Te', 5) }}{{ s.endswith('me', 0, 4) }}{{ s.startswith('') }}
{{ s.startswith(1) }}
{{ s.find('e') }}{{ s.rfind('e') }}{{ s.find('zz') }}{{ u.find('🙂') }}{{ s.count('e') }}{{ s.count('') }}{{ s.index('T') }}{{ s.find('e', 4) }}
{{ s.index('zz') }}
{{ s.replace('e', 'E') }}{{ s.replace('e', '', 1) }}{{ 'ab'.replace('', '-') }}{{ 'aaa'.replace('aa', 'b') }}{{ 'ab'.replace('', '-', 2) }}
{{ ', '.join(['a', 'b']) }}{{ ''.join([]) }}{{ '-'.join('abc') }}
{{ ','.join([1]) }}
{{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'a'.partition('=') }}{{ 'a'.rpartition('=') }}{{ 'unhappy'.removeprefix('un') }}{{ 'a.txt'.removesuffix('.txt') }}
{{ 'ab'.center(5) }}|{{ 'ab'.center(6, '*') }}|{{ 'a'.center(4, '-') }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'a\\tb'.expandtabs(4) }}
{{ 'abc'.isalpha() }}{{ '12'.isdigit() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}{{ ''.isalpha() }}{{ 'AB'.isupper() }}{{ 'ab1'.islower() }}{{ 'é'.isascii() }}{{ '1a'.isdecimal() }}{{ 'Ab'.isupper() }}
{{ '{} {}'.format(1, 'a') }}{{ '{1}{0}'.format('a', 'b') }}{{ '{x:>5}|{y:<4}|{z:^5}'.format(x=1, y='a', z='b') }}{{ '{:.2f}'.format(3.14159) }}{{ '{:,}'.format(1234567) }}{{ '{{}}'.format() }}{{ '{0[a]}'.format(d) }}{{ '{!r}'.format('a') }}
{{ '{:05d}|{:+d}|{:x}|{:X}|{:#x}|{:b}|{:e}|{:g}|{:%}|{:10.3f}|{:<10}|{:*^9}|{:_}'.format(42, 42, 255, 255, 255, 5, 12345.678, 0.00001, 0.25, 3.14159, 'ab', 'mid', 1234567) }}
{{ '{:{w}}|'.format('a', w=5) }}{{ '{:>{}}'.format('a', 4) }}
{{ '{}'.format() }}
{{ '{a}'.format() }}
{{ '{:d}'.format('a') }}
{{ '{'.format() }}
{{ '%s %d %5.2f %x %r %%' % ('a', 3, 2.345, 255, 'q') }}{{ '%s' % 'x' }}{{ '%s' % [1] }}{{ '%(a)s' % d }}{{ '%05d|%-5s|%5s|%+d|% d' % (42, 'a', 'b', 3, 4) }}{{ '%i' % 3.9 }}{{ '%c' % 'x' }}{{ '%.3s' % 'abcdef' }}{{ '%*d' % (5, 42) }}{{ '%e' % 12345.678 }}{{ '%g' % 0.0001 }}
{{ '%c%c%c%c' % (65, true, 128512, 'é') }}{{ '[%3c|%-3c|%03c]' % (65, 'b', 0x43) }}{{ '%c'|format(66) }}
{{ '%c' % 1114112 }}
{{ '%c' % -1 }}
{{ '%c' % 65.0 }}
{{ '%c' % 'ab' }}
{{ '%c' % '' }}
{{ '%a %a %r' % ('é🙂\x80', ['ü'], 'é') }}{{ '{!a} {!r} {!s:>4}'.format('é', 'é', 'é') }}{{ '%.3a' % 'éé' }}
{{ '%d %i %u' % (1e20, -1e22, 3.99) }}{{ '%d|%5d|%05d|%-5d|%+05d|% d|%.4d|%08.4d' % (true, 7, -7, 7, 7, 7, -7, 7) }}{{ '%#x|%#X|%#o|%+x|%08x|%#08x|%-8x|%.5x' % (255, 255, 8, 10, -255, 255, 255, 255) }}
{{ '%d' % (1e308 * 10) }}
{{ '%x' % 1.0 }}
{{ '%5.1f|%-8.2f|%08.2f|%+.0f|%#.0f|% .2e|%G|%g|%F|%08f|%-8f|' % (2.25, 2.5, -2.5, 0.5, 2, 12345.678, 1e-10, 1e20, 1e308 * 10, 1e308 * 10, -1e308 * 10) }}
{{ '%((a))s%%%%' % {'(a)': 1} }}{{ '%(a)05d|%(a)-5s|%(a)c' % {'a': 65} }}{{ '%s|%5s|%-5s|%05s|%.1s|%5.1s' % (none, 'é', 'é', 'a', 'éa', 'éa') }}{{ '%hd%ld%Ld' % (1, 2, 3) }}{{ 'a' % [] }}{{ 'a' % {} }}
{{ '%' % 1 }}
{{ '%z' % 1 }}
{{ '%5%' % () }}
{{ '%5%' % 1 }}
{{ '%(a' % {'a': 1} }}
{{ '%(b)s' % {'a': 1} }}
{{ 'a' % 1 }}
{{ '%-05d|%-08.2f|%0-8x|' % (7, 2.5, 255) }}{{ '%-*d|%*d|%.*f|%*.*f' % (5, 3, -5, 3, 2, 3.14159, 8, 3, 2.71828) }}
{{ '{:5}|{:05}|{:d}|{:.1f}|{:,}|{:x}|{:c}'.format(true, true, true, true, true, true, true) }}{{ '{:<05}|{:^05}|{:>05}|{:=05}|{:05}|{:é=6}|{:*<06}'.format(-5, -5, -5, -5, -5, -5, -5) }}{{ '{:05}|{:<05}|{:é^6}'.format('a', 'b', 'c') }}
{{ '{:08,}|{:07,}|{:010,.2f}|{:012,}|{:<012,}|{:,.1e}|{:_x}|{:_b}|{:015_b}|{:+,}'.format(1234, 1234, 1234.567, -1234567, 1234, 1234567.8, 1048575, 255, 255, 1234567) }}
{{ '{:c}|{:5c}|{:<5c}|{:n}|{:n}|{:5n}'.format(65, 128512, 66, 1234, 1.5, 7) }}{{ '{:z.1f}|{:z.0f}|{:.1f}|{:#.0f}|{:#g}|{:#x}|{:#010b}|{:%}|{:.0%}|{:G}|{:E}'.format(-0.01, -0.4, -0.01, 3.0, 3.0, 255, 5, 0.5, 0.125, 1e-9, 12345.0) }}{{ '{:.3}|{:10.3}|{:}|{:g}|{:.0e}|{:+}|{: }'.format(1.0, 1234.5, 1.5, 1e20, 15.0, 1.0, 2.0) }}
{{ '{:s}'.format(true) }}
{{ '{:,x}'.format(5) }}
{{ '{:,,}'.format(5) }}
{{ '{:.2}'.format(5) }}
{{ '{:+c}'.format(65) }}
{{ '{:c}'.format(1114112) }}
{{ '{:d}'.format(1.0) }}
{{ '{:5}'.format(none) }}
{{ '{:5}'.format([1]) }}
{{ '{:=5}'.format('a') }}
{{ '{:+}'.format('a') }}
{{ '{:,}'.format('a') }}
{{ '{:#}'.format('a') }}
{{ '{!x}'.format(1) }}
{{ '{0}{}'.format(1, 2) }}
{{ '{}{0}'.format(1, 2) }}
{{ '%d' % 'a' }}
{{ '%s' % (1, 2) }}
{{ '%s %s' % 1 }}
{{ 5 % 'a' }}
{{ s|upper }}{{ s|lower }}{{ s|title }}{{ "foo-bar (baz) it's"|title }}{{ s|capitalize }}{{ 5|upper }}{{ none|lower }}
{{ w|trim }}|{{ 'xax'|trim('x') }}|{{ 5|trim }}|{{ '  a'|trim|length }}
{{ s|length }}{{ l|length }}{{ d|count }}{{ u|length }}{{ nothing|length }}
{{ 5|length }}
{{ none|length }}
{{ l|first }}{{ l|last }}{{ s|first }}{{ s|last }}{{ []|first }}{{ ''|last }}{{ d|first }}{{ ([]|first) is defined }}
{{ l|join(', ') }}{{ l|join }}{{ m|join(',', attribute='role') }}{{ s|join('-') }}{{ ['a', none, 1.5]|join('/') }}{{ []|join(',') }}
{{ l|sort }}{{ l|sort(reverse=true) }}{{ ['b', 'A', 'c']|sort }}{{ ['b', 'A', 'c']|sort(case_sensitive=true) }}{{ [{'n': 2}, {'n': 1}]|sort(attribute='n') }}{{ [[2, 1], [1, 2]]|sort }}{{ 'cab'|sort }}
{{ [1, 'a']|sort }}
{{ l|reverse|list }}{{ s|reverse }}{{ l|unique|list }}{{ ['a', 'A', 'b']|unique|list }}{{ [1, 1.0, true, '1']|unique|list }}{{ l|min }}{{ l|max }}{{ l|sum }}{{ [1.5, 2]|sum }}{{ []|max }}{{ m|selectattr('n')|sum(attribute='n') }}{{ ['b', 'A']|min }}
{{ d|dictsort }}
{{ {'b': 1, 'A': 2, 'c': 0}|dictsort }}{{ {'b': 1, 'A': 2}|dictsort(true) }}{{ {'b': 1, 'A': 2}|dictsort(by='value') }}{{ {'b': 1, 'a': 2}|dictsort(reverse=true) }}
{{ d|items|list }}{{ nothing|items|list }}{% for k, v in d|items %}{{ k }}{% endfor %}
{{ l|items|list }}
{{ d|list }}{{ s|list }}{{ range(3)|list }}{{ (1, 2)|list }}{{ nothing|list }}{{ d.items()|list }}
{{ none|list }}
{{ m|map(attribute='role')|list }}{{ m|map(attribute='n', default=0)|list }}{{ l|map('string')|list }}{{ ['a', 'b']|map('upper')|join }}{{ ['a', 'b']|map('replace', 'a', 'x')|list }}{{ m|map(attribute='n')|map('default', 9)|list }}{{ [[1, 2], [3]]|map('first')|list }}
{{ l|map('nosuch')|list }}
{{ none|map('upper')|list }}{{ none|selectattr('a', 'equalto', 1)|list }}{{ none|reject('odd')|list }}{{ []|select|list }}
{{ m|selectattr('role', 'equalto', 'user')|list }}{{ m|rejectattr('role', '==', 'user')|list }}{{ m|selectattr('n', 'defined')|list|length }}{{ m|selectattr('n')|map(attribute='n')|list }}{{ l|select('>', 1)|list }}{{ l|reject('odd')|list }}{{ [0, 1, '', 'a']|select|list }}{{ [0, 1, '', 'a']|reject|list }}{{ m|selectattr('role', 'in', ['tool', 'x'])|list }}{{ [1, none]|select('none')|list }}
{{ nothing|default('d') }}{{ e|default('d') }}{{ e|default('d', true) }}{{ z|default('d') }}{{ z|default('d', true) }}{{ nothing|d }}{{ nothing|default }}{{ d.zz|default(1) }}{{ n|default(default_value=4, boolean=true) }}
{{ nothing.x|default('d') }}
{{ '42'|int }}{{ '4.7'|int }}{{ 'x'|int }}{{ 'x'|int(7) }}{{ 3.9|int }}{{ -3.9|int }}{{ '0x1f'|int(0, 16) }}{{ none|int }}{{ true|int }}{{ ' 12 '|int }}{{ '1_000'|int }}{{ '1e3'|int }}{{ ''|int }}{{ 'ff'|int(base=16) }}
{{ '4.5'|float }}{{ 'x'|float }}{{ 3|float }}{{ 'x'|float(1.5) }}{{ 'inf'|float }}{{ '1e5'|float }}{{ ' 2 '|float }}
{{ -5|abs }}{{ 5.5|abs }}{{ (-5)|abs }}{{ 2.5|round }}{{ 3.5|round }}{{ 2.675|round(2) }}{{ 42.55|round(1, 'floor') }}{{ 42.51|round(1, 'ceil') }}{{ 5|round }}{{ 42.5|round|int }}{{ 1234|round(-2) }}
{{ d|tojson }}{{ l|tojson }}{{ q|tojson }}{{ u|tojson }}{{ u|tojson(ensure_ascii=true) }}{{ none|tojson }}{{ true|tojson }}{{ 1.0|tojson }}{{ big|tojson }}{{ '<a href=\\'x\\'>&'|tojson }}{{ (1, 2)|tojson }}{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}{{ []|tojson }}{{ {}|tojson }}{{ '\\x00\\x1f\\x7f\\u2028'|tojson }}
{{ {'a': [1, {'b': []}], 'c': {}}|tojson(indent=2) }}{{ [1]|tojson(indent=0) }}{{ {'b': 1, 'a': [1]}|tojson(sort_keys=true) }}{{ {'b': 1, 'a': [1, 2]}|tojson(separators=(',', ':')) }}{{ [1, [2]]|tojson(indent='--') }}{{ {'a': 1}|tojson(indent=4, ensure_ascii=false) }}
{{ nothing|tojson }}
{{ range(3)|tojson }}
{{ d.items()|tojson }}
{{ l|map('string')|tojson }}
{{ s|replace('e', 'E') }}{{ s|replace('e', 'E', 1) }}{{ 5|replace('5', '6') }}{{ s|replace('e', 1) }}
{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(2, blank=true) }}|{{ 'a\\nb'|indent('> ') }}|{{ 'a\\nb'|indent(width=3, first=True) }}
{{ 5|indent }}
{{ 'foo bar baz qux'|truncate(9) }}|{{ 'foo bar baz qux'|truncate(9, true) }}|{{ 'foo bar baz qux'|truncate(11) }}|{{ 'foo bar baz qux'|truncate(11, false, '..', 0) }}|{{ 'short'|truncate }}
{{ 'a b  c'|wordcount }}{{ 'x'|center(5) }}|{{ [1, 2, 3, 4, 5]|batch(2)|list }}{{ [1, 2, 3]|batch(2, 0)|list }}{{ '%s-%s'|format('a', 1) }}{{ '%(x)s'|format(x=3) }}{{ s|string }}{{ 5|string }}
{{ '<b>'|e }}{{ '<b>'|escape|safe }}{{ '<b>'|safe }}{{ ('<b>'|safe) + '<i>' }}{{ '<i>' + ('<b>'|e) }}{{ ('<b>'|safe) ~ '<i>' }}{{ [('x'|safe)] }}{{ '<b>'|e|e }}{{ 'a'|safe is escaped }}
{{ s|nosuch }}
{% if e %}{{ s|nosuch }}{% endif %}fine
{{ s is string }}{{ n is string }}{{ n is number }}{{ f is number }}{{ t is number }}{{ n is integer }}{{ t is integer }}{{ f is integer }}{{ f is float }}{{ t is boolean }}{{ n is boolean }}{{ z is none }}{{ nothing is none }}{{ z is defined }}{{ nothing is undefined }}
{{ d is mapping }}{{ l is mapping }}{{ l is iterable }}{{ s is iterable }}{{ n is iterable }}{{ d is iterable }}{{ nothing is iterable }}{{ l is sequence }}{{ s is sequence }}{{ d is sequence }}{{ n is sequence }}{{ (1,) is sequence }}{{ range is callable }}{{ s is callable }}{{ (l|map('string')) is iterable }}{{ (l|map('string')) is sequence }}{{ d.items() is sequence }}
{{ t is true }}{{ 1 is true }}{{ e is false }}{{ false is false }}{{ 3 is odd }}{{ 3 is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 'a' is in 'abc' }}{{ 'a' is in ['b'] }}{{ 1 is eq 1 }}{{ 1 is ne 2 }}{{ 1 is lt 2 }}{{ 2 is ge 2 }}{{ 1 is sameas true }}{{ none is sameas none }}{{ 1 is equalto 1.0 }}{{ 'ab' is lower }}{{ 'AB' is upper }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ 'zz' is filter }}
{{ s is not string }}{{ not s is string }}{{ n is not none and n > 2 }}{{ s is string and n is number }}{{ nothing is not defined }}{{ d.a is defined and d.a == 'x' }}
{{ s is nosuch }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.depth }};{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}{% for i in nothing %}x{% else %}none{% endfor %}{% for c in 'ab' %}{{ c }}-{% endfor %}{% for k in d %}{{ k }},{% endfor %}
{% for i in none %}x{% endfor %}
{% for i in 5 %}x{% endfor %}
{% for i in l if i > 1 %}{{ i }}/{{ loop.length }}/{{ loop.index }} {% else %}no{% endfor %}{% for i in l if i > 9 %}x{% else %}no{% endfor %}
{% for a, b in [[1, 2], (3, 4)] %}{{ a }}{{ b }}{% endfor %}{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for (a, b) in [[1, 2]] %}{{ a + b }}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}{{ range(5, 0, -2)|list }}{{ range(2, 5)|list }}{{ range(3) }}{{ range(1, 9, 2) }}{{ range(3)[1] }}{{ range(0)|list }}
{{ range(100001)|list|length }}
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}{% if t %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{% set ns.c = 5 %}{{ ns.c }}{% set ns2 = namespace({'q': 1}, r=2) %}{{ ns2.q }}{{ ns2.r }}{{ ns['a'] }}
{% set d.x = 1 %}
{% set ns = namespace(_a=1) %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, e2) = [3, 4] %}{{ c }}{{ e2 }}{% set y %}block {{ s }}{% endset %}{{ y }}{{ y|length }}{% set y | upper | trim %} in {{ n }} {% endset %}{{ y }}
{% set a, b = 1 %}
{% macro f(a, b=2, c='x') %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(1, c='y') }}{{ f(b=5, a=4) }}{{ f() }}{{ f(*[7, 8]) }}{{ f(**{'a': 1, 'c': 2}) }}{{ f.name }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, z=2) }}
{% macro f(a) %}{{ a.x }}{% endmacro %}{{ f() }}
{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}{{ f() }}
{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}
{% macro r(n) %}{% if n > 0 %}{{ n }}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(5) }}
{% macro outer() %}{% macro inner(x) %}<{{ x }}{{ s }}>{% endmacro %}{{ inner(1) }}{% endmacro %}{{ outer() }}{{ inner is defined }}
{% macro w2(t2) %}<{{ t2 }}>{{ caller() }}</{{ t2 }}>{% endmacro %}{% call w2('b') %}in {{ s }}{% endcall %}{% macro w3() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) w3() %}{{ a }}-{{ b }}{% endcall %}
{% macro f() %}{{ x }}{% endmacro %}{% set x = 'later' %}{{ f() }}{% macro g() %}{% set x = 'own' %}{{ x }}{% endmacro %}{{ g() }}{{ x }}
{% macro f(x) %}{% for i in x %}{{ i }}{% endfor %}{% endmacro %}{{ f([1, 2])|upper }}{% set v = f('ab') %}{{ v }}{{ v is string }}
{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a', 'b')|upper %}banana{% endfilter %}{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set q2 = 5 %}{{ q2 }}{% endwith %}{{ a is defined }}{{ q2 is defined }}
{% generation %}gen {{ s }}{% set g = 1 %}{% endgeneration %}{{ g is defined }}
{% raw %}{{ not }} {% if %}{% endraw %}after{# comment {{ x }} #}done{#- c -#}  x
⏎  {% if t %}⏎    indented⏎  {% endif %}⏎end
  {%- if t -%}⏎   both⏎  {%- endif -%}⏎  end
a {%+ if t %} b{% endif +%}⏎c⏎  {%+ if t %}⏎x{% endif %}
{{ s -}}⏎   x {{- s }}  {{ n }}⏎{{ n }}⏎
    {# comment #}⏎line⏎x  {# not first #}⏎line {%- raw -%} ⏎ raw {%- endraw -%} ⏎ z{% raw %}⏎a⏎  {% endraw %}⏎b
{% if t %}a{% elif n %}b{% else %}c{% endif %}{% if e %}a{% elif n == 3 %}b{% else %}c{% endif %}{% if e %}a{% elif e %}b{% else %}c{% endif %}
{{ dict(a=1, b=2) }}{{ dict([['x', 1]]) }}{{ dict({'a': 1}, b=2) }}{{ {'a': 1, 'b': [1, {'c': none}]} }}{{ {1: 'a'}[1] }}{{ {'a': 1, 'a': 2} }}{{ {} }}{{ {(1, 2): 3} }}{{ dict.fromkeys(['a', 'b'], 0) }}
{{ {[1]: 2} }}
{% set j = joiner('; ') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}
{{ raise_exception('stop: ' ~ n) }}
{% if e %}{{ raise_exception('no') }}{% endif %}fine
{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%d %B %Y') }}|{{ strftime_now('%H:%M:%S %A %j') }}|{{ strftime_now('%b %-d, %Y') }}
{{ s.__class__ }}
{{ s.__class__.mro() }}
{{ [].__len__() }}
{{ (s|attr('upper'))() }}{{ ''.join(['x', s[0]]) }}{{ s|attr('nosuch') is defined }}
{{ 2.0.is_integer() }}
{{ nothing() }}
{{ s() }}
{{ d.nosuch() }}
{{ true and false or none }}{{ True }}{{ False }}{{ None }}{{ not none }}
{{ [1, 2][0] + (3, 4)[1] }}{{ -2 ** 2 }}{{ 2 ** 3 ** 2 }}{{ - 3 }}{{ +3 }}{{ 2 - -2 }}{{ -l[0] }}{{ not 1 == 2 }}
{{ 'a\\tb\\'c\\"\\x41\\u00e9\\\\' }}{{ "it's" }}{{ 'multi⏎line' }}⏎⏎
{{ 9223372036854775807 + 0 }}{{ -9223372036854775807 }}
{{ l|length > 2 and l|first == 3 }}{{ (l|length) * 2 }}{{ l|length * 2 }}{{ 'x' if l|length else 'y' }}{{ n ~ n + '1' }}
{{ 'a' ~ n + 1 }}
{{ m[0].role == 'user' and m[-1]['n'] == 1 }}{{ (m|last).role }}{{ m[0:1][0].role }}{{ (m[1:]|first)['role'] }}
{{ l.index(1) }}{{ l.count(3) }}{{ (1, 2).index(2) }}{{ [3]|first|string }}{{ l.copy() }}{{ d.copy() }}
{{ l.index(99) }}
{% for x in l %}⏎{% endif %}
{{ x
{% if %}x{% endif %}
{{ }}
{{ 1 + }}
{{ (1 }}
{{ a b }}
{% nosuch %}
{% if t %}unclosed
{# unclosed
{{ 'unclosed }}
{% set true = 1 %}
{{ "a" if }}
{{ [1, 2 }}
{{ {'a' 1} }}
{% for in l %}{% endfor %}
{% break %}
{{ s|upper|lower|title|length }}{{ s.upper().lower()[0].upper() }}{{ (s ~ '!')|upper }}{{ s|default('x')|upper }}
{{ loop is defined }}{% for i in l %}{% for j in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}
{% for i in l %}{% if loop.first %}F{% endif %}{% if not loop.last %},{% else %}.{% endif %}{% endfor %}
{%- for message in m %}⏎    {%- if message.role == 'user' %}⏎        {{- '<' + message['role'] + '>' }}⏎    {%- elif message.role == 'tool' %}⏎        {{- '[t]' -}}⏎    {%- endif %}⏎{%- endfor %}⏎
{{ 'é' == 'é' }}{{ u|upper|lower }}{{ 'x'.upper is callable }}{{ w|replace('\\n', '')|trim }}{{ u|tojson|length }}
{{ [[1, 2], [3, 4]]|map('join', '-')|join(';') }}
{{ [none, true, 1.5, 'x', [1], {'a': 1}]|tojson }}{{ [none, true, 1.5, 'x', [1], {'a': 1}]|string }}
{{ '\\u00e9\\n'|tojson }}{{ 1e400|string }}{{ 1.0e308 * 10 }}{{ (1e308 * 10)|tojson }}{{ 0.1 + 0.2 }}{{ 1 / 3 }}{{ 100.0 }}{{ 1e22 }}{{ 5e-324 }}{{ -0.0 }}
"""


def outcome(template, variables):
    text, error = render(template, variables)
    return {"fails": True} if error else {"expected": text}


def write_cases(path, cases):
    """`cases`: (what names the template, the template, variables). What they're given is written once."""
    inputs, written = [], []
    for names, template, variables in cases:
        if variables not in inputs:
            inputs.append(variables)
        written.append({**names, "input": inputs.index(variables), **outcome(template, variables)})
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps({"now": NOW, "inputs": inputs, "cases": written}, ensure_ascii=False, indent=0).replace("\n", ""))
    print(len(written), "cases,", sum("fails" in c for c in written), "fail")


def main():
    cases = [({"template": line.replace("⏎", "\n")}, line.replace("⏎", "\n"), VALUES) for line in SMALL.strip("\n").split("\n")]
    for path in sorted(glob.glob(os.path.join(FOLDER, "*.jinja"))):
        with open(path, encoding="utf-8", newline="") as file:
            template = file.read()
        for name, conversation in conversations():
            for generates in (True, False) if name in ("two turns", "tool call") else (True,):
                cases.append(({"file": os.path.basename(path), "name": name}, template, given(conversation, generates)))
    write_cases(os.path.join(FOLDER, "cases.json"), cases)


if __name__ == "__main__":
    main()
