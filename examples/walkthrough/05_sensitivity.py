# %% [markdown]
# # 5. Sensitivity: what hangs on a module's weights (Eq. 5)
#
# The budget of ranks is fixed, so some modules must get less than others. Which? The ones whose weights the loss
# depends on least. To first order, a small change $\Delta$ of a weight matrix changes the loss by
#
# $$L(W + \Delta) - L(W) \approx \sum_{ij} G_{ij}\,\Delta_{ij}, \qquad G = \partial L / \partial W.$$
#
# Take one entry away, $\Delta = -w$: the loss changes by about $-w\,g$. So $|w\,g|$ says, to first order, how much of
# the loss hangs on that one weight, and Eq. 5 takes the mean over all entries of the module and over the samples:
#
# $$S = \frac1N \sum_n \operatorname{mean}_{ij} \left| W_{ij} \, \frac{\partial L_n}{\partial W_{ij}} \right|$$

# %%
import numpy as np
import scipy.stats
from walk import shipped, stated

import tlora_ref as tr
from tlora_ref.method.sensitivity import sample_sensitivity

model, samples = shipped()
module = "model.layers.2.self_attn.v_proj"
tensor = f"{module}.weight"
W = model.weight(module)


def gradient(sample: dict) -> np.ndarray:
    """dLoss_n/dW of the module, (d_out, d_in)."""
    return tr.grad(model.watching([tensor])(**sample).loss, [module])[module]


# %% [markdown]
# ## One weight, with the finite difference beside it
#
# The six entries with the largest $|w\,g|$ of one sample: what the first order says, and what the loss really does
# when the entry is shrunk by a hundredth, and when it is taken away altogether.

# %%
sample = samples[0]
G = gradient(sample)
loss = model(**sample).loss.item()
order = np.argsort(-abs(W * G), axis=None)[:6]


def loss_with(index: tuple, value: float) -> float:
    changed = W.copy()
    changed[index] = value
    return type(model)(model.config, {**model.tensors, tensor: changed})(**sample).loss.item()


print("   entry      w      |  -w g      a hundredth of it taken (times 100)   all of it taken")
for index in (np.unravel_index(flat, W.shape) for flat in order):
    w, first_order = W[index], -W[index] * G[index]
    little = 100 * (loss_with(index, 0.99 * w) - loss)
    whole = loss_with(index, 0.0) - loss
    print(f"{index[0]:>4},{index[1]:>4} {w:>8.3f}   | {first_order:>9.6f}   {little:>9.6f} {whole:>30.6f}")
    assert np.isclose(little, first_order, rtol=0.02, atol=1e-6)

# %% [markdown]
# ## Why the absolute value, and why sample by sample
#
# A batch gives the mean gradient for free, one backward pass for all samples. Eq. 5 does not use it: a weight that
# pulls one sample's loss up and another's down by as much would count as unimportant, although both hang on it. How
# much would be missed?

# %%
gradients = [gradient(sample) for sample in samples]
S = float(np.mean([sample_sensitivity(W, g) for g in gradients]))
of_mean = float(sample_sensitivity(W, np.mean(gradients, axis=0)))
print(f"S = {S:.3e}; with the mean gradient {of_mean:.3e}")
stated("0.55", of_mean / S)

# %% [markdown]
# The mean gradient would give 0.55 of it, and not the same fraction in every module, so shares would change too. That
# is the one expensive thing about calibration: every sample goes through the model by itself.
#
# ## Does S say which modules matter?
#
# It is a first-order quantity, made of one gradient. A test that does not use gradients: multiply all weights of one
# module by random numbers near one (5 % noise), and see how much the loss of four samples moves. By the first order
# it moves like $0.05 \sqrt{\sum (w g)^2}$, so we divide by the root of the number of entries to compare modules of
# different size.

# %%
stats = tr.calibrate(model, samples)
rng = np.random.default_rng(0)
few = samples[:4]
before = np.array([model(**sample).loss.item() for sample in few])
moved = {}
for name in stats.shapes:
    weight = model.weight(name)
    changes = []
    for _ in range(2):
        noisy = weight * (1.0 + 0.05 * rng.standard_normal(weight.shape))
        disturbed = type(model)(model.config, {**model.tensors, f"{name}.weight": noisy}).watching([])
        changes.append(abs(np.array([disturbed(**sample).loss.item() for sample in few]) - before))
    moved[name] = np.mean(changes) / weight.size**0.5
agreement = scipy.stats.spearmanr([stats.sensitivity[name] for name in moved], list(moved.values())).statistic
print("rank correlation of S with what the noise does, over 28 modules:")
stated("0.85", float(agreement))

# %% [markdown]
# The order agrees well: a rank correlation of 0.85.
#
# ## What S does not say
#
# It is a mean over entries, so a large module in which few weights matter has a small S. It says that the loss
# depends on the weights *as they are*, and the method reads that as *is worth training*: the same guess as in chapter
# 4, that fine-tuning wants to change what is already used. And it is relative: only shares of S enter the method, so
# the units of the loss do not matter.

# %%
by_kind: dict[str, list[float]] = {}
for name, value in stats.sensitivity.items():
    by_kind.setdefault(name.rpartition(".")[2], []).append(value)
total = sum(stats.sensitivity.values())
for kind, values in by_kind.items():
    print(f"{kind:>10}  {sum(values) / total:6.1%}  {'#' * round(100 * sum(values) / total)}")
assert max(by_kind, key=lambda kind: sum(by_kind[kind])) == "v_proj"

# %% [markdown]
# The value projections stand out, as in the paper's larger models.
#
# ## Exercise
#
# `exercises.py`, chapter 5: write S of a module from its weight and the samples' gradients. The test has a case in
# which the gradients of two samples cancel.
