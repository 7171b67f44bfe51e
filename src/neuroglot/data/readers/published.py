"""Published corpora in their published layouts: Multi30K and AmbigCaps, CoMMuTE, OCRMT30K, MIT-10M."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from neuroglot.data.example import Example
from neuroglot.data.readers.checked import Ids
from neuroglot.data.readers.examples import Notes, Piece, checked_text, examples, not_a_text
from neuroglot.data.readers.files import Fields, Part, Row, convert, first_fields, joined, json_lines
from neuroglot.data.readers.layout import Layout, Record, check_left_out, split_of, splits_of
from neuroglot.data.readers.parallel import Aligned, first_folder, language_files, of_pairs, pairs_of, together
from neuroglot.errors import UserError, nearest
from neuroglot.pair import Pair, language_code

# ---- Multi30K, M3-Multi30K, AmbigCaps, M3-AmbigCaps -----------------------------------------------------------------
# How to obtain:
#
# - Multi30K: github.com/multi30k/dataset, `data/task1` (English, German, French, Czech); the photographs of Flickr30k
#   after a request at its home page, those of the later test sets as linked in the repository.
# - M3-Multi30K and M3-AmbigCaps (also with Latvian, Hindi and Turkish): text linked in the repository of LVP-M3
#   (Guo et al. 2022); it is line-aligned with Multi30K and AmbigCaps and uses their images.
# - AmbigCaps (English, Turkish): linked in the repository vision-matters-when-it-should (Li et al. 2021).
#
# Files: `train.en`, `train.de`, ... (plain or .gz) in the folder itself, in `raw/` or in `data/task1/raw/`; lists of
# image names `train.txt` beside them or in `image_splits/` (Multi30K), or `train/index.txt` (AmbigCaps); photographs
# in `images/` or `flickr30k-images/` (Multi30K), in `train/` (AmbigCaps), or in `data.images`.
#
# Image translation renders the caption, text translation uses it as text, multimodal translation adds the photograph,
# and describing asks for the caption of the photograph. If there are several test sets,
# `data.splits: {test: test_2017_flickr}` chooses one.

CAPTION_TEXTS = ("", "raw", "data/task1/raw", "task1/raw", "text")
CAPTION_IMAGES = ("images", "flickr30k-images", "flickr30k_images")
_CAPTION = re.compile(r"#\d+$")
"""The number of a caption in Flickr30k, after the name of its image."""
PICTURED = ("multimodal_translation", "describe")


def captions_folder(path: Path) -> Path | None:
    """Return the folder of a corpus that contains the captions."""
    return first_folder((path / name for name in CAPTION_TEXTS), language_files)


def read_captions(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of a corpus of captions, all splits one after the other.

    Raises:
        UserError: there are no captions, files are not aligned, or a language or the list of images is missing.
    """
    texts = captions_folder(path)
    if texts is None:
        raise UserError(f"{path} holds no captions; expected files such as train.en and train.de there or in raw/")
    files = language_files(texts)
    position = 0
    splits: list[tuple[str | None, str]] = [*splits_of(files, layout, texts).items()]
    for split, stem in splits or [(None, _only(files, texts))]:
        pairs = pairs_of(layout, files[stem], texts / stem)
        wanted = {language for pair in pairs for language in (pair.source, pair.target)}
        chosen = {language: file for language, file in files[stem].items() if language in wanted}
        folder = None
        if set(layout.made) & set(PICTURED):
            chosen["image"] = image_list(path, texts, stem)
            folder = layout.images or image_folder(path, chosen["image"])
        for record in together(chosen, path):
            position += 1
            if record.wrong is not None:
                yield position, record.wrong
                continue
            name = _CAPTION.sub("", record.texts.get("image", ""))
            piece = Piece(
                source=None,
                targets={},
                item=f"{stem}-{record.number}",
                number=position,
                pictured=(folder / name,) if folder else (),
                split=split,
            )
            yield from ((position, example) for example in of_pairs(piece, record.texts, pairs, layout))


def _only(files: Mapping[str, object], where: Path) -> str:
    if len(files) > 1:
        raise UserError(f"{where} has {', '.join(sorted(files))}; say in data.splits which is train, dev and test")
    return next(iter(files))


