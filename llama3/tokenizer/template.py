"""The chat format as a Jinja template, for `transformers` and other programs that render text, then tokenize.

It gives the ids of `llama3.tokenizer.chat.render`. One difference is beyond any template: such programs take a
special token's name inside a message's content for the token itself, `render` never does.
"""

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- set role = 'ipython' if message['role'] == 'tool' else message['role'] %}"
    # Blank lines that lead the content would melt into the header's line breaks: they go, as in `render`.
    "{%- set content = message['content'] %}"
    "{%- if content is not string %}{%- set content = content | map(attribute='text') | join %}{%- endif %}"
    "{%- set body = content.lstrip() %}"
    "{%- set lead = content[:content | length - body | length] %}"
    "{%- set indent = lead.split('\\n')[-1].split('\\r')[-1] %}"
    "{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + indent + body + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif %}"
)
