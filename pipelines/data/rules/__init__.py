"""The rules of the filter: each looks at one pair and returns why the pair is rejected, or None.

The rules on captions and sizes come from published data sets (DALL-E: short captions, other
languages, dates, extreme aspect ratios; LAION: small images, duplicates). To add a rule, write a
class in this folder and enter it in `registry.RULES`.
"""

from pipelines.data.rules.base import FilterRule, Row
from pipelines.data.rules.captions import CaptionDate, CaptionLength, Language, is_mostly_date
from pipelines.data.rules.pictures import AspectRatio, Duplicate, ImageSide
from pipelines.data.rules.registry import RULES, find_rule

__all__ = [
    "RULES",
    "AspectRatio",
    "CaptionDate",
    "CaptionLength",
    "Duplicate",
    "FilterRule",
    "ImageSide",
    "Language",
    "Row",
    "find_rule",
    "is_mostly_date",
]
