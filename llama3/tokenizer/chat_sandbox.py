"""A chat template is a program that came with a model: it runs with no way out and bounded in time and size.

Jinja's immutable sandbox keeps it from Python's internals. Against templates that run away:

    - values are texts, numbers of bounded size, lists, tuples, dicts under plain keys, and namespaces: nothing else has
      methods (an integer could make bytes of any length), and what is lazy is made a list at once
    - every turn of a loop, call, filter, comparison, slice and operator costs steps, more of them for long texts and
      lists: what takes time pays for it
    - what can multiply sizes is bounded before it is done, and so is all that is written

The helpers are those that Hugging Face's templates are written for.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from contextvars import ContextVar
from datetime import datetime
from itertools import islice
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, TemplateReference, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace, pass_context

MAX_SOURCE = 300_000
"""Characters of a template. The longest that models come with have 30,000."""
MAX_STEPS = 300_000
"""A turn of a loop, a call, a comparison: one each. A message takes some tens."""
MAX_SIZE = 10_000_000
"""Characters that a template writes, or that a value it handles has, with all that is in it."""
MAX_ELEMENTS = 100_000
"""Of a list or dict that a template handles, with all that is in it."""
_MAX_PRODUCT = 2 * MAX_SIZE
_MAX_BITS = 4096
_CHARS_PER_STEP, _ELEMENTS_PER_STEP = 64, 8
"""What one step handles."""
_MACRO_STEPS = 10
"""What calling a macro costs: much of Jinja runs for it."""
_MAX_INDENT = 32
_MAX_DECIMALS = 100
_MAX_BLANKS = 1_000_000
"""Characters of a text that is split at blanks, of which it may consist."""

# fmt: off
_STR_METHODS = frozenset({
    "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdigit", "islower", "isspace",
    "isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
})
_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "indent", "int",
    "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace",
    "reverse", "round", "safe", "select", "selectattr", "sort", "string", "title", "trim", "unique", "upper",
)
# fmt: on
_METHODS: dict[type, frozenset[str]] = {
    str: _STR_METHODS,
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
}  # fmt: skip
"""What may be called on values; a namespace, a macro and `loop` have what Jinja gives them."""
_KEYS = (str, int, float, bool, type(None), Undefined)
"""What may be a key. The hash of a tuple takes the time of all that is in it, again and again."""
_CHEAP = frozenset({"count", "d", "default", "first", "last", "length"})
"""Filters that take no longer for what is large."""
_MULTIPLYING = frozenset({"indent", "join", "replace"})
"""Filters and methods whose result can be as large as the product of what they are given."""


class TemplateFailed(Exception):  # noqa: N818 - not an error of ours; the caller says whose message is meant
    """What a template raised, in words."""


@functools.lru_cache(maxsize=16)
def compile_template(source: str) -> ChatProgram:
    """Raises TemplateFailed for what is no template."""
    return ChatProgram(source)


class ChatProgram:
    """A compiled chat template."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateFailed(f"the template has {len(source)} characters; {MAX_SOURCE} are the most")
        self.source = source
        self.tells_time = "strftime_now" in source
        self.knows_ipython_only = "ipython" in source and not re.search(r"""["']tool["']""", source)
        """Whether a tool's results have Llama 3's name for their role in this template, and not the usual one."""
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except Exception as error:  # whatever the compiler meets in somebody else's text
            raise TemplateFailed(_in_words(error)) from error

    def text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool,
        tokens: Mapping[str, str],
        now: datetime,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """What the template writes. `tokens` are its variables `bos_token` and so on. Raises TemplateFailed."""
        reset = _RUN.set(_Run(now))
        variables = {"tools": tools, "documents": None, "add_generation_prompt": generation_prompt, **tokens}
        try:
            text: str = self._template.render(messages=[dict(message) for message in messages], **variables)
            text.encode("utf-8")  # a template can write half of a character, which is no text
            return text
        except Exception as error:  # a template can raise whatever Python's operators raise
            raise TemplateFailed(_in_words(error)) from error
        finally:
            _RUN.reset(reset)


