//! A split rule given as a regular expression, for the rules that no hand-written splitter knows.

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

/// Constructs that other engines read in another way than Oniguruma.
const AMBIGUOUS: [&str; 9] = [
    r"\w", r"\W", r"\b", r"\B", r"\h", r"\X", "[[:", "[^[:", "&&",
];

impl Given {
    /// Refuses, by name, what does not compile or would mean something else here.
    pub fn new(source: Source) -> Result<Self, Error> {
        let pattern = match &source {
            Source::Regex(pattern) => {
                check(pattern)?;
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

fn check(pattern: &str) -> Result<(), Error> {
    let plain = pattern.replace(r"\\", ""); // an escaped backslash begins no construct
    if let Some(found) = AMBIGUOUS.iter().find(|part| plain.contains(*part)) {
        let what =
            format!("the split rule {pattern:?} has {found}, which engines read differently");
        return Err(Error::Unsupported(what));
    }
    if let Some(flags) = plain.split("(?").skip(1).find(|rest| sets_flags(rest)) {
        let flags: String = flags
            .chars()
            .take_while(|&c| c != ':' && c != ')')
            .collect();
        let what = format!("the split rule {pattern:?} sets the flags {flags:?}; supported: i");
        return Err(Error::Unsupported(what));
    }
    Ok(())
}

/// Whether what follows `(?` sets flags other than `i`, as in `(?m:` or `(?s)`.
fn sets_flags(rest: &str) -> bool {
    let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-');
    let (flags, next) = rest.split_at(end.unwrap_or(rest.len()));
    next.starts_with([':', ')']) && !flags.is_empty() && flags != "i"
}

fn gave_up(text: &str, error: &fancy_regex::Error) -> Error {
    Error::TooLarge(format!(
        "the split rule gave up on a text of {} bytes: {error}",
        text.len()
    ))
}
