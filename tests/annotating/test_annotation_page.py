"""The pages of `llama3 annotate` in a real browser where one is installed: by keys, by clicks, and without a script."""

from __future__ import annotations

import pytest
from annotated_run import MARKUP, annotating, lines, write_run

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 400, "height": 800}
NAMES = ("keys", "edits", "clicks", "tabs", "texts", "plain", "phone")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with annotating(write_run(tmp_path_factory.mktemp("runs") / "run"), *NAMES) as found:
        yield found


@pytest.fixture
def page(browser, site, request):
    """A page on which nothing may go wrong, nothing from elsewhere is asked for, and everything has a name."""
    context = browser.new_context(**getattr(request, "param", {"viewport": WIDE}))
    page = context.new_page()
    page.set_default_timeout(20_000)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda line: wrong.append(line.text) if line.type == "error" and "status of 4" not in line.text else None,
    )
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda asked: None if asked.url.startswith((site.url, "data:")) else wrong.append(asked.url))
    yield page
    assert wrong == []
    context.close()


def judged(page):
    return page.get_by_test_id("progress").text_content()


def test_a_pair_is_judged_by_keys_alone(page, site):
    page.goto(f"{site.url}/pairs/keys")
    page.keyboard.press("2")
    assert page.get_by_test_id("left-2").is_checked()
    page.keyboard.press("8")
    assert page.get_by_test_id("right-1").is_checked()
    assert not page.get_by_test_id("left-2").is_checked()
    page.keyboard.press("Enter")
    page.get_by_text("1 of 11 judged").wait_for()
    page.keyboard.press("s")
    page.keyboard.press("Enter")
    page.get_by_text("2 of 11 judged, 1 of them skipped").wait_for()
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    page.get_by_text("3 of 11 judged").wait_for()
    with page.expect_navigation():
        page.keyboard.press("u")
    assert page.get_by_test_id("tie").is_checked()
    for _ in range(2):
        with page.expect_navigation():
            page.keyboard.press("u")
    assert page.get_by_test_id("right-1").is_checked(), "what was said stands in the form"
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.get_by_text("3 of 11 judged").wait_for()
    verdicts = [(line["verdict"], line["number"]) for line in lines(site.run, "pairs-keys")]
    assert verdicts == [("significantly better", 0), ("skip", 0), ("tie", 0), ("significantly better", 1)]


def test_the_better_answer_is_edited(page, site):
    page.goto(f"{site.url}/pairs/edits")
    left = page.get_by_test_id("left").text_content()
    page.keyboard.press("3")
    page.keyboard.press("e")
    field = page.get_by_test_id("edited_left")
    assert field.input_value() == left
    field.fill("1 is not typed as a verdict")
    field.press("Control+Enter")
    page.get_by_text("1 of 11 judged").wait_for()
    (line,) = lines(site.run, "pairs-edits")
    assert (line["verdict"], line["edited"]) == ("slightly better", "1 is not typed as a verdict")

    page.keyboard.press("e")
    page.get_by_test_id("edited_right").fill("of the worse answer")
    page.get_by_test_id("left-1").check()
    page.get_by_test_id("save").click()
    assert "L3-ANN-013" in page.get_by_test_id("problems").text_content()
    assert page.get_by_test_id("edited_right").input_value() == "of the worse answer", "nothing typed is lost"
    assert page.get_by_test_id("left-1").is_checked()


def test_every_control_has_a_label_and_text_of_models_is_text(page, site):
    page.goto(f"{site.url}/pairs/clicks")
    shown = []
    for _ in range(11):
        unnamed = page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), textarea, button, a, summary')]"
            ".filter((e) => !(e.labels?.length || e.textContent.trim()) || !e.dataset.testid).length"
        )
        assert unnamed == 0
        assert page.locator("main img, main script").count() == 0
        shown += [page.get_by_test_id(side).text_content() for side in ("left", "right")]
        page.get_by_label("B is marginally better").check()
        page.get_by_role("button", name="Save").click()
    page.get_by_test_id("done").wait_for()
    assert MARKUP in shown
    assert len(lines(site.run, "pairs-clicks")) == 11


def test_a_second_tab_is_told_and_loses_nothing(page, site):
    page.goto(f"{site.url}/pairs/tabs")
    other = page.context.new_page()
    other.goto(f"{site.url}/pairs/tabs")
    page.get_by_test_id("left-1").check()
    page.get_by_test_id("save").dblclick()
    page.get_by_text("1 of 11 judged").wait_for()
    other.get_by_test_id("right-1").check()
    other.get_by_test_id("edit").click()
    other.get_by_test_id("edited_right").fill("what I typed")
    other.get_by_test_id("save").click()
    assert "L3-ANN-073" in other.get_by_test_id("problems").text_content()
    assert other.get_by_test_id("edited_right").input_value() == "what I typed"
    assert len(lines(site.run, "pairs-tabs")) == 1
    other.get_by_test_id("save").click()
    other.get_by_text("1 of 11 judged").wait_for()
    assert [line.get("edited") for line in lines(site.run, "pairs-tabs")] == [None, "what I typed"]


def test_synthetic_text_is_checked_by_keys(page, site):
    page.goto(f"{site.url}/check/texts")
    assert page.get_by_test_id("conversation").text_content()
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    assert "L3-ANN-016" in page.get_by_test_id("problems").text_content()
    page.keyboard.press("w")
    page.keyboard.type("it repeats itself")
    page.keyboard.press("Control+Enter")
    page.get_by_text("1 of 3 judged").wait_for()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.get_by_text("2 of 3 judged").wait_for()
    said = [(line["verdict"], line.get("reason")) for line in lines(site.run, "check-texts")]
    assert said == [("reject", "it repeats itself"), ("keep", None)]


@pytest.mark.parametrize("page", [{"java_script_enabled": False, "viewport": WIDE}], indirect=True)
def test_all_works_without_a_script(page, site):
    page.goto(site.url)
    page.get_by_test_id("pairs-plain").click()
    page.get_by_test_id("right-2").check()
    page.get_by_test_id("edit").click()
    right = page.get_by_test_id("edited_right").input_value()
    page.get_by_test_id("edited_right").fill(f"\n{right}\nbetter")
    page.get_by_test_id("save").click()
    page.get_by_text("1 of 11 judged").wait_for()
    (line,) = lines(site.run, "pairs-plain")
    assert (line["verdict"], line["edited"]) == ("better", f"\n{right}\nbetter")
    page.get_by_test_id("overview").click()
    page.get_by_test_id("check-plain").click()
    page.get_by_test_id("keep").check()
    page.get_by_test_id("save").click()
    page.get_by_text("1 of 3 judged").wait_for()


@pytest.mark.parametrize("page", [{"viewport": PHONE, "color_scheme": "dark"}], indirect=True)
def test_it_fits_a_phone(page, site):
    for path in ("/", "/pairs/phone", "/check/phone", "/agreement"):
        page.goto(site.url + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
