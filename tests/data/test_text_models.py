"""Classifiers of texts: trained from labelled rows, loaded only when whole, applied as filters, told when absent."""

from __future__ import annotations

import itertools
import json
import os
import random
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fasttext")

from llama3.cli import app as cli
from llama3.config.schema import Config
from llama3.config.slot_types import Slot
from llama3.data.curate import CurateOptions
from llama3.data.fasttext_file import check_fasttext
from llama3.data.judging import build_filters, with_measures
from llama3.data.ledger import lost_input
from llama3.data.recut import recut
from llama3.data.text_model import PREFIX, TextModel, as_line
from llama3.errors import DataError, LlamaError
from llama3.filters import DocumentBatch, ModelFilter, token_batches
from llama3.preflight import load_config
from llama3_plugins.filters.models import Language, LanguageOptions, Quality, QualityOptions

GOOD = ["ship", "sea", "wind", "harbour", "captain", "letter", "morning", "island"]
BAD = ["buy", "cheap", "click", "now", "free", "offer", "deal", "win"]
BOTH = ["time", "way", "day", "man", "thing", "hand"]
SMALL = ("--set", "dim=8", "--set", "buckets=500", "--set", "epochs=20")


def written(good: bool, rng: random.Random, number: int) -> str:
    return " ".join(rng.choices((GOOD if good else BAD) + 2 * BOTH, k=14)) + f" {number}"


def rows_of(count: int, seed: int = 0) -> list[dict[str, str]]:
    rng = random.Random(seed)
    return [{"text": written(n % 2 == 1, rng, n), "label": "yes" if n % 2 else "no"} for n in range(count)]


