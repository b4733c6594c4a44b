"""Key and chords of a beat track by a hidden Markov model: chords change on beats, mostly on downbeats. No torch.

n beats; S chords: major triads on C to B, minor triads on C to B, no chord; K = 24 keys in the order of the triads.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_expit, logsumexp, softmax

NO_CHORD, CHORDS, KEYS = 24, 25, 24
CHANGE_LOG_ODDS = (0.4, -4.0, -2.5, -4.0)
"""Of another chord on beats 1 to 4 of a bar."""


@dataclass(frozen=True)
class ChordTrack:
    """Key and chords of a beat track."""

    key: int
    """One of the K."""
    key_confidence: float
    """Its probability."""
    numbers: np.ndarray
    """Of each beat, int [n]."""
    confidence: np.ndarray
    """Probability of each, whatever the key, [n]."""


def is_minor(number: int) -> bool:
    """Whether a triad or a key, by its number, is minor."""
    return 12 <= number < NO_CHORD


def transposed(numbers: np.ndarray, semitones: int) -> np.ndarray:
    """Triads or keys, int, so much higher."""
    return numbers // 12 * 12 + (numbers + semitones) % 12


def decode_chords(
    emissions: np.ndarray,
    chord_prior: np.ndarray,
    key_prior: np.ndarray,
    places: np.ndarray,
    *,
    temperature: float = 0.0,
    rng: np.random.Generator | None = None,
) -> ChordTrack:
    """Key and chords of log-likelihoods [n, S] or, by key, [K, n, S].

    Log-priors of the chords in each key [K, S] and of the keys [K]; the place of each beat in its bar, int [n].
    Temperature 0 takes the likeliest key and its likeliest chords; above, `rng` draws both together, from their
    probability to the power of 1 / temperature. Raises ValueError for a temperature above 0 without `rng`.
    """
    if temperature > 0 and rng is None:
        raise ValueError("a temperature above 0 draws: hand over a generator")
    chain = _chain(np.broadcast_to(emissions, (KEYS, *emissions.shape[-2:])), chord_prior, key_prior, places)
    forward = _forward(chain)
    evidence = logsumexp(forward[:, -1], axis=1)
    if temperature > 0 and rng is not None:
        tempered = _Chain(chain.emissions / temperature, chain.moves / temperature)
        drawn = _forward(tempered)
        key = int(rng.choice(KEYS, p=softmax(logsumexp(drawn[:, -1], axis=1))))
        chords = _drawn(drawn[key], tempered.moves[:, key], rng)
    else:
        key = int(evidence.argmax())
        chords = _likeliest(chain.emissions[key], chain.moves[:, key])
    keys = softmax(evidence)
    posterior = np.einsum("k,kns->ns", keys, softmax(forward + _backward(chain), axis=2))
    return ChordTrack(key, float(keys[key]), chords, posterior[np.arange(len(chords)), chords])


@dataclass(frozen=True)
class _Chain:
    """Log-potentials of the chords in each key."""

    emissions: np.ndarray  # [K, n, S]; those of the first beat with both priors
    moves: np.ndarray  # to each beat but the first: [n - 1, K, S from, S to]


def _chain(emissions: np.ndarray, chord_prior: np.ndarray, key_prior: np.ndarray, places: np.ndarray) -> _Chain:
    """Stay with the chord, or change to any by its prior."""
    log_odds = np.array(CHANGE_LOG_ODDS)[:, None, None, None]
    stay = np.where(np.eye(CHORDS, dtype=bool), log_expit(-log_odds), -np.inf)
    by_place = np.logaddexp(log_expit(log_odds) + chord_prior[:, None, :], stay)
    first = emissions[:, :1] + chord_prior[:, None] + key_prior[:, None, None]
    return _Chain(np.concatenate([first, emissions[:, 1:]], axis=1), by_place[places[1:]])


def _forward(chain: _Chain) -> np.ndarray:
    """Log-potential of all up to each beat, by its chord: [K, n, S]."""
    alphas = [chain.emissions[:, 0]]
    for number, moves in enumerate(chain.moves, start=1):
        alphas.append(logsumexp(alphas[-1][:, :, None] + moves, axis=1) + chain.emissions[:, number])
    return np.stack(alphas, axis=1)


def _backward(chain: _Chain) -> np.ndarray:
    """Log-potential of all after each beat, by its chord: [K, n, S]."""
    betas = [np.zeros((KEYS, CHORDS))]
    for number in range(len(chain.moves), 0, -1):
        coming = (chain.emissions[:, number] + betas[-1])[:, None, :]
        betas.append(logsumexp(chain.moves[number - 1] + coming, axis=2))
    return np.stack(betas[::-1], axis=1)


def _likeliest(emissions: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """The best path (Viterbi) of emissions [n, S] and moves [n - 1, S, S]: int [n]."""
    score, sources = emissions[0], []
    for emission, move in zip(emissions[1:], moves, strict=True):
        paths = score[:, None] + move
        sources.append(paths.argmax(axis=0))
        score = paths.max(axis=0) + emission
    chords = [int(score.argmax())]
    for source in reversed(sources):
        chords.append(int(source[chords[-1]]))
    return np.array(chords[::-1])


def _drawn(forward: np.ndarray, moves: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A path drawn from the last beat back, of one key's forward potentials [n, S] and moves [n - 1, S, S]."""
    chords = [int(rng.choice(CHORDS, p=softmax(forward[-1])))]
    for number in range(len(moves), 0, -1):
        chords.append(int(rng.choice(CHORDS, p=softmax(forward[number - 1] + moves[number - 1, :, chords[-1]]))))
    return np.array(chords[::-1])
