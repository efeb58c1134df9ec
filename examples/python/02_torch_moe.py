"""A PyTorch MoE block whose dispatch, experts and combine run through epgraph, captured and replayed by its runner.

The block is h + combine(experts(dispatch(h))) with PyTorch's own gate: softmax over the experts, the best k, weights
that sum to 1. Two virtual ranks (threads that share the GPU) own half of the experts each and check, on batches of
different sizes, that a replay gives the bits of the eager step, and that both are what PyTorch computes from all the
weights. Then one rank with all the experts is timed: eager, replayed by the runner, and captured by torch.cuda.graph;
and beside it a block of the same weights in PyTorch alone, eager and under torch.cuda.graph. That one is dense: it runs
every expert on every token, since a capture needs shapes that do not depend on the routing.

    make && EPGRAPH_LIBRARY=$(ls build/libepgraph.so.*) PYTHONPATH=python python3 examples/python/02_torch_moe.py

It exits with 0 if all agreed, with 77 where there is no GPU or no PyTorch.
"""
import os
import sys
import time

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # ranks wait for one another; read when CUDA starts

import epgraph  # noqa: E402

try:
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

RANKS, EXPERTS, HIDDEN, INNER, TOPK, MOST = 2, 32, 1024, 512, 4, 64
COUNTS = [(1, 64), (8, 8), (33, 5), (64, 0)]    # tokens of the two ranks, batch by batch


def weights():
    """Router [experts][hidden], gate_up [experts][2 * inner][hidden], down [experts][hidden][inner]: the same on every
    rank."""
    random = torch.Generator("cuda").manual_seed(1)

    def normal(*shape):
        return (torch.randn(shape, generator=random, device="cuda") / shape[-1] ** 0.5).to(torch.bfloat16)

    return normal(EXPERTS, HIDDEN), normal(EXPERTS, 2 * INNER, HIDDEN), normal(EXPERTS, HIDDEN, INNER)


def route(h, router):
    """The experts of each token, int64 [tokens][k], and their weights, float32."""
    share, ids = torch.softmax((h @ router.T).float(), dim=-1).topk(TOPK, dim=-1)
    return ids, share / share.sum(dim=-1, keepdim=True)


class PlainBlock:
    """The same in PyTorch alone: every expert on every token, and a matrix of shares that is mostly 0. Shapes do not
    depend on the routing, so that it can be captured."""

    def __init__(self, tokens):
        self.router, self.gate_up, self.down = weights()
        self.h, self.out = (torch.zeros(tokens, HIDDEN, dtype=torch.bfloat16, device="cuda") for _ in range(2))

    def run(self):
        ids, share = route(self.h, self.router)
        shares = torch.zeros(self.h.shape[0], EXPERTS, device="cuda").scatter_(1, ids, share)
        inner = torch.matmul(self.h, self.gate_up.transpose(1, 2))                  # [experts][tokens][2 * inner]
        gate, up = inner.chunk(2, dim=-1)
        each = torch.matmul(torch.nn.functional.silu(gate) * up, self.down.transpose(1, 2))
        mixed = torch.einsum("te,eth->th", shares, each.float())
        self.out.copy_(self.h + mixed.to(self.h.dtype))


class Block:
    """One rank's block."""

    def __init__(self, team):
        local = EXPERTS // team.size
        mine = slice(team.rank * local, (team.rank + 1) * local)
        self.router, gate_up, down = weights()
        self.gate_up, self.down = gate_up[mine].contiguous(), down[mine].contiguous()
        self.group = epgraph.Group(team, experts=EXPERTS, hidden=HIDDEN, topk=TOPK, max_tokens=MOST,
                                   row_type="bfloat16", layout="contiguous", timeout_ms=10000)
        self.experts = epgraph.Experts(team.device, local_experts=local, hidden=HIDDEN, intermediate=INNER)
        self.h, self.out, self.mixed = (torch.zeros(MOST, HIDDEN, dtype=torch.bfloat16, device="cuda")
                                        for _ in range(3))
        self.count = torch.zeros(1, dtype=torch.int32, device="cuda")
        self.runner = epgraph.Runner(self.step, groups=[self.group])
        self.stream = team.device.stream()

    def enqueue(self, bucket, stream):
        """The block. PyTorch launches on `stream` too, which is its current one."""
        h = self.h[:bucket]
        ids, share = route(h, self.router)
        view = self.group.dispatch(h, ids, share, tokens=self.count, stream=stream)
        outputs = self.experts.run(view, self.gate_up, self.down, stream=stream)
        mixed = self.group.combine(outputs, self.mixed, stream=stream)
        torch.add(h, mixed[:bucket], out=self.out[:bucket])

    def step(self, call):
        """What the runner captures; it has made call.stream PyTorch's current one."""
        self.enqueue(call.bucket, call.stream)

    def set(self, h):
        """The next steps' input."""
        torch.cuda.current_stream().synchronize()   # `h` is there, and nobody reads the last one
        with torch.cuda.stream(torch.cuda.ExternalStream(self.stream.raw)):
            self.h.zero_()
            self.h[:h.shape[0]].copy_(h)
            self.count.fill_(h.shape[0])
        self.stream.synchronize()

    def run(self, tokens, eager=False):
        self.runner.run(tokens, stream=self.stream, eager=eager, inputs={"h": self.h})

    def result(self, tokens, eager=False):
        self.run(tokens, eager)
        self.stream.synchronize()
        self.group.check()
        out = self.out[:tokens].clone()
        torch.cuda.current_stream().synchronize()   # before the next step writes there
        return out


