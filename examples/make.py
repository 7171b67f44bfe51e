"""Make the example images (`python examples/make.py`).

`signs/` holds signs as the embedded corpus draws them, from its test split: what the embedded model can read. The
photographs beside it, at an angle, in odd sizes, blurred, JPEG and PNG, stand for a user's own files, with
`signs.jsonl`: neuroglot did not draw them, and the embedded model cannot read them. Translations are
CLDR's, through the embedded corpus.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from neuroglot.data.example import split_seed
from neuroglot.synthetic.render import render
from neuroglot.synthetic.signs import signs

HERE = Path(__file__).parent
LANGUAGES = ("de", "fr")


def photograph(text: str, rng: random.Random) -> Image.Image:
    """A board with a text, turned a little, on a blurred background with a gradient."""
    width, height = rng.randrange(220, 420), rng.randrange(160, 320)
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    picture = Image.blend(picture, Image.new("RGB", (width, height), tuple(rng.choices(range(256), k=3))), 0.6)
    font = ImageFont.load_default(size=rng.randrange(18, 28))
    box = font.getbbox(text)
    board = Image.new("RGBA", (int(box[2]) + 24, int(box[3]) + 20), (245, 240, 225, 255))
    pen = ImageDraw.Draw(board)
    pen.rectangle((2, 2, board.width - 3, board.height - 3), outline=(60, 60, 60, 255), width=2)
    pen.text((12, 8), text, fill=(30, 30, 30, 255), font=font)
    board = board.rotate(rng.uniform(-7, 7), expand=True, resample=Image.Resampling.BICUBIC)
    board.thumbnail((width - 8, height - 8))
    picture.paste(board, ((width - board.width) // 2, (height - board.height) // 2), board)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))


def main() -> None:
    """Write twelve signs, and twelve photographs with `signs.jsonl`."""
    (HERE / "signs").mkdir(exist_ok=True)
    plain = [sign.text("en") for sign in signs("test", 60) if sign.text("en").isascii()][:12]
    for number, text in enumerate(plain):
        render(text, split_seed("test", 0), number).image.save(HERE / "signs" / f"sign-{number:02d}.png")
    rng = random.Random(5)
    chosen = [s for s in signs("test", 60, seed=5) if s.text("en").isascii()][:12]
    lines = []
    for number, sign in enumerate(chosen):
        name = f"photo-{number:02d}.{'jpg' if number % 3 else 'png'}"
        photograph(sign.text("en"), rng).save(HERE / name)
        split = "train" if number < 8 else "dev" if number < 10 else "test"
        for language in LANGUAGES:
            record = {"image": name, "source": sign.text("en"), "target": sign.text(language), "split": split}
            lines.append({**record, "source_lang": "en", "target_lang": language})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (HERE / "signs.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
