"""The tokenizer of the tiny Qwen3: byte-level BPE over tags and the lines of the templates. It encodes any text."""

from itertools import chain

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from models.acestep15.prompts import END, INSTRUMENTAL, TRACKS, complete, lyrics_prompt, text_prompt
from recipe.tokenizer import world_texts


def make_prompt_tokenizer(vocabulary_size: int) -> Tokenizer:
    """Learnt from tags and the lines of the templates; it ends every text with END."""
    tokenizer = Tokenizer(models.BPE())
    parts = (pre_tokenizers.Split(Regex(r",\s*"), "removed"), pre_tokenizers.Split(Regex(r"(?<=: )|\n+"), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(f"$A {END}", special_tokens=[(END, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    templates = [text_prompt([], seconds=seconds) for seconds in range(1, 61)]
    asked = [complete(tracks) for tracks in chain([()], ([track] for track in TRACKS))]
    lyrics = [lyrics_prompt(INSTRUMENTAL)] * len(templates)
    tokenizer.train_from_iterator([*templates, *lyrics, *asked, *world_texts()], trainer)
    return tokenizer
