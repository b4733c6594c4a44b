"""A line of lyrics as the lyric tokenizer wants it: lower case, numbers and signs as words.

docs/upstream.md, section 8. English is cleaned as upstream does for whole numbers below a million, dollars, the signs &
@ % and the abbreviations below. Chinese, Japanese and Korean become Latin letters (romanising.py). Upstream leaves
numbers to libraries that Backline does not bring along, so other languages are lower-cased only, and a line that cannot
be right without those libraries is a UserError.
"""

import re

from common.errors import UserError
from models.acestep1.text.romanising import UNROMANISED, romanised

KEEPS_DIGITS = ("zh", "ja", "hi")
"""Languages whose numbers upstream does not spell out, or whose digits mean tones."""
NUMBER = re.compile(r"(?<![\w.,])(\$?)(\d{1,3}(?:,\d{3})+|\d+)(?!\w|[.,]\d)")
"""A whole number that stands alone, perhaps in dollars: not a part of 3.5, 1st or mp3."""
ABBREVIATIONS = {"mr": "mister", "dr": "doctor", "st": "saint", "co": "company"}
SIGNS = {"&": " and ", "@": " at ", "%": " percent "}
# fmt: off
ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
SPELT_BELOW = 1_000_000


def clean_line(line: str, language: str) -> str:
    """`line` ready for the tokenizer.

    Raises UserError where digits or a script would need a library that is not there.
    """
    is_foreign = UNROMANISED.search(line) is not None
    if is_foreign and language == "ja":
        return romanised(line, language)  # as it is written: quotes and digits are the romaniser's business
    if language == "tr":
        line = line.replace("İ", "i")  # lower() alone would make two characters of it
    cleaned = line.replace('"', "").lower()
    if language == "en":
        cleaned = _in_english_words(cleaned)
    keeps_digits = language in KEEPS_DIGITS and not is_foreign
    if not keeps_digits and any(character.isdigit() for character in cleaned):
        raise UserError(f'lyrics line "{line}": this number is not spelt out in "{language}". Write it as words.')
    return " ".join(romanised(cleaned, language).split())


def spell(number: int) -> str:
    """English words for 0 <= number < 1,000,000: "one thousand, nine hundred and ninety-nine".

    Those of num2words 0.5.14, which is no dependency because it brings docopt, of which there is no wheel.
    """
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return f"{TENS[tens]}-{ONES[ones]}" if ones else TENS[tens]
    size, word = (100, "hundred") if number < 1000 else (1000, "thousand")
    count, rest = divmod(number, size)
    head = f"{spell(count)} {word}"
    if not rest:
        return head
    return f"{head} and {spell(rest)}" if rest < 100 else f"{head}, {spell(rest)}"


def _in_english_words(line: str) -> str:
    line = NUMBER.sub(_number_in_words, line)
    for short, word in ABBREVIATIONS.items():
        line = re.sub(rf"\b{short}\.", word, line)
    for sign, word in SIGNS.items():
        line = line.replace(sign, word)
    return line


def _number_in_words(match: re.Match[str]) -> str:
    number = int(match[2].replace(",", ""))
    if number >= SPELT_BELOW:
        return match[0]
    unit = "" if not match[1] else " dollar" if number == 1 else " dollars"
    return spell(number) + unit
