"""The networks: transformers' M2M-100 architecture, small and from scratch, with an image fusion around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import M2M100Config, M2M100ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from neuroglot.baselines.settings import END, PAD, START, ClassicSettings

# ---- Fusions: how an image gets into a translation model ------------------------------------------------------------
# B batch, L text tokens, S image tokens, D their width, d the model's width. A fusion changes what comes out of the
# encoder. Without an image the text's states stay as they are.


class Vision(NamedTuple):
    """The images of a batch.

    Attributes:
        tokens: (B, S, D); S is 0 where no example has an image.
        mask: (B, S), which of them are there.
    """

    tokens: Tensor
    mask: Tensor


class Fusion(nn.Module):
    """The text Transformer: images are not looked at."""

    def forward(
        self, states_BLd: Tensor, mask_BL: Tensor, vision: Vision, language_Bd: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the decoder attends to, and its mask."""
        return states_BLd, mask_BL


class GatedFusion(Fusion):
    """(1 - g) * H + g * z with g = sigmoid(W [H; z]): a gate for each token and dimension.

    z is the image's mean vector, projected. The gated fusion of Li et al. (2021), "Vision matters when it should",
    which LLaVA-NeuMT's tables name.
    """

    def __init__(self, settings: ClassicSettings, image_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(image_width, settings.width)
        self.gate = nn.Linear(2 * settings.width, settings.width)

    def mix(self, states: Tensor, image: Tensor, gate: Tensor) -> Tensor:
        return (1 - gate) * states + gate * image

    def forward(
        self, states_BLd: Tensor, mask_BL: Tensor, vision: Vision, language_Bd: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gated states."""
        if not vision.mask.any():
            return states_BLd, mask_BL
        there = vision.mask.unsqueeze(2).to(states_BLd.dtype)  # (B, S, 1)
        count = there.sum(1)  # (B, 1)
        mean = (vision.tokens * there).sum(1) / count.clamp(min=1)
        z = self.project(mean).unsqueeze(1).expand_as(states_BLd)
        gate = torch.sigmoid(self.gate(torch.cat([states_BLd, z], 2)))
        return torch.where((count > 0).unsqueeze(2), self.mix(states_BLd, z, gate), states_BLd), mask_BL


class WuGatedFusion(GatedFusion):
    """H + g * z, with the same gate: the gated fusion of Wu et al. (2021), "Good for misconceived reasons"."""

    def mix(self, states: Tensor, image: Tensor, gate: Tensor) -> Tensor:
        return states + gate * image


class Concatenation(Fusion):
    """The decoder attends to the text's states and to the projected image vectors, which no encoder layer has seen.

    The concatenation of Li et al. (2021), "Vision matters when it should". There the image stands first; attention to
    encoder states has no positions, so the order changes nothing.
    """

    def __init__(self, settings: ClassicSettings, image_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(image_width, settings.width)

    def forward(
        self, states_BLd: Tensor, mask_BL: Tensor, vision: Vision, language_Bd: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return text and image, one after the other: (B, L + S, d)."""
        if not vision.mask.any():
            return states_BLd, mask_BL
        both = torch.cat([states_BLd, self.project(vision.tokens)], 1)
        return both, torch.cat([mask_BL, vision.mask.to(mask_BL.dtype)], 1)


class LanguageAwarePrompt(Fusion):
    """LVP-M3 (Guo et al., 2022): the target language writes the network that turns an image into a visual prompt.

    Three stages, in the paper's words: token encoding (image tokens of a frozen tower, text states of the encoder);
    language-aware visual prompt generation, where a controller network makes from the target language's token the
    parameters of a mapping network, which maps the image tokens to the prompt; language translation, where a
    co-Transformer whose queries are the text states and whose keys and values are the prompt gives the vision-guided
    states that the decoder attends to:

        w_k = C(e_k),   P_k = M(V; w_k),   H' = H + CoAttention(H, P_k, P_k)

    Smaller than the paper's: the mapping is d -> d/4 -> d behind a shared projection D -> d, and there is one
    co-Transformer layer.
    """

    def __init__(self, settings: ClassicSettings, image_width: int) -> None:
        super().__init__()
        width, narrow = settings.width, max(1, settings.width // 4)
        self.narrow = narrow
        self.project = nn.Sequential(nn.Linear(image_width, width), nn.LayerNorm(width))
        self.controller = nn.Linear(width, 2 * width * narrow + narrow + width)
        # What the controller writes should be as large as the weights of a fresh Linear.
        nn.init.normal_(self.controller.weight, std=1 / (width * narrow) ** 0.5)
        nn.init.zeros_(self.controller.bias)
        self.prompt_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, settings.heads, settings.dropout, batch_first=True)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, settings.inner), nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(settings.inner, width)
        )

    def prompt(self, vision: Vision, language_Bd: Tensor) -> Tensor:
        """Return the visual prompts of the samples' target languages: (B, S, d)."""
        width, narrow = language_Bd.shape[1], self.narrow
        written = self.controller(language_Bd)
        into, out, inner_bias, bias = written.split([width * narrow, width * narrow, narrow, width], 1)
        x = self.project(vision.tokens)
        x = torch.relu(x @ into.unflatten(1, (width, narrow)) + inner_bias.unsqueeze(1))
        return self.prompt_norm(x @ out.unflatten(1, (narrow, width)) + bias.unsqueeze(1))

    def forward(
        self, states_BLd: Tensor, mask_BL: Tensor, vision: Vision, language_Bd: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the vision-guided states."""
        if not vision.mask.any():
            return states_BLd, mask_BL
        there = vision.mask.any(1)  # (B,)
        hidden = ~vision.mask & there.unsqueeze(1)  # a row without any key would be a softmax over nothing
        prompt = self.prompt(vision, language_Bd)
        seen, _ = self.attention(self.text_norm(states_BLd), prompt, prompt, hidden, need_weights=False)
        guided = states_BLd + seen
        guided = guided + self.feed(self.feed_norm(guided))
        return torch.where(there[:, None, None], guided, states_BLd), mask_BL


FUSIONS: dict[str, type[Fusion]] = {
    "gated-fusion": GatedFusion,
    "gated-fusion-wu": WuGatedFusion,
    "concatenation": Concatenation,
    "lvp-m3": LanguageAwarePrompt,
}


def fusion_of(kind: str, settings: ClassicSettings, image_width: int) -> Fusion:
    """Return the fusion of a kind, freshly initialised."""
    return FUSIONS[kind](settings, image_width) if kind in FUSIONS else Fusion()


# ---- The network ----------------------------------------------------------------------------------------------------
# The model behind every kind: transformers' M2M-100 architecture, small and from scratch, with a fusion around its
# encoder. M2M-100 (Fan et al., 2021) is what LLaVA-NeuMT's tables call the text Transformer.
#
# B batch, L source tokens, T target tokens, V vocabulary, d width.

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

    def __init__(self, kind: str, settings: ClassicSettings, pieces: int, image_width: int) -> None:
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
        result: tuple[Tensor, Tensor] = self.fusion(states, mask, vision, language)
        return result

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
        result: Tensor = translator.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            num_beams=beams,
            max_new_tokens=most,
            do_sample=False,
            # Greedy decoding does not use it; transformers would warn.
            **({"length_penalty": length_penalty} if beams > 1 else {}),
        )
        return result


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of tokens as one tensor, filled up on the right."""
    result = torch.full((len(rows), max(map(len, rows))), value)
    for index, row in enumerate(rows):
        result[index, : len(row)] = torch.tensor(row)
    return result