def image_list(path: Path, texts: Path, stem: str) -> Path:
    """Return the file that names the photographs of a split.

    Raises:
        UserError: there is none.
    """
    name = stem.split(".", maxsplit=1)[0]  # train.lc.norm.tok -> train
    roots = (texts, texts.parent / "image_splits", path / "image_splits", path)
    candidates = [root / form for root in roots for form in (f"{name}.txt", f"{name}/index.txt", f"{name}_images.txt")]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise UserError(
            f"{path} has no list of photographs for {name}; expected {name}.txt beside the captions or in "
            f"image_splits/, or {name}/index.txt"
        )
    return file


def image_folder(path: Path, listed: Path) -> Path:
    """Return the folder of the photographs of a list, if the recipe does not name it."""
    if listed.name == "index.txt":
        return listed.parent
    candidates = [root / name for root in (path, listed.parent, listed.parent.parent) for name in CAPTION_IMAGES]
    return next((folder for folder in candidates if folder.is_dir()), path / CAPTION_IMAGES[0])


# ---- CoMMuTE --------------------------------------------------------------------------------------------------------
# How to obtain: github.com/MatthieuFP/CoMMuTE (CC BY-NC-SA 4.0); the photographs as linked there, unpacked to
# `images/` or where `data.images` says.
#
# One folder for each direction (`en-de`, `en-fr`, ..., `en-fr_dev`) with `src.en`, `correct.de`, `incorrect.de` and
# `img.order`, line-aligned. An example has the sentence as source, the photograph, the right reading as target and the
# wrong one in `alternatives`; the score is how often the right one is likelier (Futeral et al. 2023). All folders
# except `en-fr_dev` are for testing: when training on another corpus, name it in `evaluate.retention`; to train on
# that one folder, set `data.splits: {train: dev}`.

_FOLDER = re.compile(r"([a-z]{2,3})-([a-z]{2,3})(?:_(dev|valid|val|test))?")
ORDER = "img.order"


def directions(path: Path) -> dict[Path, tuple[Pair, str]]:
    """Return folder -> pair and split, of a corpus or of one of its folders.

    Raises:
        UserError: a folder's name has an unknown language code.
    """
    by_folder = {}
    for folder in [path, *sorted(path.iterdir())] if path.is_dir() else ():
        name = _FOLDER.fullmatch(folder.name)
        if name and (any(folder.glob("correct.*")) or (folder / ORDER).is_file()):
            try:
                pair = Pair(language_code(name[1]), language_code(name[2]))
            except UserError as error:
                raise UserError(f"{folder}: {error}; the folder's name is its pair") from None
            by_folder[folder] = pair, "test" if name[3] in (None, "test") else "dev"
    return by_folder


