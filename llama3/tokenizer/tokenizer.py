"""`Tokenizer`: the Python face of the Rust tokenizer (core-rs/src/tokenizer)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from llama3 import _core
from llama3.artifacts.files import write_bytes_atomic
from llama3.errors import from_core
from llama3.foreign import MAX_TABLE, UnusableFile, read_bytes
from llama3.tokenizer import problems, special
from llama3.tokenizer.byte_names import bytes_named
from llama3.tokenizer.controls import CONFIG_NAME, TEMPLATE_NAME, Controls, read_added, read_controls
from llama3.tokenizer.gguf import RULES, Rule, read_vocabulary, write_vocabulary
from llama3.tokenizer.template import CHAT_TEMPLATE

Ids = npt.NDArray[np.uint32]
T = TypeVar("T")
AllowedSpecial = Collection[str] | Literal["all"]
Role = Literal["bos", "eos", "pad"]

_TRAIN_BATCH_CHARS = 4_000_000
JSON_NAME = "tokenizer.json"
MODEL_NAME = "tokenizer.model"
_LLAMA3_MAX_LENGTH = 131_072


class Tokenizer:
    """An immutable byte-level BPE tokenizer, safe to share between threads and to use after a fork.

    Text is plain text: a special token's name in it stays text unless `allowed_special` holds the name. No
    normalization; lone surrogates, which UTF-8 cannot express, become U+FFFD.
    """

    def __init__(self, core: _core.Bpe, controls: Controls = Controls(), where: str = "tokenizer") -> None:  # noqa: B008
        self._core = core
        self._controls = controls
        self.special_tokens: dict[str, int] = {name: id for id, name, special in core.added if special}
        """Name -> id."""
        self.added_tokens: dict[str, int] = {name: id for id, name, special in core.added if not special}
        """Words with an id of their own, found in every text before it is split: name -> id."""
        self.vocab_size: int = core.vocab_size
        """Rows that an embedding table needs: one more than the highest id."""
        self._kept: dict[Hashable, Any] = {}
        self._check_names(where)
        self._check_controls(where)

    # -- making and keeping --------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path, *, num_special: int = special.NUM_SPECIAL) -> Tokenizer:
        """Read a tokenizer.json, a tiktoken .model file or a directory that holds one.

        Of a directory, tokenizer_config.json, special_tokens_map.json, added_tokens.json, chat_template.jinja and the
        ends of generation in generation_config.json or config.json are read as well. A .model file has no special
        tokens: the first `num_special` of Llama 3's follow its last token. Raises DataError (missing, damaged, or
        another kind of tokenizer).
        """
        file = _find_file(Path(path))
        is_folder = Path(path).is_dir()
        controls, added = (read_controls(Path(path)), read_added(Path(path))) if is_folder else (Controls(), [])
        try:
            data = read_bytes(file, MAX_TABLE)
        except (OSError, UnusableFile) as error:
            raise problems.UNREADABLE(file, reason=error) from error
        try:
            if data.lstrip()[:1] == b"{":
                return cls(_core.Bpe.from_json(data, added), controls, str(file.parent))
            if _is_sentencepiece(data):
                raise problems.UNSUPPORTED(file, detail="a SentencePiece model, as Llama 2 and Mistral have one")
            return cls(_core.Bpe.from_tiktoken(data, _special_names(num_special)), controls, str(file.parent))
        except _core.TokenizerError as error:
            raise from_core(error, file) from None

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], where: str = "GGUF metadata") -> Tokenizer:
        """From the metadata of a GGUF file as plain Python values: its keys that begin with `tokenizer.`.

        Read are, under `tokenizer.ggml.`: model (must be "gpt2": byte-level BPE), pre (the split rule's name), tokens,
        merges, token_type, bos_token_id, eos_token_id, eot_token_id, eom_token_id, padding_token_id, add_bos_token;
        and tokenizer.chat_template. With the `gguf` package:
        `{name: field.contents() for name, field in GGUFReader(path).fields.items() if name.startswith("tokenizer.")}`.
        `where` names the file in messages. Raises DataError: damaged, or another kind of tokenizer or rule.
        """
        data, controls = read_vocabulary(metadata, where)
        try:
            return cls(_core.Bpe.from_json(data), controls, where)
        except _core.TokenizerError as error:
            raise from_core(error, where) from None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, num_special: int = special.NUM_SPECIAL) -> Tokenizer:
        """Learn a vocabulary of exactly `vocab_size` tokens, the `num_special` special ones included (last ids).

        `texts` is read once; memory grows with its distinct words only. The result depends on the texts alone,
        not on their order or the number of threads. Raises DataError if they yield too few merges.
        """
        if isinstance(texts, str):
            raise TypeError("train takes texts, not one string: its characters would be the texts")
        names = _special_names(num_special)
        trainer = _core.BpeTrainer()
        for batch in _batches(texts):
            _on_text(trainer.feed, batch)
        base_size = vocab_size - num_special
        try:
            tokens = trainer.finish(max(base_size, 0))
            return cls(_core.Bpe(tokens, [(base_size + offset, name) for offset, name in enumerate(names)]))
        except _core.TokenizerError as error:
            raise from_core(error, "tokenizer training") from None

    def save(self, path: str | Path) -> None:
        """Write a .model file, a .json file, or (any other path) a directory in Hugging Face's layout.

        A .model file holds the base vocabulary only. The directory gets tokenizer.json and tokenizer_config.json
        and loads with `transformers.AutoTokenizer`; other files in it stay. Raises DataError, OSError.
        """
        path = Path(path)
        if path.suffix == ".model":
            try:
                write_bytes_atomic(path, self._core.to_tiktoken())
            except _core.TokenizerError as error:
                raise from_core(error, path) from None
        elif path.suffix == ".json":
            write_bytes_atomic(path, self.to_json())
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(path / JSON_NAME, self.to_json())
            config = json.dumps(self._hf_config(), indent=2, ensure_ascii=False)
            write_bytes_atomic(path / CONFIG_NAME, f"{config}\n".encode())
            if (path / TEMPLATE_NAME).is_file():  # it would go before the template of the config
                write_bytes_atomic(path / TEMPLATE_NAME, (self.chat_template or "").encode())

    def to_json(self) -> bytes:
        """Content of a Hugging Face tokenizer.json with the same ids; it adds BOS (where this tokenizer does) with
        special tokens.
        """
        return self._core.to_json(self._name_of("bos") if self.add_bos else None)

    def to_gguf(self, rows: int, ends: frozenset[int]) -> dict[str, Any]:
        """The keys of a GGUF file that `from_gguf` reads, for an embedding of `rows` rows.

        ends: ids at which generation ends; GGUF has keys for EOS and two more
        Raises DataError where none of the split rules that GGUF has a name for gives these very tokens.
        """
        bos, eos, pad = self.bos_id, self._id_of("eos"), self.pad_id
        of_message = self.special_tokens.get(special.END_OF_MESSAGE)
        # Whatever else ends an answer ends a turn; the end of a message, which a tool goes on from, is known by name.
        further = sorted(ends - {eos}, key=lambda id: (id == of_message, id))
        roles = {"bos": bos, "eos": eos, "padding": pad, **dict(zip(("eot", "eom"), further, strict=False))}
        stated: dict[str, Any] = {
            **{f"tokenizer.ggml.{role}_token_id": id for role, id in roles.items() if id is not None},
            "tokenizer.ggml.add_bos_token": self.add_bos,
            **({"tokenizer.chat_template": self.chat_template} if self.chat_template else {}),
        }
        content = self.to_json()
        exact = write_vocabulary(content, self.vocab_size) | stated
        tried: list[Rule] = []
        for name, rule in RULES.items():
            named = {"tokenizer.ggml.pre": name}
            if rule not in tried and Tokenizer.from_gguf(exact | named).hash == self.hash:
                return write_vocabulary(content, rows) | stated | named
            tried.append(rule)
        raise problems.NO_GGUF_NAME("tokenizer", known=list(RULES))

    @functools.cached_property
    def hash(self) -> str:
        """blake3 (hex) over everything that decides ids: tokens, merge order, split rule, special tokens, and BOS and
        EOS where they are not Llama 3's.
        """
        core = self._core.hash()
        named = (self.add_bos, self._name_of("bos"), self._name_of("eos"))
        if self.is_llama3_chat or named == (False, None, None):
            return core
        return _core.blake3_bytes(json.dumps([core, *named]).encode())

    def with_special(self, names: Iterable[str]) -> Tokenizer:
        """The same tokenizer, to which these added tokens are control tokens: no text becomes one of them.

        Raises DataError where one of them is an ordinary word of the vocabulary too.
        """
        try:
            return Tokenizer(self._core.with_special(sorted(names)), self._controls)
        except _core.TokenizerError as error:
            raise from_core(error, "tokenizer") from None

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` made of this tokenizer when it was first asked for under this key.

        A cache by equality would not do: equal tokenizers give equal ids, but may stop at others, say.
        """
        if key not in self._kept:
            self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

    # -- encoding ------------------------------------------------------------------------------

    def encode(
        self,
        text: str | bytes,
        *,
        bos: bool = False,
        eos: bool = False,
        allowed_special: AllowedSpecial = frozenset(),
        meta_compat: bool = False,
    ) -> Ids:
        """Ids of one text.

        Args:
            text: a string, or bytes; bytes that are no UTF-8 are encoded without loss by tiktoken's rule.
            bos: put BOS first, where this family of tokenizers does (`add_bos`).
            eos: put EOS last.
            allowed_special: names that stand for control tokens where they occur in the text, or "all".
            meta_compat: cut texts of over 400,000 characters, or with runs of over 25,000 blank or visible
                characters, as Meta's reference code does before it tokenizes.
        """
        if isinstance(text, bytes):
            return self._encode_bytes(text, bos, eos, allowed_special, meta_compat)
        first = self.bos_id if bos and self.add_bos else None
        last = self.eos_id if eos else None
        allowed = _allowed(allowed_special)
        try:
            return self._core.encode(text, allowed, meta_compat, first, last)
        except _core.TokenizerError as error:
            raise from_core(error, "text") from None
        except UnicodeEncodeError:
            return self._core.encode(_without_surrogates(text), allowed, meta_compat, first, last)

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        bos: bool = False,
        eos: bool = False,
        allowed_special: AllowedSpecial = frozenset(),
        meta_compat: bool = False,
    ) -> tuple[Ids, npt.NDArray[np.uint64]]:
        """Ids of many texts (any iterable of strings, Arrow columns too) back to back, on all threads; see `encode`.

        Returns:
            (ids, row_starts): text i is `ids[row_starts[i]:row_starts[i + 1]]`.
        """
        if isinstance(texts, str):
            raise TypeError("encode_batch takes a sequence of strings, not one string; use encode")
        rows: list[str] = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
        first = self.bos_id if bos and self.add_bos else None
        last = self.eos_id if eos else None
        allowed = _allowed(allowed_special)
        try:
            return _on_text(lambda rows: self._core.encode_batch(rows, allowed, meta_compat, first, last), rows)
        except _core.TokenizerError as error:
            raise from_core(error, "texts") from None

    def count(self, text: str, *, allowed_special: AllowedSpecial = frozenset(), meta_compat: bool = False) -> int:
        """Number of ids of one text, without making them."""
        allowed = _allowed(allowed_special)
        try:
            return self._core.count(text, allowed, meta_compat)
        except _core.TokenizerError as error:
            raise from_core(error, "text") from None
        except UnicodeEncodeError:
            return self._core.count(_without_surrogates(text), allowed, meta_compat)

    def _encode_bytes(
        self, data: bytes, bos: bool, eos: bool, allowed_special: AllowedSpecial, meta_compat: bool
    ) -> Ids:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            first = [self.bos_id] if bos and self.add_bos else []
            last = [self.eos_id] if eos else []
            try:
                return np.concatenate([first, self._core.encode_bytes(data), last]).astype(np.uint32)
            except _core.TokenizerError as error:
                raise from_core(error, "text") from None
        return self.encode(text, bos=bos, eos=eos, allowed_special=allowed_special, meta_compat=meta_compat)

    # -- decoding ------------------------------------------------------------------------------

    def decode(self, ids: npt.ArrayLike, *, skip_special: bool = False) -> str:
        """Text of the ids (array or sequence). Bytes that are no UTF-8 become U+FFFD. Raises DataError."""
        array = self._as_ids(ids, skip_special)
        try:
            return self._core.decode(array)
        except _core.TokenizerError as error:
            raise from_core(error, "ids") from None

    def decode_batch(self, ids: Iterable[npt.ArrayLike], *, skip_special: bool = False) -> list[str]:
        """Text of each sequence of ids; see `decode`."""
        return [self.decode(row, skip_special=skip_special) for row in ids]

    def decode_bytes(self, ids: npt.ArrayLike, *, skip_special: bool = False) -> bytes:
        """Exact bytes of the ids (array or sequence). Raises DataError."""
        array = self._as_ids(ids, skip_special)
        try:
            return self._core.decode_bytes(array)
        except _core.TokenizerError as error:
            raise from_core(error, "ids") from None

    def stream(self) -> StreamDecoder:
        """A decoder for ids that arrive one by one."""
        return StreamDecoder(self._core.stream())

    def _as_ids(self, ids: npt.ArrayLike, skip_special: bool) -> Ids:
        array = np.asarray(ids)
        if array.ndim > 1 and array.size != array.shape[-1]:  # a batch of one text is that text
            raise TypeError("ids of one text are wanted, not of several; use decode_batch")
        array = array.reshape(-1)
        if array.size == 0:
            return np.empty(0, np.uint32)
        if array.dtype.kind not in "iu":
            raise TypeError(f"ids must be integers, not {array.dtype}")
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            raise problems.UNKNOWN_ID("ids", id=wrong)
        if skip_special:
            array = array[~np.isin(array, list(self.special_tokens.values()))]
        return np.ascontiguousarray(array, dtype=np.uint32)

    # -- control tokens ------------------------------------------------------------------------

    @functools.cached_property
    def strips(self) -> dict[int, tuple[bool, bool]]:
        """Added tokens that take whitespace along: id -> whether that before it, and that after it."""
        return {id: (before, after) for id, before, after in self._core.strips}

    @functools.cached_property
    def is_llama3_chat(self) -> bool:
        """Whether the control tokens of Llama 3's own chat format are there, by name."""
        return all(name in self.special_tokens for name in special.CHAT_TOKENS)

    @functools.cached_property
    def bos_id(self) -> int | None:
        """Begins a text, where `add_bos`. None: there is no such token."""
        return self._id_of("bos")

    @functools.cached_property
    def add_bos(self) -> bool:
        """Whether texts of this family of models begin with BOS, as the template in its tokenizer.json says."""
        return self.is_llama3_chat or (self.bos_id is not None and self.bos_id == self._core.first_id)

    @functools.cached_property
    def eos_id(self) -> int:
        """Ends a document of a base model, or a turn where the files say so. Raises DataError: none is named."""
        id = self._id_of("eos")
        if id is None:
            raise problems.NO_END("tokenizer")
        return id

    @functools.cached_property
    def pad_id(self) -> int | None:
        """Fills up rows; never predicted. None: there is no such token."""
        return self._id_of("pad")

    @functools.cached_property
    def eom_id(self) -> int:
        """Ends a message of Llama 3 after which the turn goes on (a tool's answer is expected)."""
        return self._control(special.END_OF_MESSAGE)

    @functools.cached_property
    def eot_id(self) -> int:
        """Ends a turn of Llama 3."""
        return self._control(special.END_OF_TURN)

    @functools.cached_property
    def start_header_id(self) -> int:
        """Opens the header that names a message's role in Llama 3's format."""
        return self._control(special.START_HEADER)

    @functools.cached_property
    def end_header_id(self) -> int:
        """Closes the header."""
        return self._control(special.END_HEADER)

    @functools.cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids at which generation ends: EOS, Llama 3's ends of messages and turns, those of generation_config.json."""
        names = (self._name_of("eos"), self._name_at(special.END_OF_MESSAGE), self._name_at(special.END_OF_TURN))
        return frozenset({self.special_tokens[name] for name in names if name} | set(self._controls.stop_ids))

    @functools.cached_property
    def chat_template(self) -> str | None:
        """The Jinja template that turns messages into text: that of the tokenizer's files, else, for Llama 3's own
        control tokens, the one that says what Llama 3's protocol does.
        """
        return self._controls.chat_template or (CHAT_TEMPLATE if self.is_llama3_chat else None)

    def _control(self, name: str) -> int:
        known = self._name_at(name)
        if known is None:
            raise problems.NO_CONTROL("tokenizer", role=name)
        return self.special_tokens[known]

    def _name_at(self, name: str) -> str | None:
        """The name under which this tokenizer has one of Llama 3's special tokens: the same, or, in Llama 3's own
        tokenizers, another at the same offset.
        """
        if name in self.special_tokens or not self.is_llama3_chat:
            return name if name in self.special_tokens else None
        wanted = self._core.base_size + special.OFFSETS[name]
        return next((known for known, id in self.special_tokens.items() if id == wanted), None)

    def _name_of(self, role: Role) -> str | None:
        """The token that has a role: Llama 3's own by name, else what the files say."""
        stated: str | None = getattr(self._controls, role)
        return self._name_at(special.ROLES[role]) or (stated if stated in self.special_tokens else None)

    def _id_of(self, role: Role) -> int | None:
        name = self._name_of(role)
        return None if name is None else self.special_tokens[name]

    def _check_names(self, where: str) -> None:
        """Raises DataError where an added token has the name of another one, by which a file would take one for the
        other."""
        for id, name, _ in self._core.added:
            if data := bytes_named(name):
                ids = self._core.encode_bytes(data)
                if len(ids) == 1 and ids[0] != id:
                    raise problems.TAKEN_NAME(where, name=name, id=id, base=int(ids[0]))

    def _check_controls(self, where: str) -> None:
        """Raises DataError where the files name a BOS, EOS or end of generation that the vocabulary does not have."""
        stated = self._controls
        absent = [name for name in (stated.bos, stated.eos) if name and name not in self.special_tokens]
        if absent:
            detail = f"it names the control token {absent[0]!r}, which is no special token of this vocabulary"
            raise problems.DAMAGED(where, detail=detail)
        if any(not 0 <= id < self.vocab_size for id in stated.stop_ids):
            detail = f"generation ends at the ids {list(stated.stop_ids)}; the vocabulary has {self.vocab_size}"
            raise problems.DAMAGED(where, detail=detail)

    # -- the rest ------------------------------------------------------------------------------

    def _hf_config(self) -> dict[str, object]:
        stated = self._controls
        roles: tuple[Role, ...] = ("bos", "eos", "pad")
        names = {f"{role}_token": self._name_of(role) for role in roles}
        optional = {
            "chat_template": self.chat_template,
            "stop_ids": list(stated.stop_ids) or None,
            "unk_token": stated.unk if stated.unk in self.special_tokens else None,
            "model_max_length": _LLAMA3_MAX_LENGTH if self.is_llama3_chat else stated.max_length,
        }
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{role: name for role, name in names.items() if name is not None},
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            **{key: value for key, value in optional.items() if value is not None},
        }

    def __reduce__(self) -> tuple[object, ...]:
        return _from_json, (self.to_json(), self._controls)

    def __len__(self) -> int:
        return self.vocab_size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, special={len(self.special_tokens)}, hash={self.hash[:12]})"


