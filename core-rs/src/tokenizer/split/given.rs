//! A split rule given as a regular expression, for the rules that no hand-written splitter knows.

use super::syntax;
use crate::tokenizer::Error;
use fancy_regex::{Regex, RegexBuilder};
use std::ops::Range;

/// A regular expression in Oniguruma's syntax, as tokenizer.json files have it, or a literal text.
#[derive(Debug)]
pub struct Given {
    pub source: Source,
    regex: Regex,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Regex(String),
    Text(String),
}

impl Given {
    /// Refuses, by name, what does not compile or would mean something else here.
    pub fn new(source: Source) -> Result<Self, Error> {
        let pattern = match &source {
            Source::Regex(pattern) => {
                syntax::check(pattern).map_err(|found| refused(pattern, &found))?;
                pattern.clone()
            }
            Source::Text(text) => fancy_regex::escape(text).into_owned(),
        };
        // As in Oniguruma, `^` and `$` stand at every line.
        let regex = RegexBuilder::new(&pattern)
            .oniguruma_mode(true)
            .multi_line(true)
            .build()
            .map_err(|error| {
                Error::Unsupported(format!(
                    "the split rule {pattern:?} does not compile: {error}"
                ))
            })?;
        Ok(Self { source, regex })
    }

    /// The matches and what lies between them, in order, without empty ones.
    pub fn pieces<'t>(
        &'t self,
        text: &'t str,
    ) -> impl Iterator<Item = Result<Range<usize>, Error>> + 't {
        let mut matches = self.regex.find_iter(text);
        let (mut done, mut waiting) = (0, None);
        std::iter::from_fn(move || {
            if let Some(range) = waiting.take() {
                return Some(Ok(range));
            }
            while done < text.len() {
                let found = match matches.next() {
                    Some(Ok(found)) => found.range(),
                    Some(Err(error)) => {
                        done = text.len();
                        return Some(Err(gave_up(text, &error)));
                    }
                    None => text.len()..text.len(),
                };
                let gap = done..found.start;
                done = found.end;
                if gap.is_empty() && !found.is_empty() {
                    return Some(Ok(found));
                }
                if !gap.is_empty() {
                    waiting = Some(found).filter(|found| !found.is_empty());
                    return Some(Ok(gap));
                }
            }
            None
        })
    }
}

fn refused(pattern: &str, found: &str) -> Error {
    Error::Unsupported(format!(
        "the split rule {pattern:?} has {found}, which engines read differently"
    ))
}

fn gave_up(text: &str, error: &fancy_regex::Error) -> Error {
    Error::TooLarge(format!(
        "the split rule gave up on a text of {} bytes: {error}",
        text.len()
    ))
}
