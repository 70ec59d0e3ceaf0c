"""How fast mixing alone brings peers together: the second largest modulus among W's eigenvalues, for large graphs."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csc_array, diags_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from decad.lab.distributions import Floats
from decad.lab.sharing import Integers

DENSE = 600
"""Up to so many peers all eigenvalues are computed."""
LANCZOS_PASSES = 40
"""Enough for graphs that mix well; the others are solved near 1, where theirs lies, by factorising I - W."""


def second_modulus(source: Integers, target: Integers, weight: Floats, peers: int) -> float:
    """``source``, ``target``, ``weight`` [edges], each edge in both directions; W's diagonal is what they leave.

    An edge whose two directions have different weights counts with their mean.
    """
    half = coo_array((weight / 2, (source, target)), shape=(peers, peers))
    off = csc_array(half + half.T)
    matrix = csc_array(off + diags_array(1.0 - off.sum(axis=1)))
    if peers <= DENSE:
        moduli = np.sort(np.abs(np.linalg.eigvalsh(matrix.toarray())))
        return float(moduli[-2]) if peers > 1 else 0.0
    start = np.random.default_rng(0).standard_normal(peers)
    apart = LinearOperator(
        (peers, peers),
        matvec=lambda x: matrix @ x - x.mean(),
        rmatvec=lambda x: matrix @ x - x.mean(),
        dtype=np.float64,
    )
    lowest = float(eigsh(apart, k=1, which="SA", v0=start, tol=1e-3, return_eigenvectors=False)[0])
    try:
        options = {"k": 1, "which": "LA", "v0": start, "tol": 1e-6, "maxiter": LANCZOS_PASSES}
        highest = float(eigsh(apart, return_eigenvectors=False, **options)[0])
    except ArpackNoConvergence:
        # 1 itself is the eigenvalue nearest to sigma, the one sought the next.
        near = eigsh(matrix, k=2, sigma=1.0 + 1e-9, v0=start, return_eigenvectors=False)
        highest = float(np.sort(near)[0])
    return max(abs(lowest), abs(highest))