class StreamDecoder:
    """Text of ids that arrive one by one. All that `push` and `flush` return, put together, is `decode` of all ids."""

    def __init__(self, core: _core.BpeStream) -> None:
        self._core = core

    def push(self, id: int) -> str:
        """The text that has become certain with this id; a character split over tokens comes out once, whole.

        Raises DataError for an unknown id; the stream goes on as if it had not come.
        """
        try:
            return self._core.push(id)
        except (_core.TokenizerError, OverflowError):
            raise problems.UNKNOWN_ID("ids", id=id) from None

    def flush(self) -> str:
        """What is held back (an unfinished character becomes U+FFFD); the stream begins anew."""
        return self._core.flush()


def _from_json(data: bytes, controls: Controls) -> Tokenizer:
    return Tokenizer(_core.Bpe.from_json(data), controls)


def _is_sentencepiece(data: bytes) -> bool:
    """Whether a file begins as one of SentencePiece's does: with a piece (field 1) whose text is its field 1."""
    return len(data) > 3 and data[0] == data[2] == ord("\n") and data[1] >= data[3] + 2


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        return path.resolve()  # a link that the user names is the user's
    for name in (JSON_NAME, MODEL_NAME):
        if (path / name).is_file():
            return path / name
    raise problems.UNREADABLE(path, reason=f"the directory holds neither {JSON_NAME} nor {MODEL_NAME}")


def _special_names(count: int) -> list[str]:
    if not special.MIN_SPECIAL <= count <= special.NUM_SPECIAL:
        detail = f"{count} special tokens; {special.MIN_SPECIAL} to {special.NUM_SPECIAL} are possible"
        raise problems.TOO_LARGE("num_special", detail=detail)
    return list(special.SPECIAL_TOKENS[:count])


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _TRAIN_BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _on_text(call: Callable[[list[str]], T], texts: list[str]) -> T:
    """`call(texts)`, once more with lone surrogates replaced if there were any."""
    try:
        return call(texts)
    except UnicodeEncodeError:
        return call([_without_surrogates(text) for text in texts])


def _without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _allowed(names: AllowedSpecial) -> list[str] | str:
    return names if isinstance(names, str) else list(names)
