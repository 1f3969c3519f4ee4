"""TLoRA from top to bottom in NumPy: two linear layers learn a regression whose ideal update has low rank.

    python examples/tlora_in_100_lines.py

Nothing here comes from the library. Equations and lines are those of arXiv 2604.18124; W is (d_out, d_in), y = x W^T.
"""

import numpy as np

D_X, D_H, D_Y = 12, 16, 8  # widths of the input, between the two layers, and of the output
SAMPLES, TOKENS = 8, 20  # each sample is TOKENS rows
R_INIT, ALPHA = 3, 3.0  # the rank and alpha that plain LoRA would give each layer
STEPS, LR = 300, 0.02


def make_task(rng):
    """Pre-trained weights W, and samples (x, target) that W + D would fit, D of rank 2 in each layer."""
    W = {"first": rng.standard_normal((D_H, D_X)) / D_X**0.5, "second": rng.standard_normal((D_Y, D_H)) / D_H**0.5}
    spread = 3.0 / np.arange(1, D_X + 1)  # inputs vary much in some directions and little in others
    xs = [rng.standard_normal((TOKENS, D_X)) * spread for _ in range(SAMPLES)]
    wanted = {}
    for i in W:  # D strengthens two of the things that W does already: that is what W C can foresee
        direction = np.linalg.qr(rng.standard_normal((len(W[i]), 2)))[0]  # (d_out, 2), orthonormal columns
        wanted[i] = W[i] + direction @ direction.T @ W[i]
    return W, [(x, np.tanh(x @ wanted["first"].T) @ wanted["second"].T) for x in xs]


def loss_and_gradients(W, x, target):
    """The mean squared error of the network; the input X of each layer; dLoss/dW of each, by the chain rule."""
    h = np.tanh(x @ W["first"].T)  # (T, D_H)
    error = h @ W["second"].T - target  # (T, D_Y)
    dy = 2.0 * error / error.size
    dz = (dy @ W["second"]) * (1.0 - h**2)  # (T, D_H)
    return np.mean(error**2), {"first": x, "second": h}, {"first": dz.T @ x, "second": dy.T @ h}


def calibrate(W, samples):
    """Lines 4 to 11: S = mean |W * dLoss/dW| (Eq. 5) and C = mean X^T X of each layer, W as it was pre-trained."""
    S, C = dict.fromkeys(W, 0.0), dict.fromkeys(W, 0.0)
    for x, target in samples:  # one by one: the gradient of all samples together would let opposite signs cancel
        _, X, dW = loss_and_gradients(W, x, target)
        for i in W:
            S[i] += np.mean(abs(W[i] * dW[i])) / len(samples)
            C[i] += X[i].T @ X[i] / len(samples)
    return S, C


def allocate(S, W):
    """Lines 12 to 15: ranks by Eq. 6, and scales alpha_i / r_i, which by Eq. 7 do not depend on the rank."""
    share = {i: S[i] / sum(S.values()) for i in S}
    rank = {i: min(round(len(S) * R_INIT * share[i]), *W[i].shape) for i in S}
    scale = {i: ALPHA / R_INIT * len(S) * share[i] for i in S}
    return rank, scale


def initialize(W, C, rank):
    """Lines 16 and 17: A = the first r right singular vectors of W C (Eq. 4), and B = 0."""
    A = {i: np.linalg.svd(W[i] @ C[i])[2][: rank[i]] for i in W}  # (r, d_in), rows orthonormal
    B = {i: np.zeros((len(W[i]), rank[i])) for i in W}  # (d_out, r)
    return A, B


def merged(W, A, B, scale):
    """Eq. 1: W' = W + (alpha / r) B A."""
    return {i: W[i] + scale[i] * B[i] @ A[i] for i in W}


def train(W, A, B, scale, samples):
    """AdamW on B alone: W and A never change. The losses, the last one after all steps."""
    x, target = (np.concatenate(parts) for parts in zip(*samples, strict=True))
    m, v, losses = {i: 0 * B[i] for i in B}, {i: 0 * B[i] for i in B}, []
    for t in range(1, STEPS + 1):
        loss, _, G = loss_and_gradients(merged(W, A, B, scale), x, target)
        losses.append(loss)
        for i in B:
            g = scale[i] * G[i] @ A[i].T  # dLoss/dB (Eq. 2, with the factor that the paper leaves out)
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            step = m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
            B[i] = B[i] - LR * (step + 0.01 * B[i])  # 0.01 is AdamW's weight decay
    return [*losses, loss_and_gradients(merged(W, A, B, scale), x, target)[0]]


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    W, samples = make_task(rng)
    S, C = calibrate(W, samples)
    rank, scale = allocate(S, W)
    A, B = initialize(W, C, rank)
    losses = train(W, A, B, scale, samples)
    for i in W:
        print(
            f"{i:>6}: S {S[i]:.4f}, rank {rank[i]} (LoRA: {R_INIT}), scale {scale[i]:.3f}, B trains {B[i].size} numbers"
        )
    print(f"TLoRA: mean squared error {losses[0]:.4f} -> {losses[-1]:.5f} in {STEPS} steps")
    random_A = {i: np.linalg.qr(rng.standard_normal(A[i].T.shape))[0].T for i in A}
    losses = train(W, random_A, initialize(W, C, rank)[1], scale, samples)
    print(f"the same with random A of orthonormal rows: {losses[0]:.4f} -> {losses[-1]:.5f}")
