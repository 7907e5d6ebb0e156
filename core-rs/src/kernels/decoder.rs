//! One forward of a few new tokens through all layers, for decoding: between the products little is computed, and each
//! call from Python costs more than that.
//!
//! The same operations as in llama3/model/transformer.py, which defines them. Numbers between products are `f32`.

use super::attention::{self, Pages, Sight};
use super::elementwise::{rms_norm, rotate};
use super::linear::multiply;
use super::matrix::Matrix;
use super::{Number, best_of};

/// The weights of a layer; those of norms in `f32`.
pub struct Layer<'a> {
    pub attention_norm: Vec<f32>,
    pub qkv: Matrix<'a>,
    pub out: Matrix<'a>,
    pub ffn_norm: Vec<f32>,
    pub gate_up: Matrix<'a>,
    pub down: Matrix<'a>,
}

/// What all layers have in common. `heads`: key-value heads; `group`: query heads of each; `channels` of a head;
/// `ffn_group`: rows of the gate that stand together in `gate_up`.
#[derive(Clone, Copy)]
pub struct Shape {
    pub dim: usize,
    pub heads: usize,
    pub group: usize,
    pub channels: usize,
    pub ffn_dim: usize,
    pub ffn_group: usize,
    pub eps: f32,
}

/// The new tokens: the angles of each, [tokens, channels / 2], its slot in the cache and what it sees.
pub struct Tokens<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub slots: &'a [usize],
    pub sights: &'a [Sight<'a>],
}

/// Replaces x [tokens, dim] by the hidden states after all layers. The new keys and values are stored in the cache,
/// [2, layers, heads, blocks, block size, channels].
pub fn forward<T: Number>(
    x: &mut [f32],
    layers: &[Layer<'_>],
    shape: Shape,
    tokens: &Tokens<'_>,
    cache: &mut [T],
    block_size: usize,
) {
    let count = tokens.slots.len();
    let q_dim = shape.heads * shape.group * shape.channels;
    let mut normal = vec![0.0; count * shape.dim];
    let mut qkv = vec![0.0; count * shape.heads * (shape.group + 2) * shape.channels];
    let mut q = vec![T::default(); count * q_dim];
    let mut attended = vec![T::default(); count * q_dim];
    let mut gate_up = vec![0.0; count * 2 * shape.ffn_dim];
    let mut ffn = vec![0.0; count * shape.ffn_dim];
    let mut added = vec![0.0; count * shape.dim];
    let (all_keys, all_values) = cache.split_at_mut(cache.len() / 2);
    let size = all_keys.len() / layers.len().max(1);
    for (index, layer) in layers.iter().enumerate() {
        let keys = &mut all_keys[index * size..][..size];
        let values = &mut all_values[index * size..][..size];
        rms_norm(x, &layer.attention_norm, shape.eps, &mut normal);
        multiply(&normal, layer.qkv, shape.dim, &mut qkv);
        place(&qkv, shape, tokens, &mut q, keys, values);
        let pages = Pages {
            keys,
            values,
            scales: None,
            heads: shape.heads,
            block_size,
            channels: shape.channels,
        };
        let parts: Vec<&[T]> = q.chunks_exact(shape.group * shape.channels).collect();
        attention::attend(&parts, pages, tokens.sights, &mut attended);
        multiply_into(&attended, layer.out, q_dim, &mut added);
        add(&added, x);
        rms_norm(x, &layer.ffn_norm, shape.eps, &mut normal);
        multiply(&normal, layer.gate_up, shape.dim, &mut gate_up);
        best_swiglu()(&gate_up, shape.ffn_group, &mut ffn);
        multiply(&ffn, layer.down, shape.ffn_dim, &mut added);
        add(&added, x);
    }
}

fn multiply_into<T: Number>(x: &[T], w: Matrix<'_>, width: usize, y: &mut [f32]) {
    let x: Vec<f32> = x.iter().map(|x| x.widen()).collect();
    multiply(&x, w, width, y);
}

fn add(x: &[f32], sum: &mut [f32]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}

/// Turns queries and keys by their angles, and puts queries together, keys and values into the cache.
fn place<T: Number>(
    qkv: &[f32],
    shape: Shape,
    tokens: &Tokens<'_>,
    q: &mut [T],
    keys: &mut [T],
    values: &mut [T],
) {
    let (channels, pairs) = (shape.channels, shape.channels / 2);
    let (group, head_size) = (shape.group * channels, keys.len() / shape.heads);
    let mut turned = vec![0.0; group + channels];
    let parts = qkv.chunks_exact(group + 2 * channels);
    for (index, (part, q)) in parts.zip(q.chunks_exact_mut(group)).enumerate() {
        let (token, head) = (index / shape.heads, index % shape.heads);
        let angles = token * pairs..(token + 1) * pairs;
        let (cos, sin) = (&tokens.cos[angles.clone()], &tokens.sin[angles]);
        rotate(&part[..group + channels], cos, sin, &mut turned);
        let slot = head * head_size + tokens.slots[token] * channels;
        narrow(&turned[..group], q);
        narrow(&turned[group..], &mut keys[slot..slot + channels]);
        narrow(
            &part[group + channels..],
            &mut values[slot..slot + channels],
        );
    }
}

fn narrow<T: Number>(x: &[f32], out: &mut [T]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = T::narrow(x);
    }
}

best_of!(best_swiglu, swiglu(gate_up: &[f32], group: usize, out: &mut [f32]));

/// silu(gate) * up, of groups of rows of each behind each other.
#[inline(always)]
fn swiglu(gate_up: &[f32], group: usize, out: &mut [f32]) {
    for (gate_up, out) in gate_up
        .chunks_exact(2 * group)
        .zip(out.chunks_exact_mut(group))
    {
        let (gate, up) = gate_up.split_at(group);
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            let e = attention::exp(-gate.abs());
            let sigmoid = if gate >= 0.0 { 1.0 } else { e } / (1.0 + e);
            *out = gate * sigmoid * up;
        }
    }
}
