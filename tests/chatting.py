"""Tokenizers with chat templates for the tests: one vocabulary, any control tokens, ours and transformers' from the
same directory."""

from __future__ import annotations

import json
import re
from pathlib import Path

from llama3.tokenizer import Tokenizer

TEXTS = ["What is this? You're welcome to it, thanks.\n\n  4 user assistant system be brief and hello there"] * 3
EOS, BOS = "</s>", "<s>"

CHATML = """\
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou are a polite machine.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""With a system message of its own."""

MARKED = """\
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ message['role'] ~ '\\n' ~ message['content'] ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""Which says itself what the assistant wrote."""

INSTRUCT = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content ~ '\\n\\n' %}{% set rest = messages[1:] %}
{%- else %}
    {%- set system = '' %}{% set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' ~ (system if loop.first else '') ~ message.content ~ ' [/INST]' }}
    {%- else %}
        {{- ' ' ~ message.content | trim ~ eos_token }}
    {%- endif %}
{%- endfor %}"""
"""Without a generation prompt; the system message goes into the first question, answers are trimmed."""

ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
"""Relies on what `trim_blocks` and `lstrip_blocks` do to line breaks; unknown roles are dropped."""

PARTS = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if not loop.first %}{{ '\\n<|part|>' }}{% endif %}
            {{- part.text | trim }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""Which writes something between the parts of a message."""

TEMPLATES = {"chatml": CHATML, "marked": MARKED, "instruct": INSTRUCT, "zephyr": ZEPHYR}


def save(folder: Path, template: str | None, names: list[str] | None = None, normalizer: str | None = None) -> Path:
    """A directory in Hugging Face's layout whose control tokens are those that the template names, or `names`."""
    base = Tokenizer.train(TEXTS, 300, 32)
    found = names or sorted(set(re.findall(r"<\|\w+\|>|<\w+_\w+>|\[/?INST\]", template or "")) | {BOS, EOS})
    content = json.loads(base.to_json())
    for number, token in enumerate(content["added_tokens"]):
        token["content"] = found[number] if number < len(found) else f"<|spare_{number}|>"
    content["post_processor"] = None
    content["normalizer"] = {"type": normalizer} if normalizer else None
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": BOS,
        "eos_token": EOS,
        **({} if template is None else {"chat_template": template}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def load(folder: Path, template: str | None, names: list[str] | None = None, **options: str) -> Tokenizer:
    """Of the directory that `save` makes."""
    return Tokenizer.load(save(folder, template, names, **options))
