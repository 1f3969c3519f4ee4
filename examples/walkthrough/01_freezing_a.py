# %% [markdown]
# # 1. What freezing A means (Eq. 1, Eq. 2)
#
# LoRA leaves a weight $W$ as it is and adds a product of two thin matrices to it:
#
# $$W' = W + s\,B A, \qquad y = x W^\top + s\,(x A^\top) B^\top \qquad \text{(Eq. 1)}$$
#
# $W$ is (d_out, d_in), $A$ is (r, d_in), $B$ is (d_out, r), $s = \alpha / r$ is a number, and $B$ starts at zero.
# Plain LoRA trains $A$ and $B$. TLoRA trains $B$ alone. This chapter asks what is lost by that, and what is gained.

# %%
import numpy as np
from walk import encoded, shipped, stated

import tlora_ref as tr
from tlora_ref.method.low_rank import adapted_output, gradient_B, merged_weight, sgd_weight_update

rng = np.random.default_rng(0)
d_out, d_in, r, s = 6, 5, 2, 1.5
W = rng.standard_normal((d_out, d_in))
A = np.linalg.qr(rng.standard_normal((d_in, r)))[0].T  # (r, d_in), rows orthonormal
B = rng.standard_normal((d_out, r))
x = rng.standard_normal((4, d_in))

beside, merged = adapted_output(x, W, A, B, s), x @ merged_weight(W, A, B, s).T
print(f"beside the weight or merged into it, the same to {abs(beside - merged).max():.1e}")
assert np.allclose(beside, merged)

# %% [markdown]
# ## What the gradient of B is
#
# Let $G = \partial L / \partial W'$ be the gradient that a full fine-tuning would follow. By the chain rule through
# $W' = W + s B A$ the gradient of $B$ is $s\,G A^\top$. (The paper prints $G A^\top$ in Eq. 2: a slip. The finite
# difference below decides.)


# %%
def loss(B: np.ndarray) -> float:
    return float(np.sin(adapted_output(x, W, A, B, s)).sum())


G = np.cos(adapted_output(x, W, A, B, s)).T @ x  # dLoss/dW' of this loss, (d_out, d_in)
step = np.zeros_like(B)
step[3, 1] = 1e-6
slope = (loss(B + step) - loss(B - step)) / 2e-6
with_s, without_s = gradient_B(G, A, s)[3, 1], gradient_B(G, A, 1.0)[3, 1]
print(f"finite difference {slope:.6f}, s G A^T {with_s:.6f}, without s {without_s:.6f}")
assert np.isclose(slope, gradient_B(G, A, s)[3, 1])

# %% [markdown]
# ## What one step does to the weight
#
# One step of gradient descent on $B$ changes $W'$ by
#
# $$\Delta W = -\eta\,s^2\,G\,A^\top A \qquad \text{(Eq. 2, with both factors of s)}$$
#
# The rows of $A$ are orthonormal, so $P = A^\top A$ is the projector on the r directions of the input space that $A$
# reads. **Training $B$ alone is gradient descent on the whole weight, with every gradient projected on the row space
# of A.** An input that is orthogonal to those directions passes as if nothing had been trained:

# %%
lr = 0.1
dW = sgd_weight_update(G, A, s, lr)
moved = merged_weight(W, A, B - lr * gradient_B(G, A, s), s) - merged_weight(W, A, B, s)
assert np.allclose(dW, moved)

P = A.T @ A  # (d_in, d_in), of rank r
unseen = x @ (np.eye(d_in) - P)  # the part of each input that A does not read
print(f"the update seen by such an input: {abs(unseen @ dW.T).max():.1e}")
assert np.allclose(unseen @ dW.T, 0.0) and np.allclose(dW @ P, dW)

# %% [markdown]
# ## What is lost, and what is not
#
# Which updates can be reached? Take any wished-for update $D$ of the weight. With $B = D A^\top / s$ the adapter
# gives $D P$: the wish, projected. Nothing of the part of $D$ inside the row space is lost, whatever it is; all of
# the rest is. So freezing $A$ is no approximation by itself. It turns one question into another: **which r directions
# of the input space should A read?** Chapters 2 to 4 answer it, before training starts, from a few samples of the
# task.

# %%
D = rng.standard_normal((d_out, d_in))
assert np.allclose(s * (D @ A.T / s) @ A, D @ P)

# %% [markdown]
# ## What plain LoRA's A does in training
#
# Plain LoRA starts from a random $A$ and trains it too. But its gradient is $s\,B^\top G$, and $B$ starts at zero: in
# the first step $A$ does not move at all, and it moves little as long as $B$ is small. How far does the row space of
# $A$ turn in a whole training run? On the shipped model, forty steps with a peak learning rate of 0.01, both matrices
# trained, rank 8; the similarity $\phi$ of the row spaces before and after is 1 where they are the same, and about r
# / d_in for two random ones.

# %%
model, _ = shipped()
model32 = type(model)(model.config, {name: tensor.astype("float32") for name, tensor in model.tensors.items()})
shapes = model.shapes()
plain = tr.allocate(dict.fromkeys(shapes, 1.0), shapes, 8, 8, freeze_A=False)
lora = tr.initialize(model32, None, plain, init="random")
before = lora.copy()
result = tr.train(model32, lora, encoded("train"), trainable="AB", steps=40, batch_size=8, lr=0.01)


def similarity(A: np.ndarray, other: np.ndarray) -> float:
    Q, R = np.linalg.qr(A.T)[0], np.linalg.qr(other.T)[0]
    return float(((Q.T @ R) ** 2).sum()) / len(A)


phi = [similarity(before.A[module], lora.A[module]) for module in lora.A]
random = [8 / shape[1] for shape in shapes.values()]
print(result)
stated("0.7", float(np.mean(phi)))
stated("0.06", float(np.mean(random)))

# %% [markdown]
# It is 0.7 on average, and would be 0.06 for two unrelated ones: after training, plain LoRA's $A$ still reads mostly
# the directions that a random generator drew before anybody had seen the task. TLoRA spends the effort before
# training instead, and then has only half the matrices to train and to store.
#
# ## Exercise
#
# `exercises.py`, chapter 1: write what $n$ steps of gradient descent on $B$ do to $W'$ when the gradient $G$ stays
# the same in all of them. Then `python -m pytest examples/walkthrough/test_exercises.py -k chapter_1`.
