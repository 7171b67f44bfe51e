"""A page that shows a check's findings, and one batch exactly as the model sees it."""

from neuroglot.data.checking.gallery.page import write_page
from neuroglot.data.checking.gallery.seen import Chip, Sample, Seen, see

__all__ = ["Chip", "Sample", "Seen", "see", "write_page"]
