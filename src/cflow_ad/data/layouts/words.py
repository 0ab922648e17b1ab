"""What folders are called: words for good, defective, masks, training and test.

In English, German, Chinese and Japanese. Case, accents' spelling, full-width letters, numbers and
fillers do not count, so ``01_OK-Teile`` and ``ＯＫ`` are ``ok``.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["good", "bad", "masks", "train", "test", "validation", "images"]

_WORDS: dict[Kind, str] = {
    "good": """
        good ok okay normal pass passed fine nominal undamaged
        defectfree nodefect nodefects nondefective nondefect
        gut iO inordnung fehlerfrei defektfrei einwandfrei
        良 良品 良好 合格 合格品 正常 正常品 正品 无缺陷 無缺陷 無欠陥""",
    "bad": """
        bad ng nok notok notgood ko abnormal anomaly anomalies anomalous damaged nonconforming
        defect defects defective fail failed failure fault faults faulty reject rejects rejected
        schlecht defekt defekte fehler fehlerhaft niO nichtinordnung ausschuss anomalie anomalien
        不良 不良品 不合格 不合格品 缺陷 缺陷品 次品 瑕疵 瑕疵品
        异常 異常 異常品 欠陥 欠陥品 不具合""",
    "masks": """
        mask masks groundtruth gt annotation annotations segmentation segmentations
        maske masken 掩码 掩膜 遮罩 标注 標註 マスク 正解""",
    "train": """
        train training trainset trainingsdaten 训练 训练集 訓練 訓練集 学習 学習用""",
    "test": """
        test testing tests testset testdaten testpublic
        测试 测试集 測試 測試集 テスト 評価 評価用""",
    "validation": """
        val valid validation validierung 验证 验证集 驗證 検証 検証用""",
    "images": """
        image images img imgs picture pictures photo photos data dataset
        sample samples part parts product products
        bild bilder teil teile 图片 图像 圖片 影像 画像 写真 样本 サンプル データ""",
}


def _plain(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold()


_KINDS: dict[str, Kind] = {
    _plain(word): kind for kind, words in _WORDS.items() for word in words.split()
}
_FILLERS = tuple(word for word, kind in _KINDS.items() if kind == "images")


@lru_cache(maxsize=4096)
def kind_of_name(name: str) -> Kind | None:
    """Return what a folder's name says of the images in it; None for any other name.

    >>> [kind_of_name(name) for name in ("OK", "n.i.O.", "良品画像", "Ground_Truth", "scratch")]
    ['good', 'bad', 'good', 'masks', None]
    """
    parts = [part for part in re.split(r"[\W\d_]+", _plain(name)) if part]
    if kind := _KINDS.get("".join(parts)):
        return kind
    kept = [part for part in parts if part not in _FILLERS]
    word = "".join(kept)
    for filler in _FILLERS:
        word = word.removesuffix(filler) or word
    return _KINDS.get(word)


def is_good_name(name: str) -> bool:
    """Return whether a name is a word for good."""
    return kind_of_name(name) == "good"


def _pattern(item: str) -> str:
    return _plain(item.replace("\\", "/")).removeprefix("./").rstrip("/") or "."


def _fits(pattern: str, own: set[str]) -> bool:
    if pattern == "*" or pattern in own:
        return True
    return any(name != "." and fnmatch.fnmatchcase(name, pattern) for name in own)


@dataclass(frozen=True, slots=True)
class FolderNames:
    """Which folders hold what; where a field is set, words for that are not recognised.

    An item is a folder's name, its path in the data set, or a pattern of either, as ``lot*``. ``.``
    is the data set's folder itself, ``*`` every folder. Case does not count.
    """

    good: Sequence[str] = ()
    """Folders of good images."""
    bad: Sequence[str] = ()
    """Folders of defective images, or of folders for each defect."""
    masks: Sequence[str] = ()
    """Folders of masks."""

    def __bool__(self) -> bool:
        """Whether any is set."""
        return bool(self.good or self.bad or self.masks)

    def kind_of(self, parts: Sequence[str]) -> Kind | None:
        """Return what a folder holds, by its path in the data set; none is its folder itself."""
        given: tuple[tuple[Kind, Sequence[str]], ...] = (
            ("good", self.good),
            ("bad", self.bad),
            ("masks", self.masks),
        )
        own = {_plain("/".join(parts) or "."), _plain(parts[-1]) if parts else "."}
        patterns = [(kind, _pattern(item)) for kind, items in given for item in items]
        fitting = [(kind, pattern) for kind, pattern in patterns if _fits(pattern, own)]
        if fitting:  # a name says more than a pattern, and a pattern more than "all"
            return min(fitting, key=lambda fit: (fit[1] not in own, fit[1] == "*"))[0]
        kind_by_word = kind_of_name(parts[-1]) if parts else None
        taken = {kind for kind, items in given if items}
        return None if kind_by_word in taken else kind_by_word
