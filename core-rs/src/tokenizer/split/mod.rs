//! Cuts text into pieces, none of which a token ever crosses. A rule is a sequence of steps; each cuts the pieces of
//! the one before. The usual steps are written by hand; any other regular expression runs through a regex engine.

mod given;
pub mod gpt2;
pub mod llama3;
mod scan;
mod syntax;

use super::error::Error;
use super::unicode::{CLASSES, Class};
pub use given::{Given, Source};
use std::ops::Range;

/// One way to cut a text.
#[derive(Debug)]
pub enum Step {
    /// Llama 3's rule, with numbers in groups of up to so many digits (3, or 1 in Qwen 2's variant).
    Llama3 {
        digits: usize,
    },
    Gpt2,
    /// Every number character alone.
    Digits,
    /// Runs of number characters.
    DigitRuns,
    Given(Box<Given>),
}

/// Steps in order. Without any, a text is one piece.
#[derive(Debug, Default)]
pub struct Rule {
    steps: Vec<Step>,
}

impl Rule {
    pub fn new(steps: Vec<Step>) -> Self {
        Self { steps }
    }

    pub fn llama3() -> Self {
        Self::new(vec![Step::Llama3 {
            digits: llama3::DIGITS,
        }])
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub fn is_llama3(&self) -> bool {
        matches!(
            self.steps[..],
            [Step::Llama3 {
                digits: llama3::DIGITS
            }]
        )
    }

    /// Calls `emit` with the pieces of `text` in order: byte ranges that follow one another without gaps. Fails only
    /// where a given regular expression gives up.
    #[inline]
    pub fn for_each_piece<F: FnMut(Range<usize>)>(
        &self,
        text: &str,
        mut emit: F,
    ) -> Result<(), Error> {
        cut(&self.steps, text, 0, &mut emit)
    }

    /// Cuts `text` into stretches of about `target` bytes between which no piece ever reaches, so that they can be
    /// encoded independently. A text without a suitable border stays whole.
    pub fn stretches<'t>(&self, text: &'t str, target: usize) -> impl Iterator<Item = &'t str> {
        let mut start = 0;
        std::iter::from_fn(move || {
            if start >= text.len() {
                return None;
            }
            let end = self.border_from(text, start.saturating_add(target.max(1)));
            let stretch = &text[start..end];
            start = end;
            Some(stretch)
        })
    }

    /// The first safe border at or after `position`, else the end: where one step always ends a piece and no other
    /// step cuts differently for it.
    fn border_from(&self, text: &str, position: usize) -> usize {
        let ends_pieces = |step: &Step| matches!(step, Step::Llama3 { .. } | Step::Gpt2);
        let is_given = |step: &Step| matches!(step, Step::Given(_));
        if !self.steps.iter().any(ends_pieces) || self.steps.iter().any(is_given) {
            return text.len();
        }
        (position.max(1)..text.len())
            .find(|&at| self.steps.iter().all(|step| step.is_border(text, at)))
            .unwrap_or(text.len())
    }
}

impl Step {
    /// Whether cutting the text here changes no piece of this step, apart from the one that lies across.
    #[inline]
    fn is_border(&self, text: &str, at: usize) -> bool {
        let bytes = text.as_bytes();
        match self {
            Step::Llama3 { .. } => llama3::is_border(text, at),
            Step::Gpt2 => gpt2::is_border(bytes[at - 1], bytes[at]),
            // A run of numbers must not be cut; no border of the rules above lies in one.
            Step::Digits | Step::DigitRuns => true,
            Step::Given(_) => false,
        }
    }
}

/// Cuts `text`, which begins at `offset`, by the steps in turn.
#[inline]
fn cut<F: FnMut(Range<usize>)>(
    steps: &[Step],
    text: &str,
    offset: usize,
    emit: &mut F,
) -> Result<(), Error> {
    let Some((step, rest)) = steps.split_first() else {
        if !text.is_empty() {
            emit(offset..offset + text.len());
        }
        return Ok(());
    };
    match step {
        Step::Llama3 { digits } => {
            cut_each(llama3::pieces(text, *digits), rest, text, offset, emit)
        }
        Step::Gpt2 => cut_each(gpt2::pieces(text), rest, text, offset, emit),
        Step::Digits => cut_each(numbers(text, true), rest, text, offset, emit),
        Step::DigitRuns => cut_each(numbers(text, false), rest, text, offset, emit),
        Step::Given(given) => given
            .pieces(text)
            .try_for_each(|piece| cut_each(std::iter::once(piece?), rest, text, offset, emit)),
    }
}

#[inline]
fn cut_each<F: FnMut(Range<usize>)>(
    pieces: impl Iterator<Item = Range<usize>>,
    rest: &[Step],
    text: &str,
    offset: usize,
    emit: &mut F,
) -> Result<(), Error> {
    for piece in pieces {
        if rest.is_empty() {
            emit(offset + piece.start..offset + piece.end);
        } else {
            cut(rest, &text[piece.clone()], offset + piece.start, emit)?;
        }
    }
    Ok(())
}

/// Runs of numbers, or each number alone, and what lies between.
fn numbers(text: &str, alone: bool) -> impl Iterator<Item = Range<usize>> {
    let is_number = |c: char| CLASSES.of(c) == Class::Number;
    let mut start = 0;
    std::iter::from_fn(move || {
        let mut chars = text[start..].chars();
        let first = chars.next()?;
        let end = if is_number(first) && alone {
            start + first.len_utf8()
        } else {
            let same = |c: char| is_number(c) == is_number(first);
            text[start..]
                .find(|c| !same(c))
                .map_or(text.len(), |length| start + length)
        };
        let piece = start..end;
        start = end;
        Some(piece)
    })
}

#[cfg(test)]
mod tests;
