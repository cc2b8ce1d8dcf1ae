"""A text as it is written in, as it is said out, with the way back for the places of words.

espeak-ng, which also makes the phonemes of Piper and Kokoro, reads "$5" as "dollar five", "1/2" as
"one slash two" and "3:00 PM" as "three zero zero PM"; it stops after "Dr." and says "asterisk".
Only what it reads wrongly is changed, and only in English but for the marks of Markdown.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from duplex_asr.cancellation import Cancellation
from duplex_asr.tts.english import Rule, english_rules
from duplex_asr.tts.sentences import SentenceCutter
from duplex_asr.tts.voice import SpeechPiece, Voice, WordMark
from duplex_asr.tts.words import WordFinder

_LOOKED_AT_CHARACTERS = 1000  # of a long text at a time
# What makes bold, code, headings and lists; a star or line between spaces stays.
_MARKDOWN = Rule(
    re.compile(
        r"^[ \t]*(?:#{1,6}|[-*•])[ \t]+|\*+(?=\S)|(?<=\S)\*+|`+|(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)",
        re.MULTILINE,
    ),
    lambda match: "",
)


def spoken_rules(language: str) -> list[Rule]:
    """What is said otherwise than written, in a language (a BCP 47 tag)."""
    is_english = language.lower().split("-")[0] == "en"
    return [_MARKDOWN, *(english_rules(language) if is_english else [])]


class SpokenForm:
    """A text as it is said.

    text: for the voice.
    """

    def __init__(self, written: str, rules: Sequence[Rule]) -> None:
        self._starts: list[int] = []  # of each stretch in what is said
        self._origins: list[tuple[int, bool]] = []  # in what is written; whether both are the same
        self._said: list[str] = []
        self._length = position = 0
        for start, end, words in _replacements(written, rules):
            self._add(written[position:start], position, is_copy=True)
            self._add(words, start, is_copy=False)
            position = end
        self._add(written[position:], position, is_copy=True)
        self.text = "".join(self._said)

    def place(self, said: int) -> int:
        """The written character of one that is said; of other words, where their first is."""
        index = bisect_right(self._starts, said) - 1
        if index < 0:
            return 0
        origin, is_copy = self._origins[index]
        return origin + (said - self._starts[index] if is_copy else 0)

    def _add(self, text: str, origin: int, *, is_copy: bool) -> None:
        if text:
            self._starts.append(self._length)
            self._origins.append((origin, is_copy))
            self._said.append(text)
            self._length += len(text)


class SpokenVoice:
    """A voice that is given texts as they are said, and gives words of texts as they are written.

    See Voice for the contract.
    """

    def __init__(self, voice: Voice) -> None:
        self.name = voice.name
        self.languages = voice.languages
        self.rate = voice.rate
        self._voice = voice
        self._rules = spoken_rules(voice.languages[0])

    def synthesize(self, text: str, cancellation: Cancellation) -> Iterator[SpeechPiece]:
        """See Voice. A long text is looked at sentence by sentence, so that it can be left."""
        num_chars = num_samples = 0
        for sentence in _sentences_of(text):
            form = SpokenForm(sentence, self._rules)
            words = WordFinder(sentence)
            num_before = num_samples
            for piece in self._voice.synthesize(form.text, cancellation):
                marks = []
                for mark in piece.words:
                    if (span := words.find(form.place(mark.text_start))) is not None:
                        start, end = (num_chars + place for place in span)
                        marks.append(WordMark(start, end, num_before + mark.sample))
                num_samples += piece.samples.size
                yield SpeechPiece(piece.samples, tuple(marks))
            num_chars += len(sentence)
        cancellation.check()

    def close(self) -> None:
        """See Voice."""
        self._voice.close()


def _sentences_of(text: str) -> Iterator[str]:
    cutter = SentenceCutter()
    for start in range(0, len(text), _LOOKED_AT_CHARACTERS):
        yield from cutter.push(text[start : start + _LOOKED_AT_CHARACTERS])
    yield from cutter.flush()


def _replacements(text: str, rules: Sequence[Rule]) -> Iterator[tuple[int, int, str]]:
    """Stretches of the text from left to right, with what is said instead."""
    anything = re.compile("|".join(f"(?:{rule.pattern.pattern})" for rule in rules), re.MULTILINE)
    position = 0
    while (found := anything.search(text, position)) is not None:
        position = found.start() + 1
        for rule in rules:
            match = rule.pattern.match(text, found.start())
            words = rule.say(match) if match is not None else None
            if match is not None and words is not None:
                yield match.start(), match.end(), words
                position = match.end()
                break
