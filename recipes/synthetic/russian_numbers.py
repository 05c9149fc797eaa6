"""Sentences of Russian numbers, a line each: texts of few words with letters that English lacks.

python recipes/synthetic/russian_numbers.py 3000 > numbers.txt
bash recipes/synthetic/run.sh --text numbers.txt --language ru --hours 2
"""

import random
import sys

# Each list begins with the empty word of a digit 0.
UNITS = (
    "|один|два|три|четыре|пять|шесть|семь|восемь|девять|десять|одиннадцать|двенадцать|тринадцать|"
    "четырнадцать|пятнадцать|шестнадцать|семнадцать|восемнадцать|девятнадцать"
).split("|")
TENS = ("||двадцать|тридцать|сорок|пятьдесят|шестьдесят|семьдесят|восемьдесят|девяносто").split("|")
HUNDREDS = ("|сто|двести|триста|четыреста|пятьсот|шестьсот|семьсот|восемьсот|девятьсот").split("|")


def spoken(number: int) -> str:
    """A number from 0 to 999 in words."""
    hundreds, rest = divmod(number, 100)
    tens, units = divmod(rest, 10) if rest >= 20 else (0, rest)
    words = HUNDREDS[hundreds], TENS[tens], UNITS[units]
    return " ".join(filter(None, words)) or "ноль"


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    draw = random.Random(0)
    for _ in range(int(sys.argv[1])):
        print(" ".join(spoken(draw.randrange(1000)) for _ in range(draw.randint(1, 3))))


if __name__ == "__main__":
    main()
