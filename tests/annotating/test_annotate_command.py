"""`llama3 annotate` as a process, over HTTP: what is seen, what is written, and what is let in."""

from __future__ import annotations

import json
import re
import socket
import threading

import httpx
import pytest
from annotated_run import MARKUP, annotating, called, lines, say, seen, write_run

from llama3.checkpoints.weights import save_model
from llama3.testing.toys import toy_llama

MODELS = ("base", "sft-1")


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def test_judgements_are_written_at_once_and_go_on_where_they_stopped(run):
    with annotating(run, "ada", "ben") as site:
        first = seen(site, "ada")
        assert first["progress"] == {"of": 11, "judged": 0, "skipped": 0}, "equal answers are no pair"
        assert say(site, "ada", "left:significantly better").status_code == 303
        (line,) = lines(run, "pairs-ada")
        assert (line["item"], line["number"], line["verdict"]) == (first["item"]["id"], 0, "significantly better")
        item = next(item for item in lines(run, "pairs") if item["id"] == line["item"])
        assert item["answers"][line["chosen"]]["text"] == first["item"]["left"]
        assert line["left"] == line["chosen"]
        assert say(site, "ada", "skip").status_code == 303
        site.process.kill()
        site.process.wait()
    with annotating(run, "ada", "ben") as site:
        assert seen(site, "ada")["progress"] == {"of": 11, "judged": 2, "skipped": 1}
        assert seen(site, "ben")["item"]["id"] == first["item"]["id"], "all come to the same items in the same order"
        assert seen(site, "ada")["item"]["id"] not in {line["item"] for line in lines(run, "pairs-ada")}
    assert lines(run, "pairs-ada")[0] == line


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A process, and a name for each test that writes."""
    run = write_run(tmp_path_factory.mktemp("runs") / "run")
    with annotating(run, "ada", "ben-2", "left", "right", "tabs", "crlf") as found:
        yield found


def test_which_model_said_what_is_not_shown_and_sides_differ(site):
    sides = {}
    for name in ("left", "right"):
        for _ in range(11):
            view = seen(site, name)
            page = site.http.get(f"/pairs/{name}").text
            assert not any(model in text for model in MODELS for text in (page, json.dumps(view)))
            say(site, name, "right:better")
        assert "nothing left" in site.http.get(f"/pairs/{name}").text
        sides[name] = {line["item"]: line["left"] for line in lines(site.run, f"pairs-{name}")}
    models = [{answer["model"] for answer in item["answers"]} for item in lines(site.run, "pairs")]
    assert models == [set(MODELS)] * 11, "answers of two models are compared"
    assert {*sides["left"].values()} == {*sides["right"].values()} == {0, 1}
    assert sides["left"] != sides["right"]


def test_two_tabs_neither_lose_nor_double_a_judgement(site):
    tab = seen(site, "tabs")
    written = lambda: lines(site.run, "pairs-tabs")
    sent = [say(site, "tabs", "left:better", view=tab).status_code for _ in range(3)]
    assert (sent, len(written())) == ([303] * 3, 1), "what was sent twice stands once"
    other = say(site, "tabs", "right:better", view=tab, edited_right="mine & <b>only</b>")
    assert other.status_code == 409
    assert "L3-ANN-073" in other.text
    assert "mine &amp; &lt;b&gt;only&lt;/b&gt;" in other.text, "what was typed is still there"
    assert len(written()) == 1
    number = re.search(r'name="number" value="(\d+)"', other.text)[1]
    again = say(site, "tabs", "right:better", view=tab, edited_right="mine", number=number)
    assert again.status_code == 303
    old, new = written()
    assert (old["verdict"], new["number"], new["edited"]) == ("better", 1, "mine")
    assert old["chosen"] != new["chosen"]
    assert seen(site, "tabs")["progress"]["judged"] == 1

    views = [seen(site, "tabs")] * 8
    threads = [threading.Thread(target=say, args=(site, "tabs", "tie"), kwargs={"view": view}) for view in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written()) == 3


@pytest.mark.parametrize(
    ("verdict", "fields", "code"),
    [
        ("", {}, "L3-ANN-011"),
        ("left:perfect", {}, "L3-ANN-011"),
        ("tie", {"edited_left": "new"}, "L3-ANN-012"),
        ("left:better", {"edited_right": "new"}, "L3-ANN-013"),
        ("left:better", {"edited_left": " \r\n"}, "L3-ANN-014"),
        ("left:better", {"edited_left": "OTHER"}, "L3-ANN-015"),
        ("left:better", {"next": "and now?"}, "L3-ANN-076"),
        ("left:better", {"number": "-1"}, "L3-ANN-074"),
        ("left:better", {"number": "7"}, "L3-ANN-074"),
        ("left:better", {"more": "x"}, "L3-ANN-074"),
    ],
)
def test_what_cannot_be_said_is_named_and_nothing_is_written(site, verdict, fields, code):
    view = seen(site, "ada")
    fields = {name: view["item"]["right"] if text == "OTHER" else text for name, text in fields.items()}
    answer = say(site, "ada", verdict, view=view, **fields)
    assert (answer.status_code, code in answer.text) == (400, True), answer.text
    assert seen(site, "ada")["progress"]["judged"] == 0


def test_line_breaks_of_a_form_are_no_edit(site):
    views = [seen(site, "crlf", "check", item=item["id"]) for item in lines(site.run, "check")]
    view = next(view for view in views if "\n" in view["item"]["text"])
    crlf = view["item"]["text"].replace("\n", "\r\n")
    assert say(site, "crlf", "keep", kind="check", view=view, edited=crlf).status_code == 303
    (line,) = lines(site.run, "check-crlf")
    assert "edited" not in line


def test_only_pages_of_this_address_are_answered(site):
    own = {"host": site.url.removeprefix("http://"), "origin": site.url}
    ask = lambda method, path, **headers: httpx.request(
        method, site.url + path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    assert ask("GET", "/", host="evil.example").status_code == 403
    assert ask("GET", "/ui/pairs/ada.json", host=f"evil.example:{site.url.rpartition(':')[2]}").status_code == 403
    form = {"content_type": "application/x-www-form-urlencoded"}
    for origin in ({}, {"origin": "null"}, {"origin": "http://evil.example"}, {"origin": site.url + "0"}):
        assert "L3-ANN-080" in ask("POST", "/pairs/ada", **form, **origin).text
    assert "L3-ANN-081" in ask("POST", "/pairs/ada", **own, content_type="text/plain").text
    assert httpx.post(f"{site.url}/pairs/ada", headers={**own, "content-type": form["content_type"]},
                      content=b"number=0&verdict=%ff").status_code == 400  # fmt: skip
    large = site.http.post("/pairs/ada", data={"next": "x" * (5 << 20)})
    assert (large.status_code, "L3-SRV-007" in large.text) == (413, True)
    assert seen(site, "ada")["progress"]["judged"] == 0


def test_a_page_may_run_only_its_own_script_and_model_text_is_no_markup(site):
    for path in ("/", "/agreement", "/pairs/ada", "/check/ada", "/nowhere"):
        answer = site.http.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; connect-src 'none';")
        assert "unsafe" not in policy
        assert answer.headers["referrer-policy"] == "same-origin"
        assert not re.search(r"(?:src|href|action)=[\"']?(?:https?:)?//", answer.text)
    items = [seen(site, "ada", item=item["id"])["item"] for item in lines(site.run, "pairs")]
    item = next(item for item in items if MARKUP in (item["left"], item["right"]))
    page = site.http.get("/pairs/ada", params={"item": item["id"]}).text
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert page.count("</textarea>") == 2


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/pairs/eve", 404, "L3-ANN-070"),
        ("/check/eve", 404, "L3-ANN-070"),
        ("/ui/pairs/eve.json", 404, "L3-ANN-070"),
        ("/pairs/ada?item=none", 404, "L3-ANN-071"),
        ("/nowhere", 404, "L3-SRV-003"),
    ],
)
def test_what_is_not_there_is_named(site, path, status, code):
    answer = site.http.get(path)
    assert (answer.status_code, code in answer.text) == (status, True)
    assert "ada, ben-2" in answer.text or code != "L3-ANN-070"


def test_every_page_has_a_twin_in_json_and_every_control_a_name(site):
    for page, twin in [("/", "/ui/overview.json"), ("/agreement", "/ui/agreement.json"),
                       ("/pairs/ada", "/ui/pairs/ada.json"), ("/check/ada", "/ui/check/ada.json")]:  # fmt: skip
        assert site.http.get(twin).json()["page"] in ("overview", "agreement", "pairs", "check")
        html = site.http.get(page).text
        for control in re.findall(r"<(?:input|textarea|button|summary|a|select)\b[^>]*>", html):
            assert "data-testid=" in control or 'type="hidden"' in control, control
    assert site.http.put("/pairs/ada").status_code == 405


def test_a_second_process_a_port_in_use_and_no_annotator_are_refused(site, run, capsys, tmp_path):
    code, _, told = called(capsys, site.run, "--as", "eve", "--port", 0)
    assert (code, "L3-ANN-041" in told) == (1, True), told
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, told = called(capsys, run, "--as", "ada", "--port", taken.getsockname()[1])
        assert (code, "L3-SRV-023" in told) == (2, True), told
    for arguments, number, code in [
        ((run,), "L3-ANN-090", 2),
        ((run, "--as", "Ada Lovelace"), "L3-ANN-040", 2),
        ((run, "--as", "../x"), "L3-ANN-040", 2),
        ((tmp_path / "none", "--as", "ada"), "L3-ANN-030", 1),
        ((tmp_path, "--as", "ada"), "L3-ANN-030", 1),
        ((write_run(tmp_path / "bare", pairs=False, texts=False), "--as", "ada"), "L3-ANN-031", 1),
        ((run, "--as", "ada", "--model", "one"), "L3-ANN-060", 2),
        ((run, "--figures", "--export", "x.jsonl"), "L3-ANN-091", 2),
        ((run, "--as", "ada", "--most-wrong", "0.1"), "L3-ANN-094", 2),
        ((run, "--figures", "--margins"), "L3-ANN-094", 2),
        ((tmp_path / "bare", "--figures"), "L3-ANN-093", 1),
    ]:
        found, _, told = called(capsys, *arguments)
        assert (found, number in told) == (code, True), told
    assert not (tmp_path / "bare" / "annotations").exists()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = []
    for seed in (0, 1):
        llama = toy_llama(seed=seed) if seed else toy_llama()
        folder = tmp_path_factory.mktemp("models") / f"m{seed}"
        save_model(llama.transformer, folder)
        llama.tokenizer.save(folder)
        folders.append(folder)
    return folders


def test_two_models_answer_a_file_of_prompts_and_dialogs_go_on(models, tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": "the river"},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "go"}]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    folder = tmp_path / "prompts.annotations"
    options = ("--model", models[0], "--model", models[1], "--max-tokens", 5)
    items = lambda: [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    with annotating(file, "ada", options=options) as site:
        assert len(items()) == 2
        assert {answer["model"] for item in items() for answer in item["answers"]} == {*map(str, models)}
        view = seen(site, "ada")
        better = view["item"]["right"]
        answer = say(site, "ada", "right:better", view=view, edited_right=f"{better}!", next="and then?\r\nsay")
        assert answer.status_code == 303
        assert answer.headers["location"] == f"/pairs/ada?item={items()[-1]['id']}"
        last = items()[-1]
        assert last["follows"] == view["item"]["id"]
        assert last["messages"] == [
            *view["item"]["messages"],
            {"role": "assistant", "content": f"{better}!"},
            {"role": "user", "content": "and then?\nsay"},
        ]
        again = say(site, "ada", "right:better", view=view, edited_right=f"{better}!", next="and then?\r\nsay")
        assert again.headers["location"] == answer.headers["location"] or len(items()) == 3
        assert len(items()) == 3
    # The process had ended before the dialog was answered.
    kept = (folder / "pairs.jsonl").read_text().splitlines(keepends=True)[:2]
    (folder / "pairs.jsonl").write_text("".join(kept))
    with annotating(file, "ada", options=options) as site:
        assert items()[-1] == last, "it goes on, with the same answers"
        assert seen(site, "ada")["progress"] == {"of": 3, "judged": 1, "skipped": 0}


def test_a_file_needs_models_and_names_its_bad_rows(tmp_path, models, capsys):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "x"}\n{"question": "x"}\nnot json\n{"prompt": ""}\n')
    assert "L3-ANN-092" in called(capsys, file, "--as", "ada")[2]
    code, _, told = called(capsys, file, "--as", "ada", "--port", 0, "--model", models[0], "--model", models[1])
    assert code == 1
    assert all(where in told for where in ("p.jsonl:2", "p.jsonl:3", "p.jsonl:4")), told
