"""The chat page, in a real browser where one is installed: it talks, shows likelihoods, verdicts, calls, and stops."""

from __future__ import annotations

import json

import httpx
import pytest
from test_guarded_service import Watch
from web import NAME, idle, running

from llama3.inference.llama import Llama
from llama3.safety.engine import PolicyEngine
from llama3.testing.toys import toy_llama

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def site():
    watch, plain = Watch(), toy_llama()
    policy = PolicyEngine({"input": "watch", "output": "watch"}, lambda name, options: watch)
    policy.open()
    with running(Llama(plain.transformer, plain.tokenizer, guard=policy)) as found:
        yield found
        assert idle(found.service)


def test_the_page_may_run_only_its_own_script_and_ask_only_its_server(site):
    found = httpx.get(f"{site.url}/")
    policy = found.headers["content-security-policy"]
    assert found.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "http://" not in found.text
    assert "https://" not in found.text


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def page(browser, site, request):
    """The page, on which nothing may go wrong."""
    page = browser.new_page(viewport=request.param, color_scheme="dark" if request.param is PHONE else "light")
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda line: wrong.append(line.text) if line.type == "error" and "400" not in line.text else None
    )
    page.goto(site.url)
    page.get_by_text(f"llama3 chat · {NAME}").wait_for()
    yield page
    assert wrong == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it does not fit its width"
    page.close()


def set_up(page, **fields):
    """Open the settings and fill some."""
    page.get_by_test_id("settings").click()
    for name, value in fields.items():
        page.locator(f"#{name}").fill(value)


def ask(page, text):
    """Send a message by the keyboard and wait for the end of its answer."""
    page.get_by_test_id("ask").fill(text)
    page.get_by_test_id("ask").press("Enter")
    page.locator("#log[aria-busy=false]").wait_for(state="attached")
    return page.locator("article[data-role=assistant]").last


def test_an_answer_is_that_of_the_model(page, site):
    set_up(page, temperature="0", max_completion_tokens="12", system="Be brief.")
    answer = ask(page, "the river")
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the river"}]
    expected = toy_llama().chat(asked, max_tokens=12, temperature=0).content
    assert answer.locator(".text").text_content() == expected
    assert "cut at its longest length" in answer.text_content()
    again = ask(page, "and?")
    asked += [{"role": "assistant", "content": expected}, {"role": "user", "content": "and?"}]
    assert again.locator(".text").text_content() == toy_llama().chat(asked, max_tokens=12, temperature=0).content
    page.get_by_test_id("clear").click()
    assert page.locator("article").count() == 0


def test_every_token_says_how_likely_it_was(page):
    set_up(page, temperature="0", max_completion_tokens="6")
    page.get_by_test_id("logprobs").check()
    answer = ask(page, "the river")
    tokens = answer.locator(".token")
    assert tokens.count() == 6
    assert "%" in tokens.first.get_attribute("title")
    assert tokens.first.get_attribute("tabindex") == "0"


def test_what_is_blocked_says_so_and_does_not_block_what_follows(page):
    set_up(page, temperature="0", max_completion_tokens="6")
    refused = ask(page, "a secret")
    assert "L3-SAF-020" in refused.text_content()
    assert ask(page, "the river").locator(".text").text_content()


def test_markup_in_a_message_is_text(page):
    set_up(page, temperature="0", max_completion_tokens="4")
    ask(page, "<img src=x onerror=alert(1)>")
    assert page.locator("article img").count() == 0
    assert page.locator("article[data-role=user] .text").last.text_content() == "<img src=x onerror=alert(1)>"


def test_an_answer_can_be_stopped(page, site):
    set_up(page, temperature="0", max_completion_tokens="400")
    page.get_by_test_id("ask").fill("go on")
    page.get_by_test_id("ask").press("Enter")
    page.keyboard.press("Escape")
    page.locator("#log[aria-busy=false]").wait_for(state="attached")
    assert idle(site.service)


def test_a_call_of_a_tool_waits_for_its_result(page):
    call = {
        "index": 0,
        "id": "call-1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"in": "Rome"}'},
    }
    told = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in told) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(body=stream, content_type="text/event-stream"), times=1
    )
    asked = []
    page.on("request", lambda request: asked.append(request) if request.method == "POST" else None)
    set_up(page, temperature="0", max_completion_tokens="4")
    answer = ask(page, "the weather?")
    assert answer.get_by_test_id("tool-call").text_content() == 'weather({"in": "Rome"})'
    answer.locator("input").fill("warm")
    answer.get_by_text("Give result").click()
    page.locator("article[data-role=assistant]").nth(1).wait_for()
    sent = json.loads(asked[-1].post_data)["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert (sent[1]["tool_calls"][0]["function"]["name"], sent[2]["content"]) == ("weather", "warm")


def test_tools_that_are_no_json_are_told(page):
    set_up(page, tools="[{")
    page.get_by_test_id("ask").fill("x")
    page.get_by_test_id("ask").press("Enter")
    assert page.locator(".error").text_content().startswith("Tools:")
