# %% [markdown]
# # 8. The whole method on the shipped model
#
# Everything together, in the five lines that one would write: calibrate (Alg. 1, lines 4 to 11), allocate (12 to 15),
# initialise (16, 17), train B, look. The model writes prose about sums; the task is to write the calculation that a
# sentence contains.

# %%
import numpy as np
from walk import MODEL, encoded, stated

import tlora_ref as tr
from tlora_ref.data import choose_samples

model = tr.load_model(MODEL, dtype="float32")
train, held_out = encoded("train"), encoded("test")[:100]
samples, _ = choose_samples(train, 32, seed=42)

stats = tr.calibrate(model, samples)
plan = tr.allocate(stats.sensitivity, model.shapes(), r_init=8, alpha=8.0)
adapter = tr.initialize(model, stats, plan)
print(stats, plan, adapter, sep="\n")

# %% [markdown]
# ## What the plan says
#
# Read it as a table of layers by kinds. The value projections get most, as chapter 5 foretold; the queries of the
# first layer are nearly left alone.

# %%
kinds = list(dict.fromkeys(module.rpartition(".")[2] for module in plan.rank))
print(" " * 8 + "".join(f"{kind:>11}" for kind in kinds))
for layer in range(model.config.num_hidden_layers):
    ranks = [next(r for m, r in plan.rank.items() if f".{layer}." in m and m.endswith(kind)) for kind in kinds]
    print(f"layer {layer:<2}" + "".join(f"{r:>11}" for r in ranks))
assert max(plan.rank, key=plan.rank.__getitem__).endswith("v_proj")
assert abs(sum(plan.rank.values()) - 28 * 8) <= 14  # Eq. 6 may miss the budget by L / 2

# %% [markdown]
# ## Training
#
# B starts at zero, so before the first step the adapted model is the model. Sixty steps:

# %%
before = tr.evaluate(model, held_out, batch_size=25).loss
frozen = {name: tensor.copy() for name, tensor in model.tensors.items()}
A = {module: matrix.copy() for module, matrix in adapter.A.items()}

model.attach(adapter)
assert tr.evaluate(model, held_out, batch_size=25).loss == before

result = tr.train(model, adapter, train, steps=60, batch_size=8, lr=0.01)
after = tr.evaluate(model, held_out, batch_size=25).loss
print(result)
print(f"held-out loss (nats a token): {before:.3f} before, {after:.3f} after")
stated("3.7", before)
assert after < 0.5

# %% [markdown]
# From 3.7 to less than 0.5 nats a token on sentences that it was not trained on. What changed, and what did not?

# %%
assert all(np.array_equal(model.tensors[name], tensor) for name, tensor in frozen.items())
assert all(np.array_equal(adapter.A[module], matrix) for module, matrix in A.items())
for module in list(adapter.A)[:3]:
    update = adapter.merged_weight(module, model.weight(module)) - model.weight(module)
    outside = update - update @ adapter.A[module].T @ adapter.A[module]
    print(
        f"{module}: the update outside A's row space, relative: {np.linalg.norm(outside) / np.linalg.norm(update):.1e}"
    )
    assert np.linalg.norm(outside) < 1e-3 * np.linalg.norm(update)

# %% [markdown]
# No weight of the model and no $A$ changed in a single bit; every update lies in its $A$'s row space (to the rounding
# of float32).
#
# ## Merging
#
# An adapter beside the weight costs two thin products a module. Merged it costs nothing, and answers the same:

# %%
ids = held_out[0]["input_ids"]
beside = model(ids).logits
model.detach()
merged = model.merge(adapter)(ids).logits
assert np.allclose(beside, merged, atol=1e-3)
trained = adapter.trainable_parameters()
print(f"{trained:,} numbers were trained of {model.parameter_count():,} ({trained / model.parameter_count():.1%})")
print(f"plain LoRA of rank 8 would train {plan.lora_parameters:,}")
stated("3.6", 100 * trained / model.parameter_count())

# %% [markdown]
# That is 3.6 % of the model. `examples/01_finetune_tiny.py` trains longer and compares with plain LoRA.
#
# ## Exercise
#
# `exercises.py`, chapter 8: from the ranks and shapes of a plan, how many numbers are trained when $A$ is frozen, and
# when it is not?