class _Run:
    """One rendering: what it may still spend, and its time."""

    def __init__(self, now: datetime) -> None:
        self.now, self.steps, self.written = now, 0, 0

    def spend(self, *values: Any) -> None:
        self.pay(1 + sum(map(_cost, values)))

    def pay(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise SecurityError(f"it takes over {MAX_STEPS} steps: it loops without end or nearly so")

    def write(self, text: str) -> None:
        self.written += len(text)
        if self.written > MAX_SIZE:
            raise SecurityError(f"it writes over {MAX_SIZE} characters")


_RUN: ContextVar[_Run] = ContextVar("run")


def _size(value: Any) -> int:
    """Characters and elements of a value and all that is in it. Raises SecurityError where they are too many."""
    return sum(_measured(value))


def _cost(value: Any) -> int:
    """Steps that handling a value takes."""
    size, elements = _measured(value)
    return size // _CHARS_PER_STEP + elements // _ELEMENTS_PER_STEP


def _measured(value: Any) -> tuple[int, int]:
    """Characters, and elements, of a value and all that is in it."""
    size, elements, rest = 0, 0, [value]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, (list, tuple, dict, range)):
            elements += len(value)
            if elements <= MAX_ELEMENTS and not isinstance(value, range):
                rest += [*value, *value.values()] if isinstance(value, dict) else value
        elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise SecurityError("it makes a number beyond bounds")
        if size > MAX_SIZE or elements > MAX_ELEMENTS:
            raise SecurityError(f"it makes a value of over {MAX_SIZE} characters or {MAX_ELEMENTS} elements")
    return size, elements


def _bounded(value: Any) -> Any:
    _size(value)
    return value


