"""An MoE layer on numpy and the host device, captured and replayed, against the same written out serially.

Four virtual ranks (threads) own two experts each, small two-layer networks. Every rank routes its own tokens to two
experts per token, and no rank ever holds another's weights. A rank's step (dispatch, experts, combine) is captured once
per bucket, at its first use, and replayed from then on: eight steps of up to twelve tokens take at most four captures.
The gate runs before it, into the arrays whose addresses the graphs hold. Run it with

    make && EPGRAPH_LIBRARY=$(ls build/libepgraph.so.*) PYTHONPATH=python python3 examples/python/03_numpy_moe.py
"""
import sys

import numpy as np

import epgraph

RANKS, EXPERTS, HIDDEN, INNER, TOPK, TOKENS, STEPS = 4, 8, 32, 64, 2, 12, 8


def weights(expert):
    """The two matrices of one expert, from its own seed."""
    random = np.random.default_rng(expert)
    return (random.standard_normal((HIDDEN, INNER), dtype=np.float32) / np.sqrt(HIDDEN),
            random.standard_normal((INNER, HIDDEN), dtype=np.float32) / np.sqrt(INNER))


def network(x, matrices):
    up, down = matrices
    return np.maximum(x @ up, 0) @ down


def gate(x):
    """The k best experts of every token and their softmax weights."""
    router = np.random.default_rng(1000).standard_normal((HIDDEN, EXPERTS), dtype=np.float32)
    scores = x @ router
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :TOPK].astype(np.int32)
    chosen = np.exp(np.take_along_axis(scores, ids, axis=1) - scores.max(axis=1, keepdims=True))
    return np.ascontiguousarray(ids), (chosen / chosen.sum(axis=1, keepdims=True)).astype(np.float32)


def tokens_of(rank, step):
    """Ranks need not agree on how many tokens they have, nor on a bucket."""
    random = np.random.default_rng(10 * step + rank)
    return random.standard_normal((random.integers(TOKENS + 1), HIDDEN), dtype=np.float32)


def serial(x):
    """The layer without any exchange, token by token in double precision."""
    ids, share = gate(x)
    return np.array([sum(w * network(row.astype(np.float64), weights(e)) for e, w in zip(experts, shares))
                     for row, experts, shares in zip(x, ids, share)]).reshape(x.shape)


class Rank:
    def __init__(self, team):
        self.group = epgraph.Group(team, experts=EXPERTS, hidden=HIDDEN, topk=TOPK, max_tokens=TOKENS)
        first = self.group.view().first_expert
        self.mine = {expert: weights(expert) for expert in range(first, first + EXPERTS // RANKS)}
        self.x, self.out = np.zeros((TOKENS, HIDDEN), np.float32), np.zeros((TOKENS, HIDDEN), np.float32)
        self.ids, self.share = np.zeros((TOKENS, TOPK), np.int32), np.zeros((TOKENS, TOPK), np.float32)
        self.count = np.zeros(1, np.uint32)
        self.runner = epgraph.Runner(self.step, buckets=[1, 4, 8, TOKENS], groups=[self.group])

    def step(self, call):
        """What the runner captures; the experts, a host function, run in every replay."""
        view = self.group.dispatch(self.x, self.ids, self.share, tokens=self.count, bucket=call.bucket,
                                   stream=call.stream)
        outputs = self.group.run_experts(view, lambda expert, rows: network(rows, self.mine[expert]),
                                         stream=call.stream)
        self.group.combine(outputs, self.out, stream=call.stream)

    def run(self, x, stream):
        """The layer on `x`; nothing of an earlier step is in flight."""
        n = self.count[0] = len(x)
        self.x[:n] = x
        self.ids[:n], self.share[:n] = gate(x)
        self.runner.run(n, stream=stream, inputs={"x": self.x})
        stream.synchronize()
        self.group.check()
        return self.out[:n]


def rank_main(team):
    rank, worst = Rank(team), 0.0
    with team.device.stream() as stream:
        for step in range(STEPS):
            x = tokens_of(team.rank, step)
            out = rank.run(x, stream)
            worst = max(worst, float(np.abs(out - serial(x)).max(initial=0)))
    stats = rank.runner.stats()
    return worst, stats["captures"], stats["replays"], stats["tokens"], stats["padding"]


def main():
    results = epgraph.launch(rank_main, RANKS)
    for rank, (error, captures, replays, tokens, padding) in enumerate(results):
        print(f"rank {rank}: {captures} captures, {replays} replays of {tokens} tokens (padded by {padding}), at most "
              f"{error:.1e} off the serial layer")
    right = all(error < 1e-5 and replays == STEPS for error, _, replays, _, _ in results)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
