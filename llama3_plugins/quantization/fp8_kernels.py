"""The two operations of `fp8_rowwise` that torch computes slowly on a GPU, as Triton kernels.

Quantizing a token's input is eight operations of torch, each of which writes the whole input to memory again; here it
is read twice and written once. A product of few tokens is bound by reading the weights' codes; torch's kernel is made
for many tokens and keeps a part of the processors busy only. This one reads a few rows of codes in each program.

Both give what `fp8_rows` and `emulated` define. A token's result does not depend on the tokens beside it.

Legend: T tokens, R rows, C columns of the matrix; inside a program: M tokens (padded), N rows, K columns.
"""

# mypy: allow-untyped-defs
# A kernel's arguments are pointers and numbers of Triton's own language.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch comes without it where it is built for CPUs alone
    triton = None


def jit(**options: Any) -> Any:
    """`triton.jit`, or nothing where there is no Triton."""
    return triton.jit(**options) if triton is not None else lambda kernel: kernel


E4M3 = torch.float8_e4m3fn
FEW_TOKENS = 16
"""Tokens of a product here at most: as many as a matrix unit takes at once."""
ROWS, COLUMNS = 32, 256
"""Rows of codes of a program, and columns that it holds at once: 4,096 rows make 128 programs."""
INPUT_COLUMNS = 4096
"""Columns of a token's input that a program holds at once."""


@jit()
def _quantize_row(
    x_ptr, codes_ptr, scale_ptr, x_token, columns, cap, tiny, LARGEST: tl.constexpr, COLUMNS: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    largest_K = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, columns, COLUMNS):
        column_K = start + tl.arange(0, COLUMNS)
        x_K = tl.load(x_ptr + token * x_token + column_K, mask=column_K < columns, other=0.0).to(tl.float32)
        largest_K = tl.maximum(largest_K, tl.abs(x_K))
    largest = tl.minimum(tl.max(largest_K, 0), cap)
    scale = tl.where(largest > 0, tl.maximum(tl.div_rn(largest, LARGEST), tiny), 1.0)
    tl.store(scale_ptr + token, scale)
    for start in range(0, columns, COLUMNS):
        column_K = start + tl.arange(0, COLUMNS)
        is_column_K = column_K < columns
        x_K = tl.load(x_ptr + token * x_token + column_K, mask=is_column_K, other=0.0).to(tl.float32)
        code_K = tl.clamp(tl.div_rn(x_K, scale), -LARGEST, LARGEST).to(tl.float8e4nv)
        tl.store(codes_ptr + token * columns + column_K, code_K, mask=is_column_K)


@jit(do_not_specialize=["tokens"])  # one kernel for any number
def _multiply_few(
    x_ptr,
    x_scale_ptr,
    codes_ptr,
    scale_ptr,
    out_ptr,
    tokens,
    rows,
    columns,
    FEW_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row_N = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token_M = tl.arange(0, FEW_TOKENS)
    is_row_N, is_token_M = row_N < rows, token_M < tokens
    sum_MN = tl.zeros([FEW_TOKENS, ROWS], tl.float32)
    for start in range(0, columns, COLUMNS):
        column_K = start + tl.arange(0, COLUMNS)
        is_column_K = column_K < columns
        x_MK = tl.load(
            x_ptr + token_M[:, None] * columns + column_K[None, :],
            mask=is_token_M[:, None] & is_column_K[None, :],
            other=0.0,
        )
        code_NK = tl.load(
            codes_ptr + row_N[:, None].to(tl.int64) * columns + column_K[None, :],
            mask=is_row_N[:, None] & is_column_K[None, :],
            other=0.0,
        )
        sum_MN = tl.dot(x_MK, tl.trans(code_NK), sum_MN)
    x_scale_M = tl.load(x_scale_ptr + token_M, mask=is_token_M, other=0.0)
    scale_N = tl.load(scale_ptr + row_N, mask=is_row_N, other=0.0)
    out_MN = sum_MN * x_scale_M[:, None] * scale_N[None, :]
    place_MN = token_M[:, None] * rows + row_N[None, :]
    tl.store(out_ptr + place_MN, out_MN, mask=is_token_M[:, None] & is_row_N[None, :])


def quantize_rows(x_TC: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """`fp8_rows`: codes in E4M3 [T, C] and float32[T]."""
    tokens, columns = x_TC.shape
    codes_TC = torch.empty(tokens, columns, dtype=E4M3, device=x_TC.device)
    scale_T = torch.empty(tokens, dtype=torch.float32, device=x_TC.device)
    tiny = torch.finfo(torch.float32).tiny
    sizes = {"LARGEST": torch.finfo(E4M3).max, "COLUMNS": min(INPUT_COLUMNS, triton.next_power_of_2(columns))}
    with torch.cuda.device_of(x_TC):  # Triton launches on the current device
        _quantize_row[(tokens,)](x_TC, codes_TC, scale_T, x_TC.stride(0), columns, cap, tiny, **sizes, num_warps=8)
    return codes_TC, scale_T


def multiply_few(codes_TC: Tensor, scale_T: Tensor, codes_RC: Tensor, scale_R: Tensor, dtype: torch.dtype) -> Tensor:
    """`emulated` for up to FEW_TOKENS tokens, [T, R] in `dtype`."""
    (tokens, columns), rows = codes_TC.shape, len(codes_RC)
    out_TR = torch.empty(tokens, rows, dtype=dtype, device=codes_TC.device)
    sizes = {"FEW_TOKENS": FEW_TOKENS, "ROWS": ROWS, "COLUMNS": COLUMNS}
    with torch.cuda.device_of(codes_TC):
        _multiply_few[(triton.cdiv(rows, ROWS),)](
            codes_TC, scale_T, codes_RC, scale_R, out_TR, tokens, rows, columns, **sizes, num_stages=4
        )
    return out_TR