def _multiply(*values: Any) -> None:
    """Refuse an operation whose result may be as large as the largest value times the next."""
    sizes = sorted(abs(value) if _is_number(value) else _size(value) for value in values)
    if len(sizes) > 1 and sizes[-1] * sizes[-2] > _MAX_PRODUCT:
        raise SecurityError("it multiplies the sizes of its texts beyond bounds")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        kind = next((kind for kind in _METHODS if isinstance(obj, kind)), None)
        if kind is not None:
            return attr in _METHODS[kind]
        known = isinstance(obj, (Namespace, Macro, LoopContext, TemplateReference, Undefined))
        return known and super().is_safe_attribute(obj, attr, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, _key(argument))

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is not among the methods that are let through."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in Jinja
        owner = getattr(__obj, "__self__", None)
        name = getattr(__obj, "__name__", "")
        _RUN.get().spend(owner, *args, *kwargs.values())
        if isinstance(__obj, Macro):
            _RUN.get().pay(_MACRO_STEPS)
        if isinstance(owner, str):
            _refuse_much_text(owner, name, *args, *kwargs.values())
        elif isinstance(owner, dict):
            args = tuple(_key(arg) if index == 0 else arg for index, arg in enumerate(args))
        return _bounded(_listed(super().call(__context, __obj, *args, **kwargs)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _RUN.get().spend(left, right)
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise SecurityError(f"it uses the operator {operator!r}, which no chat template needs")
        if operator == "*" and not (_is_number(left) and _is_number(right)):
            _multiply(left, right)
        return _bounded(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Put a meter at every loop, comparison, slice and text that is written (into macros, `set` blocks and `~`
        too), and look at the keys of every dict."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise SecurityError("it has a recursive loop")
            loop.iter = _metered(loop.iter, "metered_loop")
        for output in tree.find_all(nodes.Output):
            output.nodes = [_metered_output(child) for child in output.nodes]
        for concat in tree.find_all(nodes.Concat):
            concat.nodes = [_metered_output(child) for child in concat.nodes]
        for comparison in tree.find_all(nodes.Compare):
            comparison.expr = _metered(comparison.expr, "metered_value")
            for operand in comparison.ops:
                operand.expr = _metered(operand.expr, "metered_value")
        for item in tree.find_all(nodes.Getitem):
            if isinstance(item.arg, nodes.Slice):  # which Jinja leaves to Python
                item.node = _metered(item.node, "metered_value")
        for pair in tree.find_all(nodes.Pair):
            pair.key = _metered(pair.key, "metered_key")
        return tree


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _key(value: Any) -> Any:
    if not isinstance(value, _KEYS):
        raise SecurityError(f"it uses a value of the type {type(value).__name__} as a key")
    return value


def _listed(value: Any) -> Any:
    """What is made lazily, as a list: nobody could say how large it is."""
    if isinstance(value, LoopContext) or not isinstance(value, (Iterator, KeysView, ItemsView, ValuesView)):
        return value
    return _bounded(list(islice(value, MAX_ELEMENTS + 1)))


def _refuse_much_text(text: str, name: str, *args: Any) -> None:
    """Before a method of a text makes something larger of it."""
    if name in _MULTIPLYING:
        _multiply(text, *args)
    blank = name == "splitlines" or (name in ("split", "rsplit") and not any(isinstance(arg, str) for arg in args))
    parts = sum(text.count(arg) for arg in args if isinstance(arg, str) and arg) if "split" in name else 0
    if parts > MAX_ELEMENTS or (blank and len(text) > _MAX_BLANKS):
        raise SecurityError("it splits a text into too many parts")


def _metered_output(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.TemplateData) else _metered(node, "metered_text")


def _metered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@pass_context  # or Jinja would do it while compiling
def _metered_loop(_: Context, values: Any) -> Iterator[Any]:
    for value in values:
        _RUN.get().spend()
        yield value


@pass_context
def _metered_value(_: Context, value: Any) -> Any:
    _RUN.get().spend(value)
    return value


@pass_context
def _metered_key(_: Context, value: Any) -> Any:
    return _key(value)


@pass_context
def _metered_text(_: Context, value: Any) -> Any:
    _RUN.get().write(value if isinstance(value, str) else str(_bounded(value)))
    return value


def _paying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that pays for what it is given."""

    @functools.wraps(function)  # with Jinja's marks of what the filter wants to be passed
    def paying(*args: Any, **kwargs: Any) -> Any:
        at = next((i for i, arg in enumerate(args) if not isinstance(arg, _JINJAS_OWN)), len(args))
        args = (*args[:at], *map(_listed, args[at:]))
        values = [*args[at:], *kwargs.values()]
        _RUN.get().spend(*(values[1:] if name in _CHEAP else values))
        if name in _MULTIPLYING and values:
            _multiply(*values)
        if name == "round" and any(abs(x) > _MAX_DECIMALS for x in values[1:] if isinstance(x, int)):
            raise SecurityError("it rounds to digits that no number has")
        result = _listed(function(*args, **kwargs))
        return result if name in _CHEAP else _bounded(result)

    return paying


_JINJAS_OWN = (Context, nodes.EvalContext, jinja2.Environment)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks an assistant's words for other programs; here it changes nothing:
    what is learnt is derived, not declared."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _TemplateNamespace(Namespace):
    """Without names that lead into Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `namespace(self=...)` works
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _refuse_private(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        Namespace.__setitem__(self, name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it stores the private attribute {name!r}")


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return _RUN.get().now.strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, without escapes for HTML."""
    layout = [indent, *(separators or ())]
    if any(len(x) > _MAX_INDENT if isinstance(x, str) else abs(x) > _MAX_INDENT for x in layout if x is not None):
        raise SecurityError("it indents JSON beyond bounds")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _dict(*values: Mapping[Any, Any], **named: Any) -> dict[Any, Any]:
    """Of pairs, too; their keys are plain."""
    pairs = [list(value.items() if isinstance(value, Mapping) else value) for value in values]
    return dict([(_key(key), value) for found in pairs for key, value in found], **named)


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    _RUN.get().spend(numbers)
    return _bounded(numbers)


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols]
    )
    known: dict[str, Callable[..., Any]] = {name: environment.filters[name] for name in _FILTERS}
    known["tojson"] = _tojson
    environment.filters.clear()
    environment.filters |= {name: _paying(name, function) for name, function in known.items()}
    meters = {"metered_key": _metered_key, "metered_loop": _metered_loop, "metered_text": _metered_text,
              "metered_value": _metered_value}  # fmt: skip
    environment.filters |= meters
    tests: dict[str, Any] = environment.tests
    environment.tests |= {name: _paying(name, test) for name, test in tests.items()}
    environment.globals.clear()
    environment.globals |= {
        "dict": _dict,
        "namespace": _TemplateNamespace,
        "raise_exception": _raise_exception,
        "range": _range,
        "strftime_now": _strftime_now,
    }
    return environment


_ENVIRONMENT = _environment()


def _in_words(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()[:300]
    return text if isinstance(error, jinja2.TemplateError) and text else f"{type(error).__name__}: {text}"