def write_rows(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a trained classifier, beside its rows."""
    place = tmp_path_factory.mktemp("classifier")
    rows = write_rows(place / "rows.jsonl", rows_of(200))
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "classify", "train", str(rows), "--out", str(place / "model"), *SMALL])
    assert ended.value.code == 0
    return place / "model"


@pytest.fixture
def classify(capsys):
    """Runs `llama3 data classify ...`: (exit code, stdout, stderr)."""

    def call(*args):
        with pytest.raises(SystemExit) as ended:
            cli.main(["data", "classify", *map(str, args)])
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    return call


def test_a_card_tells_what_held_out_rows_are_taken_for(trained, classify, tmp_path):
    card = json.loads((trained / "card.json").read_bytes())
    held_out = sum(card["rows"]["held_out"].values())
    assert held_out + sum(card["rows"]["train"].values()) == 200
    assert card["accuracy"]["n"] == card["texts"] == held_out
    assert "| yes |" in (trained / "CARD.md").read_text()

    # By hand: on new rows the accuracy, the AUC by all pairs, and what a threshold keeps.
    rows = rows_of(60, seed=5)
    code, out, err = classify("card", trained, write_rows(tmp_path / "new.jsonl", rows), "--json")
    assert code == 0, err
    told = json.loads(out)
    model = TextModel(trained)
    p_N = model.of_label([row["text"] for row in rows], "yes")
    is_N = np.array([row["label"] == "yes" for row in rows])
    assert told["accuracy"]["rate"] == pytest.approx(((p_N > 0.5) == is_N).mean())
    pairs = p_N[is_N][:, None] - p_N[~is_N][None]
    area = told["labels"]["yes"]["separation"]["auc"]
    assert area["value"] == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    assert area["value"] > 0.9
    kept = told["labels"]["yes"]["kept"]["0.75"]
    assert kept["kept"] == pytest.approx((p_N >= 0.75).mean())
    assert kept["recall"] == pytest.approx((p_N[is_N] >= 0.75).mean())


def test_training_is_the_same_every_time_and_more_rows_move_none(trained, classify, tmp_path):
    code, _, err = classify("train", trained.parent / "rows.jsonl", "--out", tmp_path / "again", *SMALL)
    assert code == 0, err
    assert (tmp_path / "again" / "model.bin").read_bytes() == (trained / "model.bin").read_bytes()
    assert (tmp_path / "again" / "card.json").read_bytes() == (trained / "card.json").read_bytes()
    code, _, err = classify("train", trained.parent / "rows.jsonl", "--out", trained)
    assert (code, "is there already" in err) == (1, True)
    assert {path.name for path in trained.iterdir()} == {"model.bin", "card.json", "CARD.md"}


def test_probabilities_are_those_of_the_model(trained):
    """Against the formula: softmax of the output matrix times the mean of the input vectors of words and bigrams."""
    model = TextModel(trained)
    inputs, outputs = model._model.get_input_matrix(), model._model.get_output_matrix()
    buckets = 500

    def hashed(word: str) -> int:
        value = 2166136261
        for byte in word.encode():
            value = ((value ^ (byte - 256 if byte > 127 else byte) & 0xFFFFFFFF) * 16777619) & 0xFFFFFFFF
        return value

    for text in ("ship sea\nwind", "buy  unheard now", "time free island"):
        words = [*text.split(), "</s>"]
        known = [model._model.get_word_id(word) for word in words]
        rows = [number for number in known if number >= 0]
        signed = [value - (1 << 32) if value >> 31 else value for value in map(hashed, words)]
        for first, second in itertools.pairwise(signed):
            value = (first * 116049371 + second) % (1 << 64)
            rows.append(len(model._model.words) + value % buckets)
        logits_L = outputs @ inputs[rows].mean(0)
        wanted_L = np.exp(logits_L) / np.exp(logits_L).sum()
        assert model.probabilities([text])[0] == pytest.approx(wanted_L, abs=3e-5)
    assert model.probabilities([]).shape == (0, 2)
    assert model.probabilities(["", f"{PREFIX}yes"]).shape == (2, 2)
    assert PREFIX not in as_line(f"a {PREFIX}yes\0b\n c", 100)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_that_is_cut_off_or_odd_is_never_loaded(trained, tmp_path_factory, data):
    whole = (trained / "model.bin").read_bytes()
    kind = data.draw(st.sampled_from(["cut", "more", "header"]))
    if kind == "cut":
        changed = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "more":
        changed = whole + data.draw(st.binary(min_size=1, max_size=40))
    else:  # dim, model, bucket, the numbers of words and labels: the sizes no longer fit
        place = data.draw(st.sampled_from([0, 4, 8, 36, 40, 64, 68, 72]))
        value = data.draw(
            st.integers(-(2**31), 2**31 - 1).filter(lambda v: v != struct.unpack_from("<i", whole, place)[0])
        )
        changed = whole[:place] + struct.pack("<i", value) + whole[place + 4 :]
    file = tmp_path_factory.mktemp("odd") / "model.bin"
    file.write_bytes(changed)
    if kind == "header" and struct.unpack_from("<i", changed, 4)[0] == 11:
        return  # an older version of the same layout
    with pytest.raises(DataError, match="no sound fastText classifier"):
        check_fasttext(file)


def test_what_is_no_model_is_told(trained, tmp_path):
    with pytest.raises(LlamaError, match="there is no model of texts here"):
        TextModel(tmp_path / "nothing.bin")
    with pytest.raises(LlamaError, match="no sound fastText classifier"):
        TextModel(trained / "card.json")
    with pytest.raises(LlamaError, match="no label 'maybe'"):
        Quality(QualityOptions(model=str(trained), label="maybe"))


@pytest.mark.parametrize("options", [{}, {"qnorm": True}, {"dsub": 3}, {"cutoff": 300}])
def test_quantised_models_are_read_when_they_are_whole(trained, tmp_path, options):
    model = TextModel(trained)
    text = ["ship sea wind", "buy cheap offer"]
    before = model.probabilities(text)
    rows = tmp_path / "rows.txt"
    rows.write_text("".join(f"{PREFIX}{row['label']} {row['text']}\n" for row in rows_of(200)))
    model._model.quantize(input=str(rows), **options)
    model._model.save_model(str(tmp_path / "small.ftz"))
    small = TextModel(tmp_path / "small.ftz")
    assert (small.probabilities(text).argmax(1) == before.argmax(1)).all()
    whole = (tmp_path / "small.ftz").read_bytes()
    draw = random.Random(0)
    for length in [len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(50))]:
        (tmp_path / "cut.ftz").write_bytes(whole[:length])
        with pytest.raises(DataError, match="no sound fastText classifier"):
            check_fasttext(tmp_path / "cut.ftz")


def test_a_real_model_of_languages_is_applied():
    model = os.environ.get("LID_MODEL")
    if model is None:
        pytest.skip(
            "LID_MODEL names no lid.176.bin or lid.176.ftz (https://fasttext.cc/docs/en/language-identification)"
        )
    texts = [
        "The ship leaves the harbour in the morning, and the captain writes a letter.",
        "Das Schiff verlaesst am Morgen den Hafen, und der Kapitaen schreibt einen Brief.",
        "El barco sale del puerto por la ma\u00f1ana y el capit\u00e1n escribe una carta.",
        "\u8239\u306f\u671d\u306b\u6e2f\u3092\u51fa\u3066\u3001\u8239\u9577\u306f\u624b\u7d19\u3092\u66f8\u304f\u3002",
    ]
    judged = judgement("language", Language(LanguageOptions(model=model, keep=["en", "de"])), documents(texts))
    assert judged.keep_D.tolist() == [True, True, False, False]
    assert list(judged.reason_D[2:]) == ["language_es", "language_ja"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "a"}], "no labelled row"),
        ([{"text": " ", "label": "x"}], "no labelled row"),
        ([{"text": "a", "label": "two words"}], "no labelled row"),
        ([{"text": "a", "label": "x"}, {"text": "a", "label": "y"}], "has the labels x, y"),
        ([{"text": f"t{n}", "label": "x"} for n in range(99)], "the label 'another' has 0 texts"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused(classify, tmp_path, rows, words):
    code, _, err = classify("train", write_rows(tmp_path / "rows.jsonl", rows), "--out", tmp_path / "model")
    assert (code, words in err) == (1, True), err
    assert not (tmp_path / "model").exists()


def documents(texts, **columns) -> DocumentBatch:
    return DocumentBatch.of(texts, source="web", urls=[f"u{n}" for n in range(len(texts))], **columns)


def test_a_language_filter_keeps_what_is_wanted_and_sure(trained):
    texts = ["ship sea wind harbour", "buy cheap click now", "time way", "ship"]
    model = TextModel(trained, 1000)
    p_DL = model.probabilities(texts)
    filter = Language(LanguageOptions(model=str(trained), keep=["yes"], min=0.8))
    judged = judgement("language", filter, documents(texts, language=["und", "und", "und", "en"]))
    labels = [model.labels[int(row.argmax())] for row in p_DL]
    for d in range(3):
        assert judged.score_D[d] == pytest.approx(p_DL[d].max())
        assert judged.keep_D[d] == (labels[d] == "yes" and p_DL[d].max() >= 0.8)
    assert list(judged.reason_D[:2]) == ["", "language_no"]
    assert judged.keep_D[3], "its source told its language"
    strict = Language(LanguageOptions(model=str(trained), keep=["no"], told=True))
    assert not judgement("language", strict, documents(["ship sea wind harbour"], language=["en"])).keep_D[0]
    prose_only = Language(LanguageOptions(model=str(trained), keep=["no"]))
    assert judgement("language", prose_only, documents(["ship sea"], kind="code")).keep_D[0]


def judgement(name, filter, batch):
    """What a filter makes of documents, as curation asks it."""
    return filter.judge(with_measures({name: filter}, batch))


def corpus_config(place: Path, filters) -> dict:
    return {
        "run": {"name": "quality", "dir": str(place / "runs"), "threads": 1, "device": "cpu"},
        "data": {
            "sources": [{"name": "jsonl", "path": str(place / "texts.jsonl"), "source": "web"}],
            "filters": filters,
            "lines": {"enabled": False},
            "minhash": {"enabled": False},
            "held_out": 0.1,
        },
        "logging": [],
    }


def test_a_corpus_is_cut_by_the_score_and_says_what_judged_nothing(trained, curated, tmp_path):
    rows = rows_of(80, seed=9)
    write_rows(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in rows])
    section = corpus_config(tmp_path, [{"name": "quality", "model": str(trained), "min": 0.6}, "language"])["data"]
    corpus, out = curated(**section)
    p_N = TextModel(trained).of_label([row["text"] for row in rows], "yes")
    kept = {text for batch in corpus.documents(None) for text in batch.texts}
    assert kept == {row["text"] for row, p in zip(rows, p_N, strict=True) if p >= 0.6}
    assert corpus.rejects().column("reason").to_pylist() == ["low_quality"] * (80 - len(kept))
    scores = sorted(score for score in corpus.scores().column("quality_score").to_pylist())
    assert scores == pytest.approx(sorted(p_N))
    assert out.metrics["without_model"] == ["language"]
    assert "filter 'language' has no model and judged nothing" in lost_input(out.metrics)
    # Its numbers are recorded: another cut reads no text.
    slot = Slot.model_validate({"name": "quality", "model": str(trained), "min": 0.9})
    higher = recut(corpus.path, build_filters([slot]))
    assert higher.figures()["kept"] == sum(p >= 0.9 for p in p_N)


def test_the_language_that_a_model_tells_is_one_for_duplicates(trained, curated, tmp_path, monkeypatch):
    """Here of a model that calls texts yes and no: nearly the same text stays once in each language, which the corpus
    then tells; where the source tells one, that stands. The model is asked once about each document."""
    rng = random.Random(4)
    start = " ".join(rng.choices(BOTH, k=60))
    texts = [f"{start} {' '.join(rng.choices(words, k=12))}" for words in (GOOD, BAD)]
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    write_rows(tmp_path / "told.jsonl", [{"text": texts[0].replace(" ", "  ", 1) + " end"}])
    filters = [{"name": "language", "model": str(trained), "min": 0.0}]
    section = corpus_config(tmp_path, filters)["data"] | {"minhash": {"threshold": 0.5}}
    section["sources"] = [
        {"name": "jsonl", "path": str(tmp_path / name), "language": language}
        for name, language in (("texts.jsonl", "und"), ("told.jsonl", "de"))
    ]
    asked = []
    of = TextModel.probabilities
    monkeypatch.setattr(TextModel, "probabilities", lambda self, texts: asked.append(len(texts)) or of(self, texts))
    apart, out = curated(**section, by_language=True)
    assert sum(asked) == 2
    found = [(d["language"], d["text"]) for batch in apart.documents(None) for d in batch.records.to_pylist()]
    assert found == [("yes", texts[0]), ("no", texts[1]), ("de", texts[0].replace(" ", "  ", 1) + " end")]
    assert apart.scores().column("language.label").to_pylist()[2] == -1
    assert out.metrics["rejects"] == {}
    together, out = curated(**section)
    assert len(together) == 1
    assert out.metrics["rejects"] == {"near.near_duplicate": 2}


def test_another_model_is_another_corpus(trained, tmp_path):
    write_rows(tmp_path / "texts.jsonl", [{"text": "ship"}])
    model = tmp_path / "model.bin"
    model.write_bytes((trained / "model.bin").read_bytes())
    config = Config.model_validate(corpus_config(tmp_path, [{"name": "quality", "model": str(model)}]))
    before = CurateOptions.of(config).found
    assert CurateOptions.of(config).found == before
    whole = bytearray(model.read_bytes())
    whole[-1] ^= 1
    model.write_bytes(whole)
    assert CurateOptions.of(config).found != before
    bare = Quality(QualityOptions())
    assert isinstance(bare, ModelFilter)
    assert not bare.has_model


@given(st.lists(st.integers(1, 512), max_size=200))
def test_batches_hold_every_text_once_and_no_more_than_they_may(lengths):
    found = token_batches(lengths)
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    assert all(max(lengths[place] for place in batch) * len(batch) <= 8192 for batch in found)
    flat = [lengths[place] for batch in found for place in batch]
    assert flat == sorted(flat, reverse=True)


def encoder_at(folder: Path) -> Path:
    """A tiny RoBERTa with random weights."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification, set_seed

    set_seed(0)
    words = {word: n for n, word in enumerate(["<pad>", "<unk>", *GOOD, *BAD, *BOTH])}
    fast = Fast(models.WordLevel(words, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=80, pad_token_id=0, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_the_encoder_decides_where_the_fast_model_is_in_doubt_and_nowhere_else(trained, tmp_path):
    pytest.importorskip("transformers")
    import torch

    folder = encoder_at(tmp_path / "encoder")
    options = QualityOptions(model=str(trained), encoder=str(folder), doubt=(0.2, 0.8), encoder_tokens=64)
    filter = Quality(options)
    assert filter.encoder is not None
    texts = [
        "ship sea wind harbour captain",
        "buy cheap click now free",
        "ship buy",
        "sea free now wind",
        "time",
        "way win",
    ]
    fast_D = TextModel(trained).of_label(texts, "yes")
    doubt_D = (fast_D >= 0.2) & (fast_D <= 0.8)
    assert 0 < doubt_D.sum() < len(texts)
    judged = judgement("quality", filter, documents(texts))
    assert judged.score_D[~doubt_D] == pytest.approx(fast_D[~doubt_D])
    alone = []
    for text in np.array(texts)[doubt_D].tolist():
        with torch.no_grad():
            logits = filter.encoder.model(**filter.encoder.tokenizer(text, return_tensors="pt")).logits[0].double()
        alone.append(float(logits.softmax(-1)[1]))
    assert judged.score_D[doubt_D] == pytest.approx(alone, abs=1e-5), "as one by one, without padding"
    assert filter.stamp != Quality(QualityOptions(model=str(trained))).stamp
    with pytest.raises(LlamaError, match="the encoder has no label 'good'"):
        Quality(options.model_copy(update={"encoder_label": "good"}))
    with pytest.raises(LlamaError, match="there is no sequence classifier here"):
        Quality(options.model_copy(update={"encoder": str(tmp_path)}))


class Judge(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose model likes ships."""

    asked: list[str] = []  # noqa: RUF012 - of the test

    def _send(self, told: dict) -> None:
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "sailor", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self.asked.append(prompt)
        words = prompt.split()
        good, bad = sum(words.count(word) for word in GOOD), sum(words.count(word) for word in BAD)
        tops = [("yes", -0.1), ("no", -3.0)] if good > bad else [("no", -0.1), ("yes", -3.0)]
        tops = [("hm", -0.01)] if good == bad else tops
        listed = [{"token": token, "logprob": logp, "bytes": None} for token, logp in tops]
        content = [{**listed[0], "top_logprobs": listed}]
        message = {"role": "assistant", "content": tops[0][0]}
        choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": {"content": content}}
        self._send({"id": "1", "object": "chat.completion", "created": 0, "model": "sailor", "choices": [choice]})

    def log_message(self, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server():
    Judge.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{site.server_port}/v1"
        site.shutdown()


def test_a_served_model_labels_documents_and_the_rows_train_a_classifier(classify, server, tmp_path, capsys):
    rows = [{"text": row["text"]} for row in rows_of(150, seed=3)]
    write_rows(tmp_path / "texts.jsonl", rows)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(corpus_config(tmp_path, [])))
    with pytest.raises(SystemExit):
        cli.main(["data", "curate", str(tmp_path / "c.yaml")])
    out = tmp_path / "labels.jsonl"
    corpus = tmp_path / "runs" / "quality"
    ask = ("label", corpus, "--question", "Is it about ships?", "--url", server, "--out", out)
    code, _, err = classify(*ask, "--count", 40)
    assert code == 0, err
    first = [json.loads(line) for line in out.read_text().splitlines()]
    untold = 40 - len(first)
    assert len(Judge.asked) == 40
    for row in first:
        words = row["text"].split()
        good = sum(map(words.count, GOOD)) > sum(map(words.count, BAD))
        assert (row["label"] == "yes", row["p"] > 0.9) == (good, good)

    # More of them: those that are there are not asked again.
    code, told, err = classify(*ask, "--count", 120, "--json")
    assert code == 0, err
    assert json.loads(told)["asked"] == 80 + untold
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert kept[: len(first)] == first
    assert len({row["id"] for row in kept}) == len(kept)
    code, _, err = classify(*ask[:3], "Is it about cheap things?", *ask[4:])
    assert (code, "rows of another question" in err) == (1, True)
    code, _, err = classify("train", out, "--out", tmp_path / "model", *SMALL)
    assert code == 0, err
    assert TextModel(tmp_path / "model").labels


def test_a_corpus_is_parted_into_sources_that_a_config_reads(trained, classify, tmp_path, capsys):
    rows = rows_of(80, seed=4)
    write_rows(tmp_path / "texts.jsonl", [{"text": row["text"], "url": f"http://a/{n}"} for n, row in enumerate(rows)])
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(corpus_config(tmp_path, [])))
    with pytest.raises(SystemExit):
        cli.main(["data", "curate", str(tmp_path / "c.yaml")])
    capsys.readouterr()
    parts = tmp_path / "parts"
    ask = ("part", tmp_path / "runs" / "quality", "--model", trained, "--out", parts, "--min", "0.7")
    code, told, err = classify(*ask, "--json")
    assert code == 0, err
    wanted: dict[str, set[str]] = {}
    model = TextModel(trained)
    texts = [row["text"] for row in rows]
    for text, p_L in zip(texts, model.probabilities(texts), strict=True):
        wanted.setdefault(model.labels[int(p_L.argmax())] if p_L.max() >= 0.7 else "unsure", set()).add(text)
    read = lambda path: {json.loads(line)["text"] for line in path.read_text().splitlines()}
    found = {path.stem: read(path) for path in parts.glob("*.jsonl")}
    assert found == wanted
    assert {name: cell["documents"] for name, cell in json.loads(told)["parts"].items()} == {
        name: len(of_part) for name, of_part in sorted(wanted.items())
    }
    assert classify(*ask)[0] == 1, "it is there already"

    data = yaml.safe_load((parts / "sources.yaml").read_text())["data"] | {"mix": {"yes": 3, "no": 1}, "filters": []}
    config = load_config({"data": data}).config
    assert {source.options["source"] for source in config.data.sources} == set(wanted)


def test_each_language_keeps_its_best(trained, classify, curated, tmp_path):
    rows = rows_of(60, seed=6)
    for language, part in (("de", rows[:20]), ("en", rows[20:])):
        write_rows(tmp_path / f"{language}.jsonl", [{"text": row["text"]} for row in part])
    sources = [
        {"name": "jsonl", "path": str(tmp_path / f"{n}.jsonl"), "source": n, "language": n} for n in ("de", "en")
    ]
    corpus, _ = curated(**corpus_config(tmp_path, [])["data"] | {"sources": sources})
    best = tmp_path / "best"
    code, told, err = classify("rank", corpus.path, "--model", trained, "--share", "0.25", "--out", best, "--json")
    assert code == 0, err
    assert {name: cell["documents"] for name, cell in json.loads(told)["parts"].items()} == {"de": 5, "en": 10}
    model = TextModel(trained)
    for language, part, kept in (("de", rows[:20], 5), ("en", rows[20:], 10)):
        p_N = model.of_label([row["text"] for row in part], "yes")
        found = [json.loads(line) for line in (best / f"{language}.jsonl").read_text().splitlines()]
        assert {row["text"] for row in found} == {part[n]["text"] for n in np.argsort(-p_N, kind="stable")[:kept]}
    # By a model of languages, here one that calls texts yes and no.
    again = tmp_path / "again"
    ask = ("rank", corpus.path, "--model", trained, "--languages", trained, "--share", "1", "--out", again, "--json")
    code, told, err = classify(*ask)
    assert code == 0, err
    assert set(json.loads(told)["parts"]) == {"yes", "no"}
