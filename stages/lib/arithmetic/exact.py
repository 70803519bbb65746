"""Sums without rounding: their terms are brought to a grid, so that the order of adding does not matter.

A float64 holds every whole number up to 2**53. If two factors are rounded to whole numbers of at most `m` and `n`, and
m * n * terms <= 2**53, then every product and every partial sum of a matrix product is such a number. It is exact
whatever the order: vector width, threads, processes, fused operations and BLAS library cannot change it (Ozaki, Ogita,
Oishi and Rump 2012, with one slice; Demmel and Nguyen 2013 for sums).
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

ALLOWED = 2.0**53 * (1 - 2.0**-18)  # up to 2**53 every whole number is a float64; less for the rounding of scales
LARGEST_WHOLE = 2.0**24  # of a factor; float32 holds no more digits
SMALLEST = 2.0**-100  # of the largest magnitudes by which numbers are scaled; rows of smaller ones become zeros


class Ranks(Protocol):
    """The processes that share a batch."""

    def maximum(self, values: Tensor) -> Tensor:
        """Return the elementwise maximum over all ranks."""
        ...

    def sum_exactly(self, values: Tensor) -> Tensor:
        """Return the elementwise sum over all ranks of float64 whole numbers, or multiples of one unit."""
        ...

    def rows_in_all(self, rows: int) -> int:
        """Return how many rows the whole batch has, of which this rank has `rows`."""
        ...

    def of_this_rank(self, values: Tensor) -> Tensor:
        """Select the rows of this rank from values for the whole batch."""
        ...


def balanced(terms: int) -> float:
    """Return the largest magnitude of both factors' whole numbers, for sums of so many products."""
    return min(LARGEST_WHOLE, math.floor(math.sqrt(ALLOWED / terms)))


def other(magnitude: float, terms: int) -> float:
    """Return the largest magnitude of one factor's whole numbers, given that of the other factor's."""
    return min(LARGEST_WHOLE, math.floor(ALLOWED / (terms * magnitude)))


def largest(values: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Return the largest magnitude over some dimensions, which are kept with size 1, but not less than SMALLEST."""
    return values.abs().amax(dims, keepdim=True).clamp_(min=SMALLEST)


def whole(values: Tensor, maximum: Tensor, magnitude: float) -> Tensor:
    """Scale float32 numbers so that `maximum` becomes `magnitude`, and round them to whole numbers, as float64.

    NaN and infinity become NaN.
    """
    return torch.mul(values, maximum.reciprocal().mul_(magnitude)).round_().double()


def whole_rows(values: Tensor, magnitude: float) -> tuple[Tensor, Tensor]:
    """Scale each row, (rows, ...), by itself to whole numbers of at most `magnitude`.

    Returns:
        The whole numbers as float64, and each row's largest magnitude, for which `magnitude` stands: (rows, 1, ...)
        float32.
    """
    maximum = largest(values, tuple(range(1, values.ndim)))
    return whole(values, maximum, magnitude), maximum


def on_grid(values: Tensor, terms: int, ranks: Ranks) -> Tensor:
    """Round to multiples of a power of two, so fine that a sum of `terms` of them is exact in float64.

    Args:
        values: float32 or float64, of any shape.
        terms: of the largest sum, over all ranks.
        ranks: that add their parts; one unit holds for all.
    """
    values = values.double()
    if not values.numel():
        return values
    largest = float(ranks.maximum(values.abs().amax()))
    if largest == 0 or not math.isfinite(largest):
        return values
    # Adding `shift` rounds to its last digit, taking it away again leaves the rounded number.
    shift = math.ldexp(1.5, math.frexp(largest)[1] + terms.bit_length())
    return (values + shift).sub_(shift)


def exact_sum(values: Tensor, dims: Sequence[int], ranks: Ranks, *, keepdim: bool = False) -> Tensor:
    """Sum over some dimensions and, where the first is among them, over all ranks: float64.

    Args:
        values: (rows, ...) float32 or float64.
        dims: which to sum over, not negative.
        ranks: the processes that have the other rows of the batch.
        keepdim: whether the result keeps the summed dimensions, with size 1.
    """
    over_rows = 0 in dims
    terms = math.prod(values.shape[dim] for dim in dims)
    if over_rows:
        terms = terms // max(1, len(values)) * ranks.rows_in_all(len(values))
    total = on_grid(values, terms, ranks if over_rows else ALONE).sum(tuple(dims), keepdim=keepdim)
    return ranks.sum_exactly(total) if over_rows else total


class Alone:
    """One process, which has all rows."""

    def maximum(self, values: Tensor) -> Tensor:
        return values

    def sum_exactly(self, values: Tensor) -> Tensor:
        return values

    def rows_in_all(self, rows: int) -> int:
        return rows

    def of_this_rank(self, values: Tensor) -> Tensor:
        return values


ALONE = Alone()
