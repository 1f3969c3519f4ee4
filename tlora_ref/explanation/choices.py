"""Four choices of A for one module: what each captures of D = W_0 (App. A), and how alike their row spaces are."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from tlora_ref.adapter.leading import leading, leading_with_spectrum
from tlora_ref.backend import Array
from tlora_ref.method import initialization, theory

#: The choices in the order in which the page has them: the optimum, the method, and what it is compared with.
NAMES = ("theory", "W C", "W-SVD", "random")


@dataclass(frozen=True)
class Choices:
    """What four A of one rank are worth for D = W_0, and how alike they are.

    Attributes
    ----------
    rank : r_init, or what the module has if that is less
    bound : Eq. 12, the largest J(A) of that rank
    share : {choice: J(A) / bound}
    phi : (4, 4), phi between the row spaces of the A, in the order of NAMES
    phi_directions : phi between V_r of W C and V_r of W C^1/2, which the paper measures (Eq. 15)
    lengths : the shortest and the longest row of the theory's A
    """

    rank: int
    bound: float
    share: dict[str, float]
    phi: Array
    phi_directions: float
    lengths: tuple[float, float]


@dataclass(frozen=True)
class Spectra:
    """Eigenvalues of C (damped as in the theory), and singular values of W C; both descending."""

    C: Array
    WC: Array


@dataclass(frozen=True)
class Root:
    """C^1/2 of the damped C as its eigenvectors (d_in, d_in) and the roots of its eigenvalues, descending.

    The root itself is never formed: X C^1/2 = (X V * roots) V^T has the singular values of X V * roots, and what the
    last V^T turns it turns in every product with it.
    """

    vectors: Array
    roots: Array

    @classmethod
    def of(cls, C: Array) -> Root:
        """Rounding can leave an eigenvalue below zero where C's largest is huge: it counts as zero."""
        values, vectors = np.linalg.eigh(theory.damped(C))
        return cls(vectors[:, ::-1], np.sqrt(np.maximum(values[::-1], 0.0)))

    @property
    def eigenvalues(self) -> Array:
        """Of the damped C, descending."""
        return self.roots**2

    def turned(self, X: Array) -> Array:
        """X C^1/2 V, for X (n, d_in)."""
        return (X @ self.vectors) * self.roots


def captured(A: Array, W_root: Array, root: Root) -> float:
    """J(A) for D = W as Eq. 10 has it: ||W C^1/2 Q||_F^2, Q an orthonormal basis of the row space of A C^1/2.

    The projector is formed by QR and not by (A C A^T)^-1, so that no choice is too badly conditioned to be judged.
    `W_root` is `root.turned(W)`: V turns both factors.
    """
    Q = np.linalg.qr(root.turned(A).T)[0]  # (d_in, r)
    return float(np.linalg.norm(W_root @ Q) ** 2)


def compare(module: str, W: Array, C: Array, root: Root, r_init: int, seed: int) -> tuple[Choices | None, Array]:
    """The four choices for one module, and the singular values of W C.

    W (d_out, d_in), C (d_in, d_in), float64. None where W C^1/2 is zero, so that there is nothing to capture.
    """
    if W.shape[0] > W.shape[1]:
        W = np.asarray(np.linalg.qr(W, mode="r"))  # (d_in, d_in): all products keep their values and right vectors
    W_root = root.turned(W)  # (d_out, d_in)
    sigma, turned = leading(W_root, min(r_init, *W.shape))
    rank = min(len(turned), int((sigma > max(W.shape) * np.finfo(np.float64).eps * sigma[0]).sum()))
    A_wc, sigma_wc = initialization.wc_svd(W, C, rank, decompose=leading_with_spectrum)
    if rank == 0:
        return None, sigma_wc
    turned, sigma = turned[:rank], sigma[:rank]
    # V_r^T C^-1/2 = Sigma_r^-2 (W C^1/2 V_r)^T W: the same rows, without an inverse root
    optimum = (W_root @ turned.T / sigma**2).T @ W
    rng = np.random.default_rng([seed, zlib.crc32(module.encode())])  # as `initialize` draws it
    chosen = {
        "theory": optimum,
        "W C": A_wc,
        "W-SVD": initialization.w_svd(W, rank, decompose=leading)[0],
        "random": initialization.random_uniform(W.shape[1], rank, rng, like=W),
    }
    bound = float((sigma**2).sum())
    share = {name: captured(A, W_root, root) / bound for name, A in chosen.items()}
    bases = [np.linalg.qr(chosen[name].T)[0] for name in NAMES]  # (d_in, r) each
    phi = np.array([[theory.subspace_similarity(one, other) for other in bases] for one in bases])
    lengths = np.linalg.norm(optimum, axis=1)
    directions = theory.subspace_similarity(A_wc.T, root.vectors @ turned.T)
    return Choices(rank, bound, share, phi, directions, (float(lengths.min()), float(lengths.max()))), sigma_wc
