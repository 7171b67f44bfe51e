"""How an image gets into a translation model: nowhere, through a gate, beside the text, or as a visual prompt.

B batch, L text tokens, S image tokens, D their width, d the model's width. A fusion changes what comes out of the
encoder. Without an image the text's states stay as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuroglot.systems.classic.settings import Settings


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

    def __init__(self, settings: Settings, image_width: int) -> None:
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

    def __init__(self, settings: Settings, image_width: int) -> None:
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

    def __init__(self, settings: Settings, image_width: int) -> None:
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


def fusion_of(kind: str, settings: Settings, image_width: int) -> Fusion:
    """Return the fusion of a kind, freshly initialised."""
    return FUSIONS[kind](settings, image_width) if kind in FUSIONS else Fusion()
