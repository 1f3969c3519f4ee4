# %% [markdown]
# # 2. What C is, and why inputs matter
#
# A change $D$ of a weight matters only through what it does to inputs that really occur. For one input $x$ the output
# changes by $D x$; over all the inputs of a calibration sample (the rows of $X$) the squared change adds up to
#
# $$\sum_t \lVert D x_t \rVert^2 = \lVert X D^\top \rVert_F^2 = \operatorname{Tr}(D\,X^\top X\,D^\top).$$
#
# So all that one needs to know of the inputs is the matrix $X^\top X$, (d_in, d_in), however many tokens there are.
# Its mean over samples is $C$ (Alg. 1, line 9).

# %%
import numpy as np
from walk import inputs_of, shipped, stated

import tlora_ref as tr
from tlora_ref.method.covariance import second_moment

model, samples = shipped()
module = "model.layers.2.self_attn.q_proj"
W = model.weight(module)  # (d_out, d_in)
X = inputs_of(model, module, samples)  # one (T_n, d_in) a sample
C = sum(second_moment(x) for x in X) / len(X)

D = np.random.default_rng(0).standard_normal(W.shape)
by_inputs = np.mean([np.sum((x @ D.T) ** 2) for x in X])
by_C = np.trace(D @ C @ D.T)
print(f"{sum(map(len, X))} tokens of width {W.shape[1]}: squared change {by_inputs:.6f} by inputs, {by_C:.6f} by C")
assert np.isclose(by_inputs, by_C)

# %% [markdown]
# ## Inputs are not alike in all directions
#
# The eigenvalues of $C$ say how much of the inputs lies in each direction of the input space. They fall steeply: of
# the 128 directions that this module could read, the first holds a large part by itself, and many hold next to
# nothing.

# %%
values, vectors = np.linalg.eigh(C)
values, vectors = values[::-1], vectors[:, ::-1]  # largest first
part = values / values.sum()
print("share of the first eight directions:", part[:8].round(3))
stated("0.23", part[0])
half = int(np.searchsorted(np.cumsum(part), 0.5)) + 1
stated("9", half)
stated("1224", values[0] / values[-1])

# %% [markdown]
# The first holds 0.23 of everything, 9 of them hold half, and the largest eigenvalue is 1224 times the smallest. Two
# changes of the weight that are of one size on paper can therefore be of very different size in what they do:

# %%
u = np.zeros(W.shape[0])
u[0] = 1.0
along_first, along_last = np.outer(u, vectors[:, 0]), np.outer(u, vectors[:, -1])  # both of Frobenius norm 1
effects = [float(np.trace(change @ C @ change.T)) for change in (along_first, along_last)]
print(f"squared effect of a change of norm 1: {effects[0]:.2f} along the first direction, {effects[1]:.3f} the last")
assert np.allclose(effects, [values[0], values[-1]])

# %% [markdown]
# That is why looking at $W$ alone is not enough to choose what $A$ reads: a direction in which $W$ is strong but that
# no input ever takes is a wasted row of $A$. $W C$ weighs both.
#
# ## Uncentred, on purpose
#
# Appendix A of the paper calls $C$ a covariance, and the authors' released code subtracts each sample's mean first.
# Algorithm 1 does not, and it is right by the argument above: the module is applied to $x$, not to $x$ minus a mean.
# What is subtracted is not small. The first direction of $C$ is nearly the direction of the mean input, and centring
# takes most of it away:

# %%
mean = np.mean(np.concatenate(X), axis=0)
cosine = abs(vectors[:, 0] @ mean) / np.linalg.norm(mean)
centred = sum(second_moment(x, centre=True) for x in X) / len(X)
stated("0.99", float(cosine))
along_mean = vectors[:, 0] @ centred @ vectors[:, 0] / values[0]
stated("0.14", float(along_mean))

# %% [markdown]
# The cosine between the two is 0.99; after centring, 0.14 of that direction's weight is left. (`profile="released"`
# does it, so that the authors' results can be reproduced; it is the switch `centre`.)
#
# ## Practical consequences
#
# $C$ is a sum, so samples may come in any order and from several machines. Modules that are given the same input
# share one $C$: q, k and v of a layer, gate and up. And $C$ matters only up to a positive factor, because singular
# vectors do not change when a matrix is multiplied by a number: dividing by the number of samples, or of tokens, or
# not at all, gives the same $A$.

# %%
stats = tr.calibrate(model, samples)  # the same for every module, in one pass a sample
assert np.allclose(stats.covariance[module], C)
assert stats.leader[module] == stats.leader["model.layers.2.self_attn.v_proj"]
print(len(stats.shapes), "modules,", len(stats.covariance_sums), "different C")
one, other = tr.calibrate(model, samples[:20]), tr.calibrate(model, samples[20:])
assert np.allclose(one.merge(other).covariance[module], C)

# %% [markdown]
# ## Exercise
#
# `exercises.py`, chapter 2: the root mean square change of one output of a module, over the tokens of all samples,
# from $C$ alone.
