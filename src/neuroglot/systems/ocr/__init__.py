"""OCR engines as Systems: they answer `ocr` examples and nothing else."""

from neuroglot.systems.ocr.boxes import reading_order
from neuroglot.systems.ocr.rapid import RapidReader
from neuroglot.systems.ocr.tesseract import TesseractReader

__all__ = ["RapidReader", "TesseractReader", "reading_order"]
