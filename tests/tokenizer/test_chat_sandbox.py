"""Chat templates are programs of others: what they may use, and where they are stopped."""

from __future__ import annotations

from datetime import datetime

import pytest

from llama3.tokenizer import chat_sandbox
from llama3.tokenizer.chat_sandbox import MAX_SOURCE, TemplateFailed, compile_template

MESSAGES = [{"role": "user", "content": "hello <b>"}, {"role": "assistant", "content": "hi"}]
NOW = datetime(2024, 7, 26, 12, 30)


def text(source: str) -> str:
    return compile_template(source).text(
        MESSAGES, generation_prompt=False, tokens={"bos_token": "<s>", "eos_token": "</s>"}, now=NOW
    )


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("{{ bos_token }}{{ eos_token }}{{ pad_token }}", "<s></s>"),
        ("{{ messages[0].content | tojson }}", '"hello <b>"'),
        ("{{ {'b': 1, 'a': 'é'} | tojson(indent=1, sort_keys=true) }}", '{\n "a": "é",\n "b": 1\n}'),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{%- generation %}{{ messages[1].content }}{% endgeneration -%}  ", "hi"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ loop.length }}{% endfor %}", "2"),
        ("{% for m in messages[::-1] %}{{ loop.index0 }}{{ loop.previtem is defined }}{% endfor %}", "0False1True"),
        ("{% set ns = namespace(n=1) %}{% for i in range(3) %}{% set ns.n = ns.n * 2 %}{% endfor %}{{ ns.n }}", "8"),
        (
            "{% macro say(m) %}{{ m.role ~ m.content.split(' ')[0] }}{% endmacro %}{{ say(messages[0]) }}",
            "userhello",
        ),
        ("{{ messages | map(attribute='role') | join('+') }}", "user+assistant"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ tools is none and documents is none }}", "True"),
        ("{{ '%' ~ dict(a=1).items() | list | length }}{{ 'ab' * 2 }}{{ 7 % 4 }}", "%1abab3"),
        ("{{ 'x' if undefined_name is not defined }}{{ undefined_name }}", "x"),
    ],
)
def test_what_templates_use_works(source, wanted):
    assert text(source) == wanted


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ dict.__globals__.x }}",
        "{{ (messages | map('string')).gi_frame.f_globals }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ messages | map(attribute='__class__') | list | tojson }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ 1 }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ cycler.__init__.__globals__.os }}{{ cycler('x') }}",
        "{{ lipsum() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
        "{{ self._TemplateReference__context.x }}",
        "{{ 'x' | attr('__class__') }}",
    ],
)
def test_there_is_no_way_out(source):
    with pytest.raises(TemplateFailed):
        text(source)


BIG = "{% set ns = namespace(x=%s) %}{% for i in range(60) %}%s{% endfor %}"


def growing(start: str, step: str) -> str:
    return BIG.replace("%s", start, 1).replace("%s", step, 1)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 12) %}{% endfor %}",
        "{% for i in range(1000000000000) %}{% endfor %}",
        "{% for m in messages %}" * 22 + "{% endfor %}" * 22 + "",
        "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(40) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 100000000000 }}",
        "{{ [0] * 100000000000 }}",
        "{{ '%100000000000d' % 1 }}",
        "{{ '{:100000000000}'.format(1) }}",
        "{{ 'x'.ljust(100000000000) }}",
        "{{ 'x'.center(100000000000) }}",
        "{{ 'x' | center(100000000000) }}",
        "{{ 'x\n' | indent(100000000000, true) }}",
        "{{ 9 ** 9 ** 9 }}",
        growing("'x'", "{% set ns.x = ns.x + ns.x %}"),
        growing("'x'", "{% set ns.x = ns.x ~ ns.x %}"),
        growing("'x'", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        growing("'x'", "{% set ns.x = ns.x.replace('x', 'xx') %}"),
        growing("'x'", "{% set ns.x = ns.x | replace('x', 'xx') %}"),
        growing("'x'", "{% set ns.x = [ns.x, ns.x] | join %}"),
        growing("[0]", "{% set ns.x = ns.x + ns.x %}"),
        growing("[0]", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x }}",
        growing("[0]", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x | tojson }}",
        growing("[0]", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x == [[0]] }}",
        growing("[0]", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x is eq([[0]]) }}",
        growing("3", "{% set ns.x = ns.x * ns.x %}"),
        "{{ x" + " + x" * MAX_SOURCE + " }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    ],
)
def test_a_template_that_runs_away_is_stopped(monkeypatch, source):
    monkeypatch.setattr(chat_sandbox, "MAX_STEPS", 20_000)
    with pytest.raises(TemplateFailed):
        text(source)
