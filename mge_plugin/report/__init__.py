"""Self-contained HTML result pages: players, spectrograms and levels in one file.

write_page(Page(title, lead, notice, sections=[Section(title, text, clips, tables)], facts), path)
"""

from mge_plugin.report.page import Clip, Page, Section, Table, render_page, write_page

__all__ = ["Clip", "Page", "Section", "Table", "render_page", "write_page"]
