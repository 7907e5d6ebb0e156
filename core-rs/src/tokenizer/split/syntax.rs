//! Which regular expressions mean the same to Oniguruma, for which tokenizer.json files are written, and to the engine
//! here. What is not listed is refused: a rule that is read in another way cuts other pieces, and nobody is told.

/// Names that may stand in `\p{...}`: general categories, and the scripts that split rules name.
const CLASSES: [&str; 56] = [
    "L",
    "Lu",
    "Ll",
    "Lt",
    "Lm",
    "Lo",
    "M",
    "Mn",
    "Mc",
    "Me",
    "N",
    "Nd",
    "Nl",
    "No",
    "P",
    "Pc",
    "Pd",
    "Ps",
    "Pe",
    "Pi",
    "Pf",
    "Po",
    "S",
    "Sm",
    "Sc",
    "Sk",
    "So",
    "Z",
    "Zs",
    "Zl",
    "Zp",
    "C",
    "Cc",
    "Cf",
    "Co",
    "Arabic",
    "Armenian",
    "Bengali",
    "Cyrillic",
    "Devanagari",
    "Ethiopic",
    "Georgian",
    "Greek",
    "Han",
    "Hangul",
    "Hebrew",
    "Hiragana",
    "Katakana",
    "Khmer",
    "Lao",
    "Latin",
    "Myanmar",
    "Tamil",
    "Telugu",
    "Thai",
    "Tibetan",
];
/// Escapes of one letter outside and inside of `[...]`. Digits are references to groups, outside only.
const LETTERS: &str = "rntfvsSdD";
/// Letters that together are the other case of one character (ß, ﬀ, ﬁ, ﬂ, ﬆ), which only Oniguruma knows.
const FOLDED_TOGETHER: [&str; 5] = ["ss", "ff", "fi", "fl", "st"];

type Check = Result<(), String>;

/// What of the pattern is not certain to mean the same, in words.
pub fn check(pattern: &str) -> Check {
    let mut walk = Walk {
        rest: pattern,
        whole: pattern,
        ignores_case: Vec::new(),
        literal: String::new(),
    };
    while !walk.rest.is_empty() {
        walk.item()?;
    }
    Ok(())
}

struct Walk<'p> {
    rest: &'p str,
    whole: &'p str,
    /// Of every open group, whether it ignores case.
    ignores_case: Vec<bool>,
    /// The letters just before, where case is ignored.
    literal: String,
}

impl<'p> Walk<'p> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take(&mut self, start: &str) -> bool {
        let found = self.rest.strip_prefix(start);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn is_caseless(&self) -> bool {
        self.ignores_case.last().copied().unwrap_or(false)
    }

    fn item(&mut self) -> Check {
        let Some(c) = self.next() else { return Ok(()) };
        match c {
            '\\' => self.escape(false)?,
            '[' => self.class()?,
            '(' => return self.group(),
            ')' => {
                self.literal.clear();
                self.ignores_case.pop();
            }
            '|' | '^' | '$' => {
                self.literal.clear();
                return Ok(());
            }
            '*' | '+' | '?' | '{' | '}' | ']' => {
                return Err(format!("{c:?} where it means nothing"));
            }
            _ => self.letter(c)?,
        }
        self.quantifier()
    }

    fn letter(&mut self, c: char) -> Check {
        if !self.is_caseless() {
            return Ok(());
        }
        if !c.is_ascii() {
            return Err(format!("{c:?} without regard to case"));
        }
        self.literal.push(c.to_ascii_lowercase());
        match FOLDED_TOGETHER
            .iter()
            .find(|both| self.literal.ends_with(**both))
        {
            Some(both) => Err(format!("{both:?} without regard to case")),
            None => Ok(()),
        }
    }

    fn group(&mut self) -> Check {
        self.literal.clear();
        let caseless = self.is_caseless();
        if self.take("?i)") {
            // Elsewhere Oniguruma takes all alternatives that follow into the flag's own group.
            if self.rest.len() + "(?i)".len() != self.whole.len() {
                return Err("\"(?i)\" after the beginning".into());
            }
            self.ignores_case.push(true);
            return Ok(());
        }
        let caseless_now = self.take("?i:");
        let plain = ["?:", "?=", "?!", "?<=", "?<!", "?>"]
            .iter()
            .any(|start| self.take(start));
        if !caseless_now && !plain && self.rest.starts_with('?') {
            let shown: String = self.rest.chars().take(3).collect();
            return Err(format!("\"({shown}\""));
        }
        if self.rest.starts_with('*') {
            return Err("\"(*\"".into());
        }
        self.ignores_case.push(caseless || caseless_now);
        Ok(())
    }

    /// After a backslash.
    fn escape(&mut self, in_class: bool) -> Check {
        self.literal.clear();
        let c = self.next().ok_or("a backslash at the end")?;
        match c {
            'p' | 'P' => return self.property(c),
            'x' | 'u' => return self.code_point(c),
            _ if LETTERS.contains(c) => {}
            '1'..='9' if !in_class && !self.is_caseless() => {}
            '<' | '>' | '`' => return Err(format!("\\{c}")),
            _ if c.is_ascii_punctuation() || c == ' ' => {}
            _ => return Err(format!("\\{c}")),
        }
        Ok(())
    }

