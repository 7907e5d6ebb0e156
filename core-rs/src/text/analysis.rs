//! The analysis pass: every document is read once, and all that rules know of it comes from that.

use super::TextBatch;
use super::line_facts::LineFacts;
use super::marks::Marks;
use super::statistics::{Row, Scratch, statistics};
use rayon::prelude::*;

/// What is known of documents.
#[derive(Debug, Default, PartialEq)]
pub struct Analysis {
    /// A row for each document.
    pub rows: Vec<Row>,
    /// The lines of all.
    pub lines: LineFacts,
}

impl Analysis {
    #[must_use]
    pub fn of(batch: TextBatch<'_>) -> Self {
        (0..batch.len())
            .into_par_iter()
            .fold(Part::default, |mut part, document| {
                part.add(document, batch.get(document));
                part
            })
            .map(|part| part.found)
            .reduce(Self::default, Self::and)
    }

    fn and(mut self, more: Self) -> Self {
        if self.rows.is_empty() {
            return more;
        }
        self.rows.extend(more.rows);
        self.lines = self.lines.and(more.lines);
        self
    }
}

/// Documents that one thread reads one after another, and its memory for the next.
#[derive(Default)]
struct Part {
    found: Analysis,
    marks: Marks,
    scratch: Scratch,
}

impl Part {
    fn add(&mut self, document: usize, text: &str) {
        self.marks.read(text);
        let row = statistics(text, &self.marks, &mut self.scratch);
        self.found.rows.push(row);
        self.found.lines.add(document, text, &self.marks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::{install, testing::with_threads};

    #[test]
    fn threads_change_nothing() {
        let texts: Vec<String> = (0..200)
            .map(|n| format!("A line of {n} words.\nÉtat no. {n}!\n\n").repeat(n % 7))
            .collect();
        let text = texts.concat();
        let ends = texts.iter().scan(0, |at, text| {
            *at += text.len() as i64;
            Some(*at)
        });
        let offsets: Vec<i64> = std::iter::once(0).chain(ends).collect();
        let found = [1, 2, 4].map(|threads| {
            with_threads(threads, || {
                install(|| Analysis::of(TextBatch::new(text.as_bytes(), &offsets).unwrap()))
            })
        });
        assert_eq!(found[0].rows.len(), 200);
        assert_eq!(
            found[0].lines.numbers[0].len(),
            2 * (0..200).map(|n| n % 7).sum::<usize>()
        );
        assert_eq!(found[0], found[1]);
        assert_eq!(found[0], found[2]);
    }
}
