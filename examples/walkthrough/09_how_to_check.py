# %% [markdown]
# # 9. How one checks an implementation
#
# Somebody writes TLoRA again: in PyTorch, on a GPU, in lower precision, sharded. Final losses will not match, and
# they do not have to: sums in another order round otherwise, singular vectors have free signs. How does one tell
# rounding from a mistake?
#
# Not by comparing results. Each stage of the algorithm is computed *again, from the candidate's own inputs*, and its
# output is held against that, with a bound that follows from the precision, the lengths of the sums and the gaps
# between singular values. So a mistake shows in the stage that makes it, and the stages after it are judged fairly.

# %%
import json
import tempfile
from pathlib import Path

from walk import MODEL, shipped

import tlora_ref as tr

model, samples = shipped()
folder = Path(tempfile.mkdtemp())
few = samples[:4]
tr.trace(model, few, folder / "golden", r_init=4, alpha=4.0, steps=2)
print("a golden trace:", *sorted(path.name for path in (folder / "golden").iterdir()))

# %% [markdown]
# ## A right candidate in float32
#
# It differs from the golden run in every digit beyond the seventh, and after two steps of training by more. It is
# right:

# %%
tr.trace(tr.load_model(MODEL, dtype="float32"), few, folder / "float32", r_init=4, alpha=4.0, steps=2)
report = tr.compare(folder / "golden", folder / "float32", checkpoint=MODEL)
for row in report.rows():
    print("  ", *row)
assert report.passed

# %% [markdown]
# ## A wrong candidate
#
# This one centres each sample's inputs before it forms $C$ (chapter 2), and its author believes that it does what the
# paper says. Everything after $C$ is computed correctly, from a wrong $C$. A comparison of results would find $A$,
# $B$, losses and merged weights different, and say nothing about why.

# %%
tr.trace(model, few, folder / "wrong", r_init=4, alpha=4.0, steps=2, profile=tr.Switches(centre=True))
manifest = json.loads((folder / "wrong" / "manifest.json").read_text())
manifest["switches"]["centre"] = False  # what the author believes
(folder / "wrong" / "manifest.json").write_text(json.dumps(manifest))
report = tr.compare(folder / "golden", folder / "wrong", checkpoint=MODEL)
for row in report.rows():
    print("  ", *row)
print("first wrong stage:", report.first_failing, "; likely cause:", report.cause)
assert not report.passed and report.first_failing == "covariance"

# %% [markdown]
# One mistake, one failing stage, the cause by name. What follows from it is called a cascade. The cause is found by
# trying: for each stage there is a list of what its output would be after a known mistake, and here one of them fits.
#
# ## One function at a time
#
# One need not have a whole run. `tr.check_implementation` takes any functions that exist, and runs them over
# generated cases: ordinary ones, one token, tied scores, ranks above the smaller side, huge and tiny numbers. What
# fails is shrunk to the smallest case. Here is a gradient with the slip of the paper's Eq. 2 (chapter 1):


# %%
class Mine:
    def grad_b(self, x, dy, A, B, scale):
        return dy.T @ x @ A.T  # the paper's G A^T; right is scale * G A^T


checked = tr.check_implementation(Mine())
print(repr(checked))
print(checked.of("failed")[0].line())
assert checked.first_failing == "grad_b"

# %% [markdown]
# ## Exercise
#
# `exercises.py`, chapter 9: write `covariance` and `grad_b` so that the kit finds nothing.
