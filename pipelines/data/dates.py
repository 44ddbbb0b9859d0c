"""Captions that are mostly dates: what cameras and blogs write where a caption should be."""

import re

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = (
    r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b,?\s+(?=\d|[a-z]+\.?\s+\d)"
)
_NUMBER = r"\d{1,2}(?:st|nd|rd|th)?"
_YEAR = r"(?:19|20)\d\d"
_DATE = re.compile(
    rf"""
      \d{{1,4}}([-/.])\d{{1,2}}\1\d{{1,4}}             # 2021-04-07, 7/4/2021, 07.04.21
    | \b\d{{1,2}}:\d\d(?::\d\d)?(?:\s?[ap]\.?m\.?)?    # 18:32, 6:32:10 pm
    | \b(?:{_DAY})?{_MONTH}\s+{_NUMBER}(?:,?\s+{_YEAR})?\b  # Wed, April 7th, 2021
    | \b(?:{_DAY})?{_NUMBER}\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR})?\b  # 7 April 2021
    | \b{_MONTH}\s+{_YEAR}\b                           # April 2021
    | \b{_YEAR}\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_mostly_date(text: str) -> bool:
    """Whether at least half of the caption's letters and digits belong to dates and times."""
    in_dates = sum(map(str.isalnum, "".join(match.group() for match in _DATE.finditer(text))))
    return 2 * in_dates >= sum(map(str.isalnum, text)) > 0