def read_commute(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of CoMMuTE; only those of the recipe's pairs if it names some.

    Raises:
        UserError: a pair has no folder, or its files are not aligned.
    """
    by_folder = directions(path)
    if not by_folder:
        raise UserError(f"{path} is no CoMMuTE; expected folders such as en-de with src.en, correct.de, incorrect.de")
    known = [str(pair) for pair, _ in by_folder.values()]
    for pair in layout.directions:
        if str(pair) not in known:
            raise UserError(f"{path} has no pair {pair}; {nearest(str(pair), known)}")
    named = {split: str(folder.relative_to(path.parent)) for folder, (_, split) in by_folder.items()}
    chosen = splits_of(named, layout, path)
    check_left_out(named, chosen, layout, path)
    ours = {theirs: split for split, theirs in chosen.items()}
    before = position = 0
    for folder, (pair, theirs) in by_folder.items():
        if (layout.pairs and pair not in layout.directions) or theirs not in ours:
            continue
        before = position
        source, target = folder.name.partition("_")[0].split("-")
        files = {
            "source": folder / f"src.{source}",
            "correct": folder / f"correct.{target}",
            "incorrect": folder / f"incorrect.{target}",
            "image": folder / ORDER,
        }
        images = layout.images or (path if folder != path else path.parent) / "images"
        for record in together(files, path):
            position = before + record.number  # in a single folder, the line of its files
            if record.wrong is not None:
                yield position, record.wrong
                continue
            texts = record.texts
            piece = Piece(
                source=texts["source"],
                targets={pair: texts["correct"]},
                item=f"{texts['source']}|{texts['image']}",
                number=position,
                pictured=(images / texts["image"],),
                alternatives={pair: (texts["incorrect"],)},
                split=ours[theirs],
            )
            # By default the photograph is context; there is no text in it to translate.
            asked = layout if layout.tasks else replace(layout, task="multimodal_translation")
            yield from ((position, example) for example in examples(piece, asked))


# ---- OCRMT30K -------------------------------------------------------------------------------------------------------
# How to obtain: github.com/DeepLearnXMU/mc_tit, `ocrmt30k_data/v2.0` (no commercial use); the photographs after a form
# linked there. `data.source` is that folder, or the one with the text files in it.
#
# Files of a split (train, valid, test): `image_train.txt`, the name of the photograph of each line;
# `ocr_zh_train.txt`, the text as people wrote it down; `ocr_zh_pseudo_train.txt`, the text as an OCR read it;
# `ocr_en_train.txt`, the translation. The tokenised files (`train.tok.lower.zh-c`, `.zh`, `.en`) are not read: their
# words are split. Photographs are in `whole_image_v2/` or `whole_image/`, or where `data.images` says.
#
# A line is one text of a photograph, which may have several. Image translation and transcribing use a photograph with
# all of its texts, joined by line breaks, since a single one could not be identified; text translation and multimodal
# translation use each text separately. The source is the text that people wrote down, or with `data.columns: {source:
# ocr}` the text that the OCR read.

OCRMT30K_TEXTS = ("", "before_tok_bpe", "after_proprecess", "after_proprecess/before_tok_bpe")
OCRMT30K_IMAGES = ("whole_image_v2", "whole_image")
PAIR = Pair("zh", "en")
WHOLE = ("image_translation", "ocr")
SOURCES = ("gold", "ocr")


@dataclass(frozen=True)
class _Place:
    split: str | None
    name: str
    images: Path
    source: str


def ocrmt30k_folder(path: Path) -> Path | None:
    """Return the folder that contains the text files."""
    return first_folder((path / name for name in OCRMT30K_TEXTS), lambda folder: any(folder.glob("ocr_en_*.txt")))


def read_ocrmt30k(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of OCRMT30K: of a photograph, or of one of its texts.

    Raises:
        UserError: files are missing or not aligned, or another direction than zh-en is asked for.
    """
    folder = ocrmt30k_folder(path)
    if folder is None:
        raise UserError(f"{path} is no OCRMT30K; expected files such as ocr_en_train.txt and image_train.txt in it")
    for pair in layout.directions:
        if pair != PAIR:
            raise UserError(f"{path} has the pair {PAIR}, and data.pairs asks for {pair}")
    source = layout.columns.get("source", "gold")
    if source not in SOURCES or set(layout.columns) > {"source"}:
        raise UserError(f"data.columns of OCRMT30K is {{source: gold}} or {{source: ocr}}, got {dict(layout.columns)}")
    names = [file.stem.removeprefix("ocr_en_") for file in folder.glob("ocr_en_*.txt")]
    origin = 0
    for split, theirs in splits_of(names, layout, folder).items():
        files = {
            "image": folder / f"image_{theirs}.txt",
            "gold": folder / f"ocr_zh_{theirs}.txt",
            "ocr": folder / f"ocr_zh_pseudo_{theirs}.txt",
            "target": folder / f"ocr_en_{theirs}.txt",
        }
        location = _Place(split, theirs, layout.images or _images(path, folder), source)
        optional = [role for role in SOURCES if role != source]
        later = _later(together(files, path, optional))
        waiting: dict[str, list[Aligned]] = {}
        for name, group in groupby(together(files, path, optional), _photograph):
            lines = list(group)
            every = [*waiting.pop(name, []), *lines]
            if later[name]:  # its other texts come later
                later[name] -= 1
                waiting[name], every = every, []
            yield from _of_image(lines, every, location, origin + 1, layout)
            origin += len(lines)


def _photograph(record: Aligned) -> str:
    return record.texts["image"]


def _later(records: Iterable[Aligned]) -> Counter[str]:
    """Return how often each photograph occurs again after others; empty if all lines of each are adjacent."""
    known, counts = Ids(), Counter[str]()
    for name, _ in groupby(records, _photograph):
        counts.update([name] if known.earlier(name, 0) is not None else [])
    return counts


def _of_image(
    lines: Sequence[Aligned], every: Sequence[Aligned], origin: _Place, first: int, layout: Layout
) -> Iterator[Record]:
    """Yield the examples of a photograph, then those of its texts, each with the number of its line.

    Args:
        lines: adjacent lines of the photograph.
        every: all lines of the photograph; empty if more of them follow.
        origin: split, names and folder that they are from.
        first: number of the first of `lines`.
        layout: how the source is laid out.
    """
    joint = [task for task in layout.made if task in WHOLE]
    alone = [task for task in layout.made if task not in WHOLE]
    if every and joint and not any(line.wrong for line in every):
        yield from ((first, example) for example in examples(_piece(every, origin, first), layout, joint))
    for position, line in enumerate(lines, first):
        if line.wrong is not None:
            yield position, line.wrong
        elif alone:
            yield from ((position, e) for e in examples(_piece([line], origin, position), layout, alone))


def _piece(lines: Sequence[Aligned], origin: _Place, position: int) -> Piece:
    photograph = origin.images / lines[0].texts["image"]
    read = "\n".join(line.texts["ocr"] for line in lines if line.texts["ocr"])
    return Piece(
        source="\n".join(line.texts[origin.source] for line in lines),
        targets={PAIR: "\n".join(line.texts["target"] for line in lines)},
        item=f"{origin.name}-{lines[0].number}",
        number=position,
        written=(photograph,),
        pictured=(photograph,),
        split=origin.split,
        meta={} if origin.source == "ocr" or not read else {"ocr": read},
    )


def _images(path: Path, folder: Path) -> Path:
    roots = [path, *list(folder.parents)[:3]]
    return next(
        (r / name for r in roots for name in OCRMT30K_IMAGES if (r / name).is_dir()), path / OCRMT30K_IMAGES[0]
    )


# ---- MIT-10M --------------------------------------------------------------------------------------------------------
# How to obtain: the test set and a sample are on the Hugging Face hub (Apache-2.0), the full set after a request
# there. The public sample is `test.jsonl` and `data/base/*.jpg`; of the full set unpack
# `{train,test}/{DE,EN,ES,FR,IT,JA,PT, ZH}.jsonl` into one folder with the images. Images are found by their paths or
# by their base names alone, in `images/`, `data/base/`, `data/` or the folder itself, or where `data.images` says.
#
# A line of the files is one image in one direction: `id`, `img`, `src_lang`, `tgt_lang`, `src_text`, `tgt_text` (lines
# joined by line breaks), `difficulty`, `cate_name`, `split`. Only some of the visible lines are annotated, not in
# reading order; the order-free line match allows for this.
#
# The marks of a code fence around a target are removed, also a tag such as `plaintext` after the opening one; any
# other text there is kept. `meta.fenced` records it, and `neuroglot data check` shows the target before and after.
#
# The file decides the split; a different `split` in a record is reported.

_FENCE = re.compile(r"\s*```(?:(?:plaintext|text|txt|markdown|md)[ \t]*\r?\n)?((?:(?!```).)*)```\s*", re.DOTALL)
"""A text in one code fence, perhaps with a tag for text. Any other word may be part of the translation."""

MIT10M_IMAGES = ("images", "data/base", "data", "")
MIT10M_TEXTS = ("id", "img", "src_lang", "tgt_lang", "src_text", "tgt_text")


def split_files(path: Path) -> dict[str, list[Path]]:
    """Return the source's split name -> its files: `train/DE.jsonl`, or `train.jsonl` with MIT-10M's fields."""
    by_split: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*/*.jsonl")):
        if re.fullmatch(r"[A-Z]{2}", file.stem):
            by_split.setdefault(file.parent.name, []).append(file)
    if not by_split:
        by_split = {file.stem: [file] for file in sorted(path.glob("*.jsonl")) if has_fields(first_fields(file))}
    return by_split


def has_fields(names: Collection[str]) -> bool:
    """Whether these are the fields of an MIT-10M record."""
    return set(MIT10M_TEXTS) <= set(names)


def read_mit10m(path: Path, layout: Layout) -> Iterator[Record]:
    """Yield the records of MIT-10M; only those of the recipe's pairs if it names some.

    Raises:
        UserError: the folder has no such files.
    """
    files = {path.stem: [path]} if path.is_file() else split_files(path)
    if not files:
        raise UserError(
            f"{path} is no MIT-10M; expected files such as train/EN.jsonl and test/EN.jsonl in it, or test.jsonl with "
            f"the fields {', '.join(MIT10M_TEXTS)}"
        )
    root = path.parent if path.is_file() else path
    splits: Mapping[str | None, str] = {**splits_of(files, layout, path)}
    check_left_out({name: str(of[0].relative_to(root)) for name, of in files.items()}, splits, layout, path)
    if not splits and len(files) > 1:
        raise UserError(f"{path} has {', '.join(sorted(files))}; say in data.splits which is train, dev and test")
    parts = [
        Part(str(file.relative_to(root)), json_lines(file), root, ours)
        for ours, theirs in (splits or {None: next(iter(files))}).items()
        for file in files[theirs]
    ]
    schema = partial(_examples, _Finder(root, layout.images), Ids(), layout)
    return convert(joined(parts, alone=path.is_file()), schema)


class _Finder:
    """Finds images, which a corpus stores either by their paths or by their base names."""

    def __init__(self, path: Path, images: Path | None) -> None:
        folders = [root for root in (path / name for name in MIT10M_IMAGES) if root.is_dir()]
        roots = [images] if images else folders
        self._ways = [(root, full) for root in roots for full in (True, False)]

    def find(self, name: str) -> Path:
        for number, (root, full) in enumerate(self._ways):
            file = root / (name if full else Path(name).name)
            if _is_file(file):
                self._ways.insert(0, self._ways.pop(number))  # the next one is probably there too
                return file
        root, full = self._ways[0]
        return root / (name if full else Path(name).name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, an unreadable folder: opening it reports this
        return False


def _examples(finder: _Finder, readings: Ids, layout: Layout, row: Row, fields: Fields) -> Iterator[Example]:
    for key in MIT10M_TEXTS:
        if not isinstance(fields.get(key), str):
            raise not_a_text(f"field {key!r}", fields.get(key))
    pair = Pair(language_code(fields["src_lang"]), language_code(fields["tgt_lang"]))
    if layout.pairs and pair not in layout.directions:
        return
    target, notes = checked_text(fields["tgt_text"], "field 'tgt_text'"), Notes()
    fenced = _FENCE.fullmatch(target)
    if fenced:
        target = notes.cleaned("target", target, checked_text(fenced[1], "text in the code fence of 'tgt_text'"))
    source = checked_text(fields["src_text"], "field 'src_text'")
    tasks = list(layout.made)
    # A photograph occurs once for each target language: examples in the source language are made from the first.
    if not all(task.endswith("translation") for task in tasks):
        photograph = f"{row.split}|{pair.source}|{fields['img']}|{source}"
        if readings.earlier(photograph, row.position) is not None:
            tasks = [task for task in tasks if task.endswith("translation")]
    named = fields.get("split")
    record_split = split_of(named, layout) if isinstance(named, str) else None
    split = row.split or record_split
    notes.split(named, record_split, row.split, split)
    meta = {"id": fields["id"], **_kept(fields), **({"fenced": True} if fenced else {}), **notes.meta}
    yield from examples(
        Piece(
            source=source,
            targets={pair: target},
            item=fields["id"].rpartition("_")[0] or fields["id"],  # 10596673_EN-ZH: the image is the item
            number=row.position,
            written=(finder.find(fields["img"]),),
            split=split,
            meta=meta,
        ),
        layout,
        tasks,
    )


def _kept(fields: Fields) -> Mapping[str, object]:
    names = {"difficulty": "difficulty", "cate_name": "category"}
    return {ours: fields[theirs] for theirs, ours in names.items() if fields.get(theirs) is not None}
