"""The rules of the filter: each looks at one pair and returns why the pair is rejected, or None.

The rules on captions and sizes come from published data sets (DALL-E: short captions, other
languages, dates, extreme aspect ratios; LAION: small images, duplicates). To add a rule, write a
class in this folder and enter it in `registry.RULES`.
"""

from pipelines.data.rules.base import PAIR_COLUMNS, ColumnKind, FilterRule, Row, column_value
from pipelines.data.rules.captions import CaptionDate, CaptionLength, Language, is_mostly_date
from pipelines.data.rules.columns import Columns, Condition
from pipelines.data.rules.deny import Deny
from pipelines.data.rules.functions import FunctionRule
from pipelines.data.rules.pictures import AspectRatio, Blank, Duplicate, ImageSide, NearCopy
from pipelines.data.rules.registry import RULES, find_rule
from pipelines.data.rules.safety import Safety

__all__ = [
    "PAIR_COLUMNS",
    "RULES",
    "AspectRatio",
    "Blank",
    "CaptionDate",
    "CaptionLength",
    "ColumnKind",
    "Columns",
    "Condition",
    "Deny",
    "Duplicate",
    "FilterRule",
    "FunctionRule",
    "ImageSide",
    "Language",
    "NearCopy",
    "Row",
    "Safety",
    "column_value",
    "find_rule",
    "is_mostly_date",
]
