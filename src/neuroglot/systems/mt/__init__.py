"""Machine translation of text as Systems: they answer `text_translation`, and translate any source text shown."""

from neuroglot.systems.mt.causal import CausalTranslator
from neuroglot.systems.mt.installed import Apertium, FastTranslate
from neuroglot.systems.mt.seq2seq import Seq2SeqTranslator
from neuroglot.systems.mt.translator import Translator

__all__ = ["Apertium", "CausalTranslator", "FastTranslate", "Seq2SeqTranslator", "Translator"]
