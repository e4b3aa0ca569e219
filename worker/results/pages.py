"""The pages of the Secondary Capture: a summary with the table of lesions, then key slices, one to a page.

Drawn for a reading monitor: dark, few words, everything that matters in one look. The research banner stands at the top
and the bottom of every page. Nothing is drawn that names the patient or tells a date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from worker.results.context import RESEARCH_NOTICE
from worker.results.kos import key_slices
from worker.results.overlay import draw_panel, fitting_font, font, panel_slices
from worker.results.summary import Answer, answer, lesion_cells, regions_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.results.context import OperatingPoints
    from worker.results.exam import AnalysedExam

SIZE_PX = (1024, 1024)
BANNER_PX = 36
MOST_KEY_PAGES = 6
MOST_ROWS = 8
"""Of the table of lesions on the summary page."""
_MARGIN = 36
_GROUND, _TEXT, _QUIET, _LINE = (0, 0, 0), (235, 235, 235), (160, 160, 160), (70, 70, 70)
_BANNER_GROUND, _BANNER_TEXT = (255, 208, 64), (0, 0, 0)
_COLOURS = {Answer.PRESENT: (255, 96, 64), Answer.ABSENT: (150, 215, 150), Answer.UNDETERMINED: (255, 208, 64)}
_COLUMN_X = (0, 60, 190, 350, 500, 640, 780)
"""Left edges of the table's columns, from the margin."""


def draw_banner(width: int) -> Image.Image:
    """The research notice as a bar across a page."""
    bar = Image.new("RGB", (width, BANNER_PX), _BANNER_GROUND)
    middle = (width // 2, BANNER_PX // 2)
    ImageDraw.Draw(bar).text(middle, RESEARCH_NOTICE, fill=_BANNER_TEXT, font=font(20), anchor="mm")
    return bar


def draw_pages(exam: AnalysedExam, points: OperatingPoints) -> list[Image.Image]:
    """All pages of an analysed exam, the summary first; a negative exam has the summary alone."""
    slices = sorted(key_slices(exam)[:MOST_KEY_PAGES])
    return [_summary_page(exam, points), *(_key_page(exam, z) for z in slices)]


def draw_rejection(code: str, sentence: str) -> Image.Image:
    """The page of a study that was not analysed."""
    page, draw = _blank()
    y = _MARGIN + BANNER_PX + 40
    draw.text((_MARGIN, y), "Not analysed", fill=_COLOURS[Answer.UNDETERMINED], font=font(54))
    lines = [code, "", *_wrapped(sentence, 58), "", "No statement about hemorrhage is made."]
    for number, line in enumerate(lines):
        draw.text((_MARGIN, y + 110 + 40 * number), line, fill=_TEXT, font=font(28))
    return page


def _blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    page = Image.new("RGB", SIZE_PX, _GROUND)
    bar = draw_banner(page.width)
    page.paste(bar, (0, 0))
    page.paste(bar, (0, page.height - BANNER_PX))
    return page, ImageDraw.Draw(page)


def _summary_page(exam: AnalysedExam, points: OperatingPoints) -> Image.Image:
    page, draw = _blank()
    word, prediction = answer(exam.prediction), exam.prediction
    y = BANNER_PX + 24
    draw.text((_MARGIN, y), "Intracranial hemorrhage", fill=_TEXT, font=font(34))
    draw.text((_MARGIN, y + 44), word.upper(), fill=_COLOURS[word], font=font(54))
    draw.text((page.width - _MARGIN, y + 6), f"probability {prediction.exam_score:.2f}", _TEXT, font(34), anchor="ra")
    draw.text((page.width - _MARGIN, y + 60), regions_text(exam.lesions), fill=_TEXT, font=font(34), anchor="ra")
    y = _table(draw, exam, y + 134) if exam.lesions else y + 134
    _panels(page, exam, top=y + 10, bottom=page.height - BANNER_PX - 66)
    foot = page.height - BANNER_PX - 54
    bundle = prediction.bundle
    draw.text((_MARGIN, foot), f"{bundle.name} {bundle.version} ({bundle.digest[:12]})", fill=_QUIET, font=font(18))
    draw.text((_MARGIN, foot + 24), f"thresholds: {points.as_text()}", fill=_QUIET, font=font(18))
    draw.text((page.width - _MARGIN, foot + 24), "window 40/80 HU", fill=_QUIET, font=font(18), anchor="ra")
    return page


def _table(draw: ImageDraw.ImageDraw, exam: AnalysedExam, y: int) -> int:
    """Draws the table of lesions and returns the y below it."""
    head, *rows = lesion_cells(exam.lesions)
    for x, text in zip(_COLUMN_X, head, strict=True):
        draw.text((_MARGIN + x, y), text, fill=_QUIET, font=font(20))
    y += 32
    for row in rows[:MOST_ROWS]:
        draw.line((_MARGIN, y - 2, SIZE_PX[0] - _MARGIN, y - 2), fill=_LINE)
        for x, text in zip(_COLUMN_X, row, strict=True):
            draw.text((_MARGIN + x, y + 4), text, fill=_TEXT, font=font(24))
        y += 38
    if len(rows) > MOST_ROWS:
        draw.text((_MARGIN, y + 2), f"and {len(rows) - MOST_ROWS} smaller ones", fill=_QUIET, font=font(20))
        y += 32
    return y


def _panels(page: Image.Image, exam: AnalysedExam, *, top: int, bottom: int) -> None:
    """Three slices side by side, and a second row of them where the table leaves the room, in the middle of it."""
    width = (page.width - 2 * _MARGIN) // 3
    size = min(width - 16, bottom - top - 40)
    fitting = 6 if 2 * (size + 40) <= bottom - top else 3
    slices = panel_slices(exam.prediction, exam.lesions)[:fitting]
    rows = -(-len(slices) // 3)
    for place, z in enumerate(slices):
        panel = draw_panel(exam.volume, z, exam.lesions, size_px=size)
        left = _MARGIN + place % 3 * width + (width - panel.width) // 2
        middle = top + (bottom - top) * (2 * (place // 3) + 1) // (2 * rows)
        page.paste(panel, (left, middle - panel.height // 2))


def _key_page(exam: AnalysedExam, z: int) -> Image.Image:
    """One key slice as large as the page allows, and what is outlined on it."""
    page, draw = _blank()
    panel = draw_panel(exam.volume, z, exam.lesions, size_px=page.height - 2 * BANNER_PX - 110)
    page.paste(panel, ((page.width - panel.width) // 2, BANNER_PX + 58))
    shown = [one for one in exam.lesions if one.region.on_slice(z).any()]
    told = "   ".join(f"{one.number}: {one.side}, {one.volume_ml:.1f} mL" for one in shown[:4])
    more = f"   and {len(shown) - 4} more" if len(shown) > 4 else ""
    fitted = fitting_font(told + more, page.width - 2 * _MARGIN, largest=26)
    draw.text((page.width // 2, BANNER_PX + 30), told + more, fill=_TEXT, font=fitted, anchor="mm")
    return page


def _wrapped(text: str, width: int) -> Sequence[str]:
    """Lines of at most `width` characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
