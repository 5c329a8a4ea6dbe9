"""Fonts of pictures: names in Chinese, Japanese or Korean need one that has them."""

from __future__ import annotations

from matplotlib import font_manager

LATIN = "DejaVu Sans"  # comes with matplotlib
CJK = ("Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "SimHei")


def families() -> list[str]:
    """Return the fonts to look for a letter in, in order: those of the above that are installed."""
    if not _installed():
        _take_in_new_fonts()
    return [LATIN, *_installed()]


def _installed() -> list[str]:
    known = set(font_manager.get_font_names())
    return [name for name in CJK if name in known]


def _take_in_new_fonts() -> None:
    """Add fonts that were installed after matplotlib listed what there is, which it does once."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for file in font_manager.findSystemFonts():
        if file not in known:
            try:
                font_manager.fontManager.addfont(file)
            except (OSError, RuntimeError):  # no font after all, or one of a kind that FreeType does not read
                continue
