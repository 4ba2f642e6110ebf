"""Which examples are worth a look."""

import numpy as np

from didicm_jax.evaluation import notable, scores


def test_the_examples_are_those_that_all_posteriors_say():
    random = np.random.default_rng(0)
    probs = random.dirichlet(np.ones(5), 300).astype(np.float32)
    probs[200:] = probs[:100]  # of equal ones the first is shown
    labels = random.integers(5, size=300, dtype=np.int32)
    found = notable.choose(scores.of(probs, labels), 5, examples=20, pairs=3, of_a_pair=4)
    said = probs.argmax(axis=1)
    wrong = [i for i in range(300) if said[i] != labels[i]]
    wrong.sort(key=lambda i: (-probs[i].max(), i))
    assert found.mistakes.tolist() == wrong[:20]
    wide = probs.astype(np.float64)
    entropy = -(wide * np.log(wide)).sum(axis=1)
    assert found.uncertain.tolist() == sorted(range(300), key=lambda i: (-entropy[i], i))[:20]
    counts = {}
    for i in wrong:
        counts.setdefault(tuple(sorted((int(labels[i]), int(said[i])))), []).append(i)
    assert [pair.errors for pair in found.confused] == sorted(map(len, counts.values()))[::-1][:3]
    for pair in found.confused:
        assert pair.errors == len(counts[pair.classes])
        assert pair.examples.tolist() == counts[pair.classes][:4]


def test_where_all_is_right_there_is_nothing_to_confuse():
    probs = np.array([[0.8, 0.2], [0.1, 0.9]], np.float32)
    found = notable.choose(scores.of(probs, np.array([0, 1], np.int32)), 2)
    assert found.mistakes.tolist() == []
    assert found.confused == []
    assert found.uncertain.tolist() == [0, 1]
