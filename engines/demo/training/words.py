"""The words that the demo engine knows, and the tokenizer file that spells them."""

from __future__ import annotations

import base64
from pathlib import Path

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WAKE_WORDS = ("alexa", "computer", "jarvis", "smart mirror", "snowboy", "view glass")
PHRASES = DIGITS + WAKE_WORDS
VOCABULARY = tuple(dict.fromkeys(word for phrase in PHRASES for word in phrase.split()))

N_BYTES = 256  # the first ranks are the single bytes, so that any text can be encoded
N_RANKS = N_BYTES + len(VOCABULARY)
# Whisper appends its special tokens after the ranks, in this order.
EOT, SOT, ENGLISH, TRANSLATE, TRANSCRIBE, START_OF_LM, START_OF_PREV, NO_SPEECH, NO_TIMESTAMPS = (
    range(N_RANKS, N_RANKS + 9)
)
N_TIMESTAMPS = 1501
N_VOCAB = NO_TIMESTAMPS + 1 + N_TIMESTAMPS

# Words that must give no text. The first lines sound like the words above, the rest is everyday.
OTHER_WORDS = tuple(
    """
    heaven eleven sick fix mix thick sticks free tree through street fine nile mine line wine fire
    fly hive drive far floor door more foreign hour fun done run sun once when want late great
    gate hate state age you who knew zoo blue do hero zebra rose zoom nearer mirrors start art
    heart class grass gas past viewer few review commuter compute pewter alaska election a_lesson
    service harvest jars cowboy snow boy snowball no_way enjoy yes no up down left right on off
    stop go bed bird cat dog happy house marvin sheila wow hello please music light lamp window
    kitchen weather morning evening water coffee paper table people number again maybe thank_you
    turn_it_up good_night what_time_is_it open_the_door play_some_music hundred thousand twenty
    thirteen fifty first second minute money hey okay computing mirror_image view class_room sorry
    really something nothing because mother question orange banana apple purple yellow green dark
    cold winter summer sleep book phone car train never ever over under between about account
    across after all almost always among and angrier another any anyhow anything are arm around
    away back been before began berries boys branch branches brisk brooding brought but can case
    caught cherries cherry cloth clouds colored come coral corn corners could cross cut decided
    didn divide divorce doing driving dropped dropping english even everything exciting face faint
    fast feel fellow fruit gaze get glad glittering going good grew ground growing had hair
    handful have heard her here herself him his hopes horses into invitation ivory jerk just keep
    kind know lap last learn like little long look love man many men miss moments much murmured
    neck neglected new nice not only opportune orchard our out own pail pick picked pink place
    play pray prayed puffy pull rain raindrops rains reached read restless returned rippling roses
    sadly said same sang school season see seeing seems serve she shivering shortly shower sighed
    sky slowly smartly smell softly sometimes sparkling spicy spider splashed staid stand stay
    stripping stroke suppose sure surely sweet swing talk tell than thank that the them then there
    they things thinking this threw times tipped tired together toward trees understand used
    walked was wasn way webs what whether white wild wilderness will wind wish with wondered
    worked would york yourself jacket market dinner garden silver finger winner thunder sister
    brother doctor tomorrow yesterday yellow_pages police station airport ticket paris london
    monday tuesday friday july radio volume louder quieter pause resume cancel alarm timer remind
    battery charge signal internet camera robot jar jasper travis nervous seventy sixty forty
    ninety eighty nineteen sixteen fourteen seventeen eighteen million dozen double half pair
    fever sever force forth fort sport store story thirst tricky treat threat stream true crew
    flew shoe chew juice
    """.split()
)

# Spoken above, but not learnt as "no text": with some accent or microphone each is a digit, and
# networks that learnt them threw away the digits of people they did not know.
TOO_CLOSE = frozenset(
    """free tree threw through hive fine sick fix mix thick once want do who you knew few zoo shoe
    chew hour more door late great hate gate line mine wine nile fly force fort forth fire sport
    drive run sun done fun to too for""".split()
)


def token_of(word: str) -> int:
    """Token id of a vocabulary word (spelled in the rank file with a leading space)."""
    return N_BYTES + VOCABULARY.index(word)


def encode(text: str) -> list[int]:
    """Token ids of a text made of vocabulary words only."""
    return [token_of(word) for word in text.split()]


def decode(tokens: list[int]) -> str:
    """Text of word tokens; byte and special tokens are shown as `?`."""
    known = range(N_BYTES, N_RANKS)
    return " ".join(VOCABULARY[t - N_BYTES] if t in known else "?" for t in tokens)


def write_rank_file(path: Path) -> None:
    """Write the ranks in tiktoken's format: base64 of the token's bytes, a space, the rank."""
    tokens = [bytes([i]) for i in range(N_BYTES)] + [f" {word}".encode() for word in VOCABULARY]
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    path.write_text("".join(lines))
