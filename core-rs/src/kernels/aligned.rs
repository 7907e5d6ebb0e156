//! Numbers that begin at a line of the cache: AVX-512 reads a whole line at once, and two where they are shifted.

/// Numbers of which the first lies at the beginning of a line.
pub(super) struct Aligned<T> {
    numbers: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Aligned<T> {
    const LINE: usize = 64;

    pub(super) fn zeros(count: usize) -> Self {
        let numbers = vec![T::default(); count + Self::LINE];
        let start = numbers.as_ptr().align_offset(Self::LINE).min(Self::LINE);
        Self { numbers, start }
    }

    pub(super) fn as_ref(&self) -> &[T] {
        &self.numbers[self.start..self.numbers.len() - Self::LINE + self.start]
    }

    pub(super) fn as_mut(&mut self) -> &mut [T] {
        let end = self.numbers.len() - Self::LINE + self.start;
        &mut self.numbers[self.start..end]
    }
}
