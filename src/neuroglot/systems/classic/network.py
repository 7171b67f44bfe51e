"""The model behind every kind: transformers' M2M-100 architecture, small and from scratch, with a fusion around its
encoder. M2M-100 (Fan et al., 2021) is what LLaVA-NeuMT's tables call the text Transformer.

B batch, L source tokens, T target tokens, V vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import M2M100Config, M2M100ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from neuroglot.systems.classic.fusion import Vision, fusion_of
from neuroglot.systems.classic.settings import Settings
from neuroglot.systems.classic.vocabulary import END, PAD, START

IGNORED = -100


class Network(nn.Module):
    """An encoder-decoder that may be shown images.

    Args:
        kind: how images get in.
        settings: sizes.
        pieces: size of the vocabulary.
        image_width: width of an image's vectors, 0 where there are none.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, kind: str, settings: Settings, pieces: int, image_width: int) -> None:
        super().__init__()
        config = M2M100Config(
            vocab_size=pieces,
            d_model=settings.width,
            encoder_layers=settings.layers,
            decoder_layers=settings.layers,
            encoder_attention_heads=settings.heads,
            decoder_attention_heads=settings.heads,
            encoder_ffn_dim=settings.inner,
            decoder_ffn_dim=settings.inner,
            dropout=settings.dropout,
            attention_dropout=settings.dropout,
            activation_dropout=0.0,
            encoder_layerdrop=0.0,
            decoder_layerdrop=0.0,
            init_std=settings.width**-0.5,  # of scaled embeddings, so that words are as large as positions
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
            decoder_start_token_id=START,
        )
        self.translator = M2M100ForConditionalGeneration(config)
        self.translator.generation_config.max_length = None
        self.fusion = fusion_of(kind, settings, image_width)
        # The towers' dimensions differ in size by orders of magnitude; training sets these from its images.
        self.register_buffer("shift", torch.zeros(image_width))
        self.register_buffer("scale", torch.ones(image_width))

    def encode(self, source_BL: Tensor, vision: Vision) -> tuple[Tensor, Tensor]:
        """Return the states that the decoder attends to, and their mask."""
        mask = (source_BL != PAD).long()
        encoder = self.translator.get_encoder()
        embeds = encoder.embed_tokens(source_BL)  # (B, L, d), scaled
        language = embeds[:, 0]
        vision = Vision((vision.tokens - self.shift) * self.scale, vision.mask) if vision.mask.any() else vision
        states = encoder(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        found: tuple[Tensor, Tensor] = self.fusion(states, mask, vision, language)
        return found

    def forward(self, source_BL: Tensor, vision: Vision, target_BT: Tensor) -> Tensor:
        """Return the logits of every target token: (B, T, V); the target is padded with -100."""
        states, mask = self.encode(source_BL, vision)
        shown = pad(target_BT[:, :-1], (1, 0), value=START)
        shown = shown.masked_fill(shown == IGNORED, PAD)
        return self.translator(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=shown,
            use_cache=False,
        ).logits

    def generate(
        self, source_BL: Tensor, vision: Vision, beams: int, most: int, length_penalty: float = 1.0
    ) -> Tensor:
        """Return tokens, the start among them: (B, at most `most` + 1)."""
        states, mask = self.encode(source_BL, vision)
        translator: Any = self.translator
        found: Tensor = translator.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            num_beams=beams,
            max_new_tokens=most,
            do_sample=False,
            # Greedy decoding has no use for it, and transformers says so.
            **({"length_penalty": length_penalty} if beams > 1 else {}),
        )
        return found


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of tokens as one tensor, filled up on the right."""
    found = torch.full((len(rows), max(map(len, rows))), value)
    for place, row in enumerate(rows):
        found[place, : len(row)] = torch.tensor(row)
    return found
