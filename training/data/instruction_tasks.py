"""The tasks of synthetic instructions: each asks a question and some that follow from it, and knows the answers.

A task takes what to draw from and the pairs of digits that may be multiplied, and returns its exchanges in order.
"""

import json
import random
from collections.abc import Callable

from training.data.instruction_words import DEFINITIONS, MONTHS, UNITS, WORDS
from training.data.synthetic import NAMES, Pair

# What a user says, the bare result, and the same in a sentence.
Exchange = tuple[str, str, str]


def _sort_numbers(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    numbers = draw.sample(range(1, 100), draw.randint(3, 8))
    ascending = sorted(numbers)
    up, down = _join(ascending), _join(ascending[::-1])
    ask = draw.choice(("Sort these numbers from small to large", "Put these numbers in ascending order"))
    total = ascending[-1] - ascending[0]
    return [
        (f"{ask}: {_join(numbers)}", up, f"In ascending order they are {up}."),
        ("Now the other way round.", down, f"In descending order they are {down}."),
        (
            "What is the difference between the largest and the smallest of them?",
            str(total),
            f"The difference is {ascending[-1]} - {ascending[0]} = {total}.",
        ),
    ]


def _sort_words(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    words = draw.sample(WORDS, draw.randint(3, 7))
    alphabetical = sorted(words)
    longest = max(alphabetical, key=len)
    removed = [word for word in alphabetical if word != alphabetical[0]]
    return [
        (
            f"Put these words in alphabetical order: {_join(words)}",
            _join(alphabetical),
            f"In alphabetical order: {_join(alphabetical)}.",
        ),
        (
            "Leave out the first word of your list.",
            _join(removed),
            f'Without "{alphabetical[0]}" the list is: {_join(removed)}.',
        ),
        (
            "Which word of my list is the longest? If there are several, take the first in the alphabet.",
            longest,
            f'The longest is "{longest}" with {len(longest)} letters.',
        ),
    ]


def _count_letter(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    words = draw.sample(WORDS, draw.randint(1, 4))
    text = " ".join(words)
    letter = draw.choice(text.replace(" ", ""))
    count, letters = text.count(letter), len(text.replace(" ", ""))
    times = "once" if count == 1 else f"{count} times"
    return [
        (
            f'How many times does the letter {letter} occur in "{text}"?',
            str(count),
            f'The letter {letter} occurs {times} in "{text}".',
        ),
        (
            "And how many letters are there altogether, without the blanks?",
            str(letters),
            f"There are {letters} letters.",
        ),
    ]


def _spell(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    words = draw.sample(WORDS, 3)
    dashes = ["-".join(word) for word in words]
    backwards = words[2][::-1]
    return [
        (
            f'Spell the words "{words[0]}" and "{words[1]}" with a dash between the letters.',
            f"{dashes[0]} {dashes[1]}",
            f'"{words[0]}" is spelled {dashes[0]}, and "{words[1]}" is spelled {dashes[1]}.',
        ),
        (f'Do the same with "{words[2]}".', dashes[2], f'"{words[2]}" is spelled {dashes[2]}.'),
        (
            "Write that last word backwards, without dashes.",
            backwards,
            f'"{words[2]}" backwards is "{backwards}".',
        ),
    ]


def _format_text(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    words = draw.sample(WORDS, draw.randint(2, 6))
    text = " ".join(words)
    name, change = draw.choice(
        (("capital letters", str.upper), ("title case", str.title), ("snake case, with underscores", _snake))
    )
    bullets = "\n".join(f"- {word}" for word in words)
    numbered = "\n".join(f"{number}. {word}" for number, word in enumerate(words, 1))
    return [
        (f'Write "{text}" in {name}.', change(text), f"Here it is in {name}: {change(text)}"),
        ("Now write the words as a list, one on each line, with a dash in front.", bullets, f"The list:\n{bullets}"),
        ("Number the lines instead.", numbered, f"The numbered list:\n{numbered}"),
    ]


def _format_record(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    name, age, pet, city = draw.choice(NAMES), draw.randint(7, 80), draw.choice(WORDS), draw.choice(WORDS).title()
    record = json.dumps({"name": name, "age": age, "city": city})
    longer = json.dumps({"name": name, "age": age, "city": city, "pet": pet})
    line = f"{name};{age};{city};{pet}"
    return [
        (
            f"{name} is {age} years old and lives in {city}. Write this as JSON with the keys name, age and city.",
            record,
            f"Here is the JSON:\n{record}",
        ),
        (f'The pet of {name} is called "{pet}". Add it with the key pet.', longer, f"With the pet:\n{longer}"),
        ("Now as one line, the values with semicolons between them.", line, f"As one line:\n{line}"),
    ]


def _format_date(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    year, month, day = draw.randint(1900, 2099), draw.randint(1, 12), draw.randint(1, 28)
    number = f"{year}-{month:02d}-{day:02d}"
    later = f"{day} {MONTHS[month - 1]} {year + 10}"
    return [
        (
            f"Write the date {day} {MONTHS[month - 1]} {year} in the form YYYY-MM-DD.",
            number,
            f"In that form the date is {number}.",
        ),
        ("Which date is ten years later, in words as I wrote it?", later, f"Ten years later is {later}."),
    ]


def _compare(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    digits = draw.choice((100, 10_000, 1_000_000))
    first, second, third = draw.sample(range(1, digits), 3)
    larger, least = max(first, second), min(first, second, third)
    is_even = third % 2 == 0
    return [
        (
            f"Which number is larger, {first} or {second}?",
            str(larger),
            f"{larger} is larger than {min(first, second)}.",
        ),
        (
            f"And of these two and {third}, which is the smallest?",
            str(least),
            f"The smallest of the three is {least}.",
        ),
        (
            f"Is {third} even or odd?",
            "even" if is_even else "odd",
            f"{third} is {'even' if is_even else 'odd'}, because it ends in {third % 10}.",
        ),
    ]


def _add(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    first, second, third = draw.randint(10, 999), draw.randint(10, 999), draw.randint(1, 9)
    total = first + second
    return [
        (
            draw.choice((f"What is {first} + {second}?", f"Add {first} and {second}.")),
            str(total),
            f"{first} + {second} = {total}.",
        ),
        (f"Take {third} away from that.", str(total - third), f"{total} - {third} = {total - third}."),
        (
            "How far is that from one thousand?",
            str(abs(1000 - total + third)),
            f"It is {abs(1000 - total + third)} away from one thousand.",
        ),
    ]


def _multiply(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    (a, b), word, name = draw.choice(facts), draw.choice(WORDS), draw.choice(NAMES)
    boxes = f"{word} box" if a == 1 else f"{word} boxes"
    product, more = a * b, draw.randint(1, 60)
    sign = draw.choice(("*", "×", "x"))
    return [
        (
            f"{name} has {a} {boxes} with {b} buttons in each. How many buttons are there?",
            str(product),
            f"There are {a} {sign} {b} = {product} buttons.",
        ),
        (
            f"{name} finds {more} more. How many are there now?",
            str(product + more),
            f"Now there are {product} + {more} = {product + more} buttons.",
        ),
    ]


def _convert(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    # Two digits at least: no product of two digits is stated that may be held out.
    (large, small, factor), amount, more = draw.choice(UNITS), draw.randint(11, 9999), draw.randint(11, 99)
    return [
        (
            f"How many {small} are {amount} {large}?",
            str(amount * factor),
            f"{amount} {large} are {amount * factor} {small}, because one of them is {factor} {small}.",
        ),
        (
            f"And with {more} {small} more?",
            str(amount * factor + more),
            f"Then it is {amount * factor} + {more} = {amount * factor + more} {small}.",
        ),
    ]


def _define(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    terms = draw.sample(sorted(DEFINITIONS), draw.randint(2, 4))
    last = terms[-1]
    lines = "\n".join(f"{term}: {DEFINITIONS[term]}" for term in terms)
    return [
        (f"Explain in a few words each: {_join(terms)}", lines, f"Here is what they mean.\n{lines}"),
        (
            f"Use the last of these in a sentence that begins with: The word {last} means",
            f"The word {last} means {DEFINITIONS[last]}.",
            f"The word {last} means {DEFINITIONS[last]}.",
        ),
        (
            "Which of the words did I ask about first?",
            terms[0],
            f'You asked about "{terms[0]}" first.',
        ),
    ]


def _filter(draw: random.Random, facts: list[Pair]) -> list[Exchange]:
    numbers = draw.sample(range(1, 200), draw.randint(5, 9))
    even, odd = ([number for number in numbers if number % 2 == rest] for rest in (0, 1))
    large = [number for number in numbers if number > 100]
    return [
        (
            f"Which of these numbers are even? {_join(numbers)}",
            _join(even),
            f"The even numbers are: {_join(even)}." if even else "None of them is even.",
        ),
        ("And which are odd?", _join(odd), f"The odd numbers are: {_join(odd)}." if odd else "None of them is odd."),
        (
            "How many of all the numbers are above one hundred?",
            str(len(large)),
            f"Above one hundred: {_join(large)}. The count is {len(large)}.",
        ),
    ]


TASKS: tuple[Callable[[random.Random, list[Pair]], list[Exchange]], ...] = (
    _sort_numbers,
    _sort_words,
    _count_letter,
    _spell,
    _format_text,
    _format_record,
    _format_date,
    _compare,
    _add,
    _multiply,
    _convert,
    _define,
    _filter,
)


def _join(values: list) -> str:
    return ", ".join(map(str, values)) or "none"


def _snake(text: str) -> str:
    return text.replace(" ", "_")
