# %% [markdown]
# # 6. Ranks and scales by hand (Eq. 6, Eq. 7)
#
# Plain LoRA gives each of the L modules the same rank $r_{init}$ and the same $\alpha$. TLoRA keeps the total and
# shares it out by sensitivity:
#
# $$r_i = \operatorname{round}\!\left(L\,r_{init}\,\frac{S_i}{\sum_j S_j}\right) \quad\text{(Eq. 6)}, \qquad
# \alpha_i = r_i \cdot \frac{L\,\alpha}{r_{init}} \cdot \frac{S_i}{\sum_j S_j} \quad\text{(Eq. 7)}$$
#
# ## Three modules
#
# S = (1, 2, 3), $r_{init}$ = 4, $\alpha$ = 4. The budget is 3 x 4 = 12. The shares are 1/6, 1/3 and 1/2, so the ranks
# are 2, 4 and 6. What multiplies $B A$ is the scale $\alpha_i / r_i = (\alpha / r_{init}) \cdot S_i /
# \operatorname{mean} S$: 1/2, 1 and 3/2.

# %%
import numpy as np

import tlora_ref as tr


def plan_of(S: list[float], r_init: int, alpha: float, side: int = 64, profile: str = "paper") -> tr.Plan:
    names = [f"m{i}" for i in range(len(S))]
    return tr.allocate(dict(zip(names, S, strict=True)), dict.fromkeys(names, (side, side)), r_init, alpha, profile)


plan = plan_of([1.0, 2.0, 3.0], r_init=4, alpha=4.0)
print(plan)
assert list(plan.rank.values()) == [2, 4, 6]
assert np.allclose(list(plan.scales.values()), [1 / 2, 1, 3 / 2])
assert np.allclose(list(plan.alpha.values()), [1, 4, 9])  # rank times scale: quadratic in the share

# %% [markdown]
# ## Why the scale follows the sensitivity
#
# The rank says in how many directions a module may change. The scale says how fast: by chapter 1 a step of gradient
# descent on $B$ moves $W'$ in proportion to $s^2$, a step of AdamW (whose steps have a size of their own) in
# proportion to $s$. A module on which much of the loss hangs can do more with a step, so it is given a larger one.
# Eq. 7 is made so that the rank cancels: without the factor $r_i$ in $\alpha_i$, a module with many directions would
# move each of them more slowly, because LoRA divides by the rank.
#
# Two things follow. A module of average sensitivity trains at plain LoRA's scale, $\alpha / r_{init}$. And the scales
# add up to what plain LoRA's add up to: the method shares out, it does not speed up.

# %%
middle = plan.scales["m1"]  # S = 2 is the mean of 1, 2, 3
assert middle == 4.0 / 4
assert np.isclose(sum(plan.scales.values()), 3 * 4.0 / 4)
other = plan_of([1.0, 2.0, 3.0], r_init=8, alpha=8.0)
assert np.allclose(list(other.scales.values()), list(plan.scales.values()))  # the ranks double, the scales stay

# %% [markdown]
# ## A tie
#
# S = (1, 3), $r_{init}$ = 1: the budget is 2, the shares are 1/4 and 3/4, so Eq. 6 has to round 1/2 and 3/2. Rounding
# to nearest does not say where a half goes; NumPy and Python (and IEEE 754) take the even neighbour: 0 and 2.
# Rounding halves up would give 1 and 2, one more than the budget. An implementation that computes the share first and
# multiplies then may miss an exact tie altogether, because most shares are no floating-point numbers: 12 of 88 times
# 55 is one, as long as the product comes before the quotient.

# %%
tie = plan_of([1.0, 3.0], r_init=1, alpha=1.0)
print(tie)
assert list(tie.rank.values()) == [0, 2]
assert 55 * 12 / 88 == 15 / 2 and 55 * (12 / 88) < 15 / 2
assert plan_of([32.0, 12.0, 6.0, 35.0, 3.0], r_init=11, alpha=11.0).rank["m1"] == 8

# %% [markdown]
# ## Rank 0
#
# The first module of the tie got no rank. The paper does not say what then; here it gets no adapter: it is not
# trained, its weight stays. Its scale is still defined, since it does not depend on the rank. It happens to every
# module whose share is below 1 / (2 L $r_{init}$), which is no rare case in a large model.
#
# ## What rounding does to the budget
#
# Each rank is off by at most a half, so the sum is off by at most L / 2, and the paper leaves it at that. The
# released code repairs it: the module of the largest rank takes +1 or -1 until the sum fits.

# %%
thirds = [1.0, 1.0, 1.0, 1.0, 1.0, 2.0]  # shares 1/7, ..., 2/7 of a budget of 12
for profile in ("paper", "released"):
    made = plan_of(thirds, r_init=2, alpha=2.0, profile=profile)
    print(profile, list(made.rank.values()), "sum", sum(made.rank.values()), "of", 12)
assert sum(plan_of(thirds, 2, 2.0).rank.values()) == 13
assert list(plan_of(thirds, 2, 2.0, profile="released").rank.values()) == [2, 2, 2, 2, 2, 2]

# %% [markdown]
# ## More rank than there are directions
#
# A module of 64 x 64 has no more than 64 directions, but Eq. 6 knows nothing of shapes. What is above min(d_out,
# d_in) is cut off and not handed on (`--switch redistribute=true` hands it on), and the plan says so:

# %%
steep = plan_of([1.0, 1.0, 98.0], r_init=40, alpha=40.0)
print(steep)
assert list(steep.rank_eq6.values()) == [1, 1, 118] and steep.rank["m2"] == 64
assert np.isclose(steep.scales["m2"], 0.98 * 3)  # the scale of its sensitivity, whatever became of the rank

# %% [markdown]
# ## The budget is in ranks, not in parameters
#
# A rank costs d_out numbers of $B$ (and d_in of a trained $A$), so ranks that move to wide modules cost more, and
# those that move to narrow ones less. That is why the paper's counts of trained parameters depend on the data, and
# cannot be predicted.
#
# ## Exercise
#
# `exercises.py`, chapter 6: write Eq. 6 with exact ties. The test has shares that are not floating-point numbers.
