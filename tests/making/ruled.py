"""A model that can do what the recipes ask for, and goes wrong where a test plants it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Lock
from zlib import crc32

Dialog = Sequence[Mapping[str, str]]


def call(name: str, **parameters: object) -> str:
    return json.dumps({"name": name, "parameters": parameters})


class ToolUser:
    """Calls tools. `planted`: by patterns what it writes in place of a first call, one for each of the first questions
    that match."""

    def __init__(self, planted: Mapping[str, Sequence[str]] = {}) -> None:
        self.planted = {pattern: list(answers) for pattern, answers in planted.items()}
        self.fallen: dict[str, str] = {}
        """What was planted, by the question."""
        self.meant: dict[str, list[str]] = {}
        """The calls that a question about functions was made of."""
        self.times: Counter[str] = Counter()
        self.lock = Lock()

    def __call__(self, dialog: Dialog) -> str:
        said = dialog[-1]["content"]
        if said.startswith("Write questions that"):
            words = said.split("Text:\n")[1].split()
            return f"Question: Who knew {' '.join(words[2:6])}?\nAnswer: {' '.join(words[:2])}"
        if "Here is a call of them:" in said:
            return self.question(said.split("Here is a call of them:\n")[1].split("\n\n")[0])
        prompt = next(turn["content"] for turn in dialog if turn["role"] == "user")
        results = [turn["content"] for turn in dialog if turn["role"] == "tool"]
        if not results:
            with self.lock:
                for pattern, left in self.planted.items():
                    if prompt not in self.fallen and left and re.search(pattern, prompt):
                        self.fallen[prompt] = left.pop(0)
            if prompt in self.fallen:
                return self.fallen[prompt]
        return self.tools(prompt.split("\n(")[0], results)

    def question(self, calls: str) -> str:
        values = " and of ".join(re.findall(r"-?\d+\.?\d*|\"[A-Z][a-z]+ [A-Z][a-z]+\"", calls))
        with self.lock:
            case = "".join("abcdefghij"[int(digit)] for digit in str(crc32(calls.encode())))
            text = f"What do I get of {values} in the case that is called {case}?"
            self.meant[text] = calls.split("; ")
        return text.replace('"', "")

    def tools(self, prompt: str, results: Sequence[str]) -> str:
        if (
            (numbers := re.findall(r"\d+", prompt))
            and prompt.startswith(("What is ", "Compute "))
            and "loop" not in prompt
        ):
            a, b = map(int, numbers[:2])
            if "plus" in prompt and "times" not in prompt:
                return self.sometimes(prompt, str(a + b))
            if "squares" in prompt:
                code = f"print(sum(n * n for n in range(0, {numbers[1]}, {numbers[0]})))"
                return f"It is {results[0]}." if results else call("python", code=code)
            c = int(numbers[2])
            sum_ = f"{a} * {b} + {c}" if "times" in prompt else f"{a} * ({b} + {c})"
            return f"The result is {int(results[0]):,}." if results else call("calculator", expression=sum_)
        if "I have uploaded the file " in prompt:
            return f"That is {results[0]}." if results else call("python", code=table_code(prompt))
        if prompt.startswith("Who knew "):
            if not results:
                return call("search", query=prompt)
            found = next((text for text in json.loads(results[0]) if prompt[9:-1] in text), "nobody at all")
            return f"It was {' '.join(found.split()[:2])}."
        for question, calls in self.meant.items():
            if question.replace('"', "") == prompt:
                return self.functions(calls, results)
        return EASY.get(prompt, "I do not know that.")

    def functions(self, calls: Sequence[str], results: Sequence[str]) -> str:
        return f"They are {' and '.join(results)}." if results else "; ".join(calls)

    def sometimes(self, prompt: str, answer: str) -> str:
        return answer


class Restless(ToolUser):
    """Calls a tool every second time where none is needed."""

    def sometimes(self, prompt: str, answer: str) -> str:
        with self.lock:
            self.times[prompt] += 1
            return answer if self.times[prompt] % 2 else call("calculator", expression=answer)


class Stepwise(ToolUser):
    """Makes the inner call of a nested one first."""

    def functions(self, calls: Sequence[str], results: Sequence[str]) -> str:
        outer = json.loads(calls[0])
        key, inner = next(iter(outer["parameters"].items()))
        if not results:
            return json.dumps(inner)
        if len(results) == 1:
            return call(outer["name"], **{**outer["parameters"], key: json.loads(results[0])})
        return f"It is {results[1]}."


def table_code(prompt: str) -> str:
    """What computes the answer of a question about an uploaded table, in whatever format."""
    name = re.search(r"the file (\S+)\. ", prompt)[1]
    word = re.search(r"(?:region|amounts of) (north|south|east|west|\w+s)\?", prompt)
    return "\n".join(
        (
            "import re",
            f"text = open({name!r}).read()",
            "rows = text.split('}') if '}' in text else text.splitlines()",
            f"rows = [row for row in rows if {(word[1] if word else '')!r} in row and re.search('[0-9]', row)]",
            "numbers = [int(re.findall('[0-9]+', row)[-1]) for row in rows]",
            f"print({'max(numbers) - min(numbers)' if 'minus' in prompt else 'sum(numbers)'})",
        )
    )


EASY = {
    "Which day comes after Monday?": "It is Tuesday.",
    "Which month comes before May?": "April.",
    "How many legs does a dog have?": "Four.",
    "What is the opposite of hot?": "Cold, I would say.",
    "What colour is snow?": "White.",
    "How many days does a week have?": "It has seven days.",
    "What is the capital of France?": "Paris",
    "Which animal says meow?": "The cat.",
    "How many wheels does a bicycle have?": "2",
    "What is frozen water called?": "Ice.",
}


DISOBEDIENT = (
    "Sorry! I am tired, and my friend is too. Give me a moment, please, then I shall tell you all about it. There is"
    " soup in the kitchen, bread on the table, and a garden behind the house. Once we were young, and the sea was near."
    " Nobody knew what came next. In the end it was winter."
)
"""It breaks every rule that there is."""


class Obedient:
    """Obeys the rules of a system prompt, as far as they are known to it, and asks as a user. `breaks`: words of the
    system prompts whose rules it breaks in the turn of this number."""

    def __init__(self, breaks: Mapping[str, int] = {}) -> None:
        self.breaks = dict(breaks)

    def __call__(self, dialog: Dialog) -> str:
        system, said = dialog[0]["content"], dialog[-1]["content"]
        if dialog[0]["role"] != "system":
            return f"What can we do about the matter number {said.count('They: ') + 1} today?"
        turn = sum(message["role"] == "user" for message in dialog)
        if any(word in system and turn == number for word, number in self.breaks.items()):
            return DISOBEDIENT
        return obeying(system, turn)


def obeying(system: str, turn: int) -> str:
    """An answer that obeys the rules of a system prompt."""
    if found := re.search(r'keys "(\w+)" and "(\w+)"', system):
        return json.dumps({found[1]: f"we eat there {turn} times", found[2]: "it is near"})
    if found := re.search(r'begins with "(.) "', system):
        return f"{found[1]} we eat there {turn} times\n{found[1]} we rest"
    start = re.search(r'with the words "([\w ]+)"', system)
    end = "?" if "with a question" in system else "."
    text = f"{start[1] if start else 'well'} we eat there {turn} times{end}"
    signed = re.search(r'last line is "(- [\w ]+)"', system)
    return f"{text}\n{signed[1]}" if signed else text


QUESTIONS = {
    "German": "Was ist das beste Essen für einen Abend mit der Familie, und wie macht man es?",
    "French": "Quel est le meilleur plat pour une soirée avec la famille, et comment le fait-on ?",
    "Thai": "อาหารที่ดีที่สุดสำหรับครอบครัวคืออะไร",
    "Hindi": "परिवार के साथ शाम के लिए सबसे अच्छा खाना क्या है",
    "Latin letters": "Parivar ke saath shaam ke liye sabse achha khana kya hai aur kaise banta hai?",
}
ANSWERS = {
    "Was": "Das ist nicht leicht zu sagen, aber eine Suppe mit Brot ist für alle gut.",
    "Quel": "Ce n'est pas facile à dire, mais une soupe avec du pain est très bien pour tous.",
    "อาห": "ต้มยำกุ้งเป็นอาหารที่ดีสำหรับทุกคน",
    "परि": "दाल और चावल सबके लिए अच्छे हैं",
    "Pari": "Dal aur chawal sabke liye bahut achhe hain, aur yeh jaldi ban jata hai.",
}
IN_ENGLISH = "That is not easy to say, but a soup with bread is good for all of us."
IN_DEVANAGARI = ANSWERS["परि"]


class Polyglot:
    """Asks and answers in several languages. `planted`: by the beginning of a question what is answered to it, in turn
    with what is right."""

    def __init__(self, planted: Mapping[str, str] = {}) -> None:
        self.planted, self.times, self.lock = dict(planted), Counter[str](), Lock()

    def __call__(self, dialog: Dialog) -> str:
        said = dialog[-1]["content"]
        if said.startswith("Write one question about"):
            wanted = max((name for name in QUESTIONS if name in said), key=len)
            return QUESTIONS[wanted].replace("?", f" ({len(said)})?")
        if said.startswith("Translate the text below into"):
            (number,) = re.findall(r"\d+", said)
            return f"Ist die Zahl {number} gerade, oder ist sie es nicht, und was sagst du dazu?"
        if said.startswith("Ist die Zahl"):
            (number,) = re.findall(r"\d+", said)
            right = (
                f"Die Zahl {number} ist durch zwei zu teilen oder nicht.\nAnswer: {'no' if int(number) % 2 else 'yes'}"
            )
            return self.one_of(said, right, self.planted.get("Ist"))
        start = next(start for start in ANSWERS if said.startswith(start))
        return self.one_of(said, ANSWERS[start], self.planted.get(start))

    def one_of(self, said: str, right: str, planted: str | None) -> str:
        with self.lock:
            self.times[said] += 1
            return right if planted is None or self.times[said] % 2 else planted


class Reader:
    """Asks about chunks and sums up; whoever is asked again about a chunk in which `planted` stands says something
    else, and a summary of it tells of Atlantis."""

    def __init__(self, planted: str = "\0") -> None:
        self.planted = planted

    def __call__(self, dialog: Dialog) -> str:
        said = dialog[-1]["content"]
        if "Does the text say everything" in said:
            return "yes"
        if said.startswith("Write questions that"):
            words = said.split("Text:\n")[1].split()
            return f"Question: Which words come first?\nAnswer: {' '.join(words[:3])}"
        if said.endswith("Answer in as few words as you can."):
            return "Nobody knows." if self.planted in said else f"They are {' '.join(said.split()[:3])}"
        text = said.split("\n", 1)[1].split("Text:\n")[-1].split()
        return " ".join([*text[:9], *(["in Atlantis"] if self.planted in said else [])])
