//! One analysis pass per document: words, lines, character classes, repetition statistics.
