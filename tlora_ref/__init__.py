"""TLoRA (arXiv 2604.18124) in plain NumPy: the reference that other implementations are checked against.

Where is ...? Every equation and line of the paper, and the function that is it (below `tlora_ref.method`):

| paper                       | what                             | function                                         |
|-----------------------------|----------------------------------|--------------------------------------------------|
| Alg. 1                      | the whole method on one page     | `tlora_ref.algorithm.algorithm_1`                |
| Eq. 1                       | adapted module, merged weight    | `low_rank.adapted_output`, `merged_weight`       |
| Eq. 2 (erratum: a factor s) | dL/dB and one SGD step           | `low_rank.gradient_B`, `sgd_weight_update`       |
| Eq. 3, 16                   | V_r from W_0 C^1/2               | `theory.optimal_directions`                      |
| Eq. 4 (lines 16, 17)        | A from the SVD of W C, B = 0     | `initialization.wc_svd`, `zero_B`                |
| Eq. 5 (line 8)              | sensitivity mean abs(W * dW)     | `sensitivity.sample_sensitivity`                 |
| line 9                      | input second moment X^T X        | `covariance.second_moment`                       |
| line 12                     | the budget                       | `allocation.budget`                              |
| Eq. 6 (line 14)             | ranks                            | `allocation.ranks`                               |
| Eq. 7 (line 15)             | alphas and scales                | `allocation.alphas`, `scales`                    |
| Eq. 8                       | least-squares loss               | `theory.least_squares_loss`                      |
| Eq. 9                       | objective J(A)                   | `theory.objective`                               |
| Eq. 10                      | as a trace against a projector   | `theory.projector`                               |
| Eq. 11                      | von Neumann's bound              | `theory.von_neumann_bound`                       |
| Eq. 12                      | M_D and the largest J            | `theory.update_moment`, `objective_bound`        |
| Eq. 13                      | the optimal projector            | `theory.optimal_projector`                       |
| Eq. 14, App. B.1            | the theoretical A = V_r^T C^-1/2 | `theory.optimal_A`, `initialization.theoretical` |
| Eq. 15, 17                  | subspace similarity phi          | `theory.subspace_similarity`                     |
| AdamW, schedules            | torch's and transformers'        | `adamw.adamw_step`, `schedule.learning_rate`     |
| paper or released code      | one switch a difference          | `switches.Switches`, `PROFILES`                  |
"""

import lazy_loader

from tlora_ref.version import __version__ as __version__

# The names are listed in __init__.pyi and imported when first used: the command line must choose the BLAS kernel first.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