def tokens_of(rank, batch, count):
    random = torch.Generator("cuda").manual_seed(100 * batch + rank)
    return torch.randn(count, HIDDEN, generator=random, device="cuda").to(torch.bfloat16)


def agree(team):
    """Each rank's worst distance from PyTorch's block, and whether replays had the bits of the eager steps."""
    block, plain = Block(team), PlainBlock(MOST)
    # Captured before a rank waits for another, since CUDA loads kernels when they are first launched, which may wait
    # for those that run. And in turns, since nobody may use the legacy stream while a runner probes on a blocking one.
    torch.cuda.synchronize()
    team.barrier()
    for turn in range(team.size):
        if turn == team.rank:
            block.runner.capture_all(stream=block.stream, inputs={"h": block.h})
            plain.run()
            torch.cuda.synchronize()
        team.barrier()
    same, worst = True, 0.0
    for batch, counts in enumerate(COUNTS):
        count = counts[team.rank]
        h = tokens_of(team.rank, batch, count)
        block.set(h)
        # One rank replays while the other runs eagerly, then both replay.
        first = block.result(count, eager=(batch + team.rank) % 2 == 0)
        replayed, eager = block.result(count), block.result(count, eager=True)
        same = same and torch.equal(first, eager) and torch.equal(replayed, eager)
        plain.h.zero_()
        plain.h[:count] = h
        plain.run()
        if count:
            worst = max(worst, (replayed.float() - plain.out[:count].float()).abs().max().item())
    torch.cuda.synchronize()
    return same, worst


def microseconds(run, synchronize, count=300):
    for _ in range(20):
        run()
    synchronize()
    began = time.perf_counter()
    for _ in range(count):
        run()
    synchronize()
    return (time.perf_counter() - began) / count * 1e6


def timed(team):
    """Microseconds per step, steps back to back."""
    block, told = Block(team), []
    for tokens in (1, 8, 64):
        h = tokens_of(0, tokens, tokens)
        block.set(h)
        plain, graph = PlainBlock(tokens), torch.cuda.CUDAGraph()
        plain.h.copy_(h)
        plain.run()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            plain.run()
        block.run(tokens)   # what is there at a first use is there
        torch.cuda.synchronize()
        theirs = torch.cuda.CUDAGraph()
        with torch.cuda.graph(theirs):
            block.enqueue(tokens, torch.cuda.current_stream())
        wait = torch.cuda.synchronize
        told.append((tokens, microseconds(lambda: block.run(tokens, eager=True), wait),
                     microseconds(lambda: block.run(tokens), wait), microseconds(theirs.replay, wait),
                     microseconds(plain.run, wait), microseconds(graph.replay, wait)))
        block.stream.synchronize()
        block.group.check()
    return told


def main():
    try:
        device = epgraph.Device("cuda")
    except epgraph.Error as error:
        print(f"skipped: {error.message}")
        return 77
    print(f"PyTorch {torch.__version__} on {device.describe()['name']}: {EXPERTS} experts, top {TOPK}, hidden {HIDDEN}"
          f", inner {INNER}, bfloat16")
    results = epgraph.launch(agree, RANKS, device=device)
    for rank, (same, worst) in enumerate(results):
        print(f"rank {rank}: replays {'have' if same else 'DO NOT HAVE'} the bits of eager steps, and are at most "
              f"{worst:.1e} off PyTorch's block")
    print("One rank, microseconds per step:\n"
          "           epgraph's block:                            dense block of PyTorch's alone:\n"
          "  tokens     eager    Runner   torch.cuda.graph          eager   torch.cuda.graph")
    for tokens, eager, replayed, theirs, plain, graph in epgraph.launch(timed, 1, device=device)[0]:
        print(f"  {tokens:6} {eager:9.1f} {replayed:9.1f} {theirs:18.1f} {plain:14.1f} {graph:18.1f}")
    return 0 if all(same and worst < 0.06 for same, worst in results) else 1


if __name__ == "__main__":
    sys.exit(main())
