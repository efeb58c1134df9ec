"""One MoE step on numpy and the host device: gate, dispatch, experts, combine, against the same written out serially.

Four virtual ranks (threads) own two experts each, small two-layer networks. Every rank routes its own tokens to two
experts per token, and no rank ever holds another's weights. Run it with

    make && EPGRAPH_LIBRARY=$(ls build/libepgraph.so.*) PYTHONPATH=python python3 examples/python/03_numpy_moe.py
"""
import sys

import numpy as np

import epgraph

RANKS, EXPERTS, HIDDEN, INNER, TOPK, TOKENS, STEPS = 4, 8, 32, 64, 2, 12, 3


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
    return np.random.default_rng(10 * step + rank).standard_normal((TOKENS - rank, HIDDEN), dtype=np.float32)


def serial(x):
    """The layer without any exchange, token by token in double precision."""
    ids, share = gate(x)
    return np.stack([sum(w * network(row.astype(np.float64), weights(e)) for e, w in zip(experts, shares))
                     for row, experts, shares in zip(x, ids, share)])


def rank_main(team):
    group = epgraph.Group(team, experts=EXPERTS, hidden=HIDDEN, topk=TOPK, max_tokens=TOKENS)
    first = group.view().first_expert
    mine = {expert: weights(expert) for expert in range(first, first + EXPERTS // RANKS)}
    worst = 0.0
    with team.device.stream() as stream:
        for step in range(STEPS):
            x = tokens_of(team.rank, step)     # ranks need not agree on how many
            ids, share = gate(x)
            view = group.dispatch(x, ids, share, stream=stream)
            outputs = group.run_experts(view, lambda expert, rows: network(rows, mine[expert]), stream=stream)
            out = group.combine(outputs, stream=stream)
            stream.synchronize()
            group.check()
            worst = max(worst, float(np.abs(out - serial(x)).max()))
    return worst


def main():
    errors = epgraph.launch(rank_main, RANKS)
    for rank, error in enumerate(errors):
        print(f"rank {rank}: {STEPS} steps of {TOKENS - rank} tokens, at most {error:.1e} off the serial layer")
    return 0 if max(errors) < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