    fn property(&mut self, letter: char) -> Check {
        let name = self
            .rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let Some((name, rest)) = name else {
            return Err(format!("\\{letter} without braces"));
        };
        if !CLASSES.contains(&name) {
            return Err(format!("\\{letter}{{{name}}}"));
        }
        if self.is_caseless() {
            return Err(format!("\\{letter}{{{name}}} without regard to case"));
        }
        self.rest = rest;
        Ok(())
    }

    /// `\x{...}` and `\uHHHH`.
    fn code_point(&mut self, letter: char) -> Check {
        let digits = match letter {
            'x' => self
                .rest
                .strip_prefix('{')
                .and_then(|rest| rest.split_once('}')),
            _ => self.rest.split_at_checked(4),
        };
        let is_hex = |text: &str| {
            (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
        };
        match digits {
            Some((digits, rest)) if is_hex(digits) && !self.is_caseless() => self.rest = rest,
            _ => return Err(format!("\\{letter}")),
        }
        Ok(())
    }

    /// After `[`.
    fn class(&mut self) -> Check {
        self.literal.clear();
        let negated = self.take("^");
        if negated && self.is_caseless() {
            return Err("\"[^\" without regard to case".into());
        }
        if self.rest.starts_with(']') {
            return Err("an empty [...]".into());
        }
        loop {
            let before = self.rest;
            match self.next().ok_or("a [ without ]")? {
                ']' => return Ok(()),
                '[' if before.starts_with("[:") => return Err("[: in [...]".into()),
                '[' => self.class()?,
                '\\' => {
                    self.escape(true)?;
                    let escaped = before.as_bytes()[1];
                    let is_set = matches!(escaped, b's' | b'S' | b'd' | b'D' | b'p' | b'P');
                    if is_set && self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                        return Err("a range that begins with a class".into());
                    }
                }
                c if self.is_caseless() && !c.is_ascii_alphabetic() => {
                    return Err(format!("{c:?} in [...] without regard to case"));
                }
                _ if ["&&", "--", "~~"]
                    .iter()
                    .any(|sign| before.starts_with(sign)) =>
                {
                    return Err(format!("{:?} in [...]", &before[..2]));
                }
                _ => {}
            }
        }
    }

    /// `*`, `+`, `?` and `{n,m}`, greedy, lazy or possessive; none but the first three are possessive everywhere.
    fn quantifier(&mut self) -> Check {
        let Some(first) = self.rest.chars().next().filter(|c| "*+?{".contains(*c)) else {
            return Ok(());
        };
        self.literal.clear();
        self.next();
        if first != '{' {
            let _ = self.take("?") || self.take("+");
        } else {
            let (bounds, rest) = self.rest.split_once('}').ok_or("a { without }")?;
            let (low, high) = bounds.split_once(',').unwrap_or((bounds, bounds));
            let is_number = |text: &str| {
                (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
            };
            if !is_number(low) || !(high.is_empty() || is_number(high)) {
                return Err(format!("{{{bounds}}}"));
            }
            self.rest = rest;
            if self.rest.starts_with('+') || (self.rest.starts_with('?') && !bounds.contains(',')) {
                return Err(format!("{{{bounds}}}{}", &self.rest[..1]));
            }
            self.take("?");
        }
        match self.rest.chars().next() {
            Some(c) if "*+?{".contains(c) => Err("several quantifiers in a row".into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn rules_of_released_models_are_fine() {
        for pattern in [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}?",
            r#"[!"\#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"#,
            r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}]+(?i:'s|'t)?",
            "[一-龥぀-ゟ゠-ヿ]+",
            r" ?[^(\s|[.,!?…。，、।۔،])]+",
            r"\d|(a|aa)+\1b|(?<=x)\x{4e00}*?|a{2,}|[a-]|\p{Han}+",
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn what_engines_read_differently_is_refused() {
        for pattern in [
            r"\pL+",
            r"\pN",
            r"(?i:\p{Lu}+)",
            r"\p{Word}+",
            r"\p{Graph}+",
            r"(?i:ss)",
            r"\p{L}{,}",
            r"\w",
            r"\b",
            r"\h",
            r"\X",
            r"\R",
            r"[[:alpha:]]",
            r"[a[:alpha:]]",
            r"[a&&b]",
            r"[a--b]",
            r"[a~~b]",
            r"[]a]",
            r"a{,3}",
            r"a{2}?",
            r"a{2}+",
            r"a{2,3}+",
            r"a+++",
            r"a(?i)b|c",
            r"(?m:a)",
            r"(?s)a",
            r"(?~a)",
            r"(?#a)",
            r"(?<n>a)",
            r"\<a",
            r"\xe9",
            r"\p{^L}",
            r"\p{l}",
            r"\p{Letter}",
            r"(?i:ß)",
            r"(?i:[^a])",
            r"(?i:[a-z])",
            r"(?i)\p{L}",
            r"(?i:off)",
            r"\A",
            r"\z",
            r"\G",
            r"\K",
            r"[\s-x]",
            r"[\p{L}-x]",
            r"a}",
            "a]",
            r"(?i:fi)",
            r"\k<a>",
            r"\g<1>",
            r"\0",
            r"\cA",
            r"\M-a",
            r"(*FAIL)",
            r"*a",
            r"[\b]",
        ] {
            assert!(check(pattern).is_err(), "{pattern}");
        }
    }
}
