# %% [markdown]
# # Fine-tune the shipped model, and look
#
# A small Llama comes with the library. Here it learns to write the calculation that a sentence contains, by TLoRA, and
# we plot how: which layers got the ranks, how the loss falls, what it answers before and after. Change a number, run it
# all again: it takes seconds. It needs matplotlib (`pip install -e '.[plot]'`); nothing is downloaded.

# %%
import matplotlib.pyplot as plt

import tlora_ref as tr
from tlora_ref.data import choose_samples, encode_prompt, encode_rows, load_dataset, response_text
from tlora_ref.shipped import shipped_model

RANK, CALIBRATED, STEPS, BATCH, LR = 8, 32, 80, 8, 1e-2

folder = shipped_model()
model, tokenizer = tr.load_model(folder, dtype="float32"), tr.load_tokenizer(folder)
rows = {split: load_dataset(folder / "task", split) for split in ("train", "valid", "test")}
train, valid = (encode_rows(rows[split], tokenizer, max_length=256)[0] for split in ("train", "valid"))
print(f"{model.parameter_count():,} weights; {len(train)} samples to train on, {len(valid)} held out")

# %% [markdown]
# ## What it answers now
#
# Pre-training taught it prose with sums in it, not this task. Twenty sentences that it is never trained on:

# %%
asked = rows["test"][:20]


def answers() -> list[str]:
    """The model's greedy answer to each sentence."""
    said = []
    for row in asked:
        prompt = encode_prompt(row, tokenizer)
        ids = model.generate(prompt, max_new_tokens=20, eos_token_id=tokenizer.eos_token_id)
        said.append(tokenizer.decode(ids[len(prompt) :].tolist()).strip())
    return said


wanted = [response_text(row) for row in asked]
before = answers()
for row, said in list(zip(asked, before, strict=True))[:3]:
    print(f"{row.values['prompt'].strip()}\n    {said!r}")

# %% [markdown]
# ## Make the adapter
#
# Calibrate: each module's sensitivity S (Eq. 5) and covariance C. Allocate: ranks by S (Eq. 6), scales by ranks
# (Eq. 7). Initialise: A from the SVD of W C (Eq. 4), frozen; B zero.

# %%
samples, _ = choose_samples(train, CALIBRATED, seed=42)
stats = tr.calibrate(model, samples)
plan = tr.allocate(stats.sensitivity, model.shapes(), r_init=RANK, alpha=float(RANK))
adapter = tr.initialize(model, stats, plan)
print(adapter)

# %% alt="Ranks as a table, a row for each layer and a column for each kind of module; the darker, the higher."
layers = range(model.config.num_hidden_layers)
kinds = list(dict.fromkeys(module.rpartition(".")[2] for module in plan.rank))
ranks = [[next(r for m, r in plan.rank.items() if f".{i}." in m and m.endswith(k)) for k in kinds] for i in layers]

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
image = axes.imshow(ranks, cmap="Blues", vmin=0, aspect="auto")
axes.set_xticks(range(len(kinds)), kinds)
axes.set_yticks(layers, [f"layer {i}" for i in layers])
highest = max(map(max, ranks))
for i in layers:
    for j, rank in enumerate(ranks[i]):
        axes.text(j, i, rank, ha="center", va="center", color="white" if rank > highest / 2 else "black")
axes.set_title(f"Rank of every module (mean {RANK})")
plt.show()

# %% [markdown]
# ## Train B
#
# Every ten steps the loss of the held-out samples is taken; the adapter ends with the arrays of its best step.

# %%
result = tr.train(model, adapter, train, valid=valid, eval_every=10, steps=STEPS, batch_size=BATCH, lr=LR)
print(f"{result}\nkept: step {result.kept}")

# %% alt="The training loss of each step and the held-out loss of every tenth, on a logarithmic axis: both fall."
steps = [entry["step"] for entry in result.history]
held = [(entry["step"], entry["valid_loss"]) for entry in result.history if "valid_loss" in entry]

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.plot(steps, [entry["loss"] for entry in result.history], color="tab:blue", linewidth=1.2, label="training")
axes.plot(*zip(*held, strict=True), "o-", color="tab:orange", markersize=4, label="held out")
axes.set(xlabel="step", ylabel="loss (nats a token)", yscale="log", title="Loss")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What it answers after

# %%
after = answers()
for row, right, then, now in list(zip(asked, wanted, before, after, strict=True))[:6]:
    verdict = "" if now == right else f", wanted {right!r}"
    print(f"{row.values['prompt'].strip()}\n    before {then!r}\n    after  {now!r}{verdict}")
right_before, right_after = (sum(a == b for a, b in zip(said, wanted, strict=True)) for said in (before, after))
print(f"\nexact answers: {right_before} of {len(asked)} before, {right_after} after")

assert held[-1][1] < held[0][1] and right_after > right_before

# %% [markdown]
# ## From here
#
# `tr.save_peft(adapter, FOLDER, base_model=MODEL)` keeps the adapter as a folder that PEFT loads;
# `model.detach(); model.merge(adapter)` gives a plain model that answers the same. On the command line the same is
# `tlora-ref train MODEL --data DATA --out RUN`. `01_finetune_tiny.py` trains longer and compares with plain LoRA;
# `walkthrough/` explains why each step is as it is.
