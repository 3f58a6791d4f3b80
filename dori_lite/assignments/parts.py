"""What the three assignments share: a key, from which hidden inputs are drawn, and parts that are graded one by one.

    key = Key("a1", ask, salt="2026", secret="only the lecturer's")
    noise = np.random.default_rng(key.seed("ada", "magnitude")).normal(size=(4, 5, 4, 8, 8))
    mine = chosen(names, 12, "2026", "ada")

A part's inputs are made by the grader, its function is called in a child process, and the grader judges the result.
"""

import hashlib
import hmac
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ranges import check_count

PRACTICE, NOBODY = "practice", "your student id"  # who stands in a notebook before its student has filled it in
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Key:
    """What an `assignment` asks (`ask`), which canaries a student gets (`salt`, public), and the grader's `secret`.

    The practice variant has no secret: whoever reads the book may draw its hidden inputs.
    """

    assignment: str
    ask: Mapping
    salt: str = "practice"
    secret: str = field(default="", repr=False)

    def seed(self, student: str, part: str, k: int = 0) -> int:
        """A hidden seed of 32 bits, of a student, a part and a number."""
        text = "\n".join([self.assignment, self.salt, check_student(student), part, str(k)])
        return int.from_bytes(hmac.digest(self.secret.encode(), text.encode(), "sha256")[:4], "big")


@dataclass(frozen=True)
class Part:
    """One graded function or value, `name` in the notebook, and its `points`.

    `given(key, student)` makes the inputs, {name: array}; `call(function or value, given)` applies the student's answer
    to them, in a child process, and returns {name: array}; `judge(key, student, given, returned)` gives the share of
    the points, in [0, 1], and a reason.
    """

    name: str
    points: int
    given: Callable[[Key, str], Arrays]
    call: Callable[..., Arrays]
    judge: Callable[[Key, str, Arrays, Arrays], tuple[float, str]]


def check_student(student) -> str:
    """A student's name as it counts: without blanks around it. Raises ValueError for what is no text, and for none."""
    if not isinstance(student, str) or not student.strip():
        raise ValueError(f"student={student!r} is no name; give your own as text, in the cell of parameters")
    return student.strip()


def check_ask(ask: Mapping, choices: Mapping[str, Sequence]) -> Mapping:
    """`ask`. Raises ValueError for a question that is missing, and for one that there is no choice of."""
    for name, values in choices.items():
        if ask.get(name) not in values:
            known = ", ".join(map(repr, values))
            raise ValueError(f"ask[{name!r}] is {ask.get(name)!r}; run the cell with the questions as it was: {known}")
    return ask


def chosen(items: Sequence, count: int, salt: str, student: str) -> list:
    """`count` of `items` in an order of the student's own: the same for the same salt and name.

    Raises ValueError for more than there are.
    """
    items = list(items)
    check_count("count", count, 1, len(items))
    seed = hashlib.sha256(f"{salt}\n{check_student(student)}".encode()).hexdigest()
    return random.Random(seed).sample(items, count)


def drawn(choices: Mapping[str, Sequence], secret: str, practice: Mapping, without: Sequence[Mapping] = ()) -> dict:
    """What a graded variant asks: one of the `choices` of each question, never all as in the practice variant.

    `without` are answers that do not go together, {question: choice} each.

    Raises ValueError where there is nothing else to ask.
    """
    refused = [{name: practice[name] for name in choices}, *without]
    for k in range(1000):  # with two choices of a question at least, half of all draws miss the practice variant
        seed = hmac.digest(secret.encode(), f"questions {k}".encode(), "sha256")
        source = random.Random(seed)
        ask = {name: source.choice(list(values)) for name, values in choices.items()}
        if not any(some.items() <= ask.items() for some in refused):
            return ask
    raise ValueError("there is nothing to choose from but the practice variant")
