//! Memory that is used again: in a storm an allocator would take back and give out again what is as large, which costs a
//! twentieth of what an event does.

/// How many are kept for the next ones: as many as are on their way at once.
const SPARE: usize = 64;

/// Memory of values that nobody needs any more.
#[derive(Debug)]
pub struct Spare<T>(Vec<Box<T>>);

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Spare<T> {
    /// One that is to be written over whole, or `new`.
    #[inline]
    pub fn take(&mut self, new: impl FnOnce() -> T) -> Box<T> {
        self.0.pop().unwrap_or_else(|| Box::new(new()))
    }

    #[inline]
    pub fn give(&mut self, value: Box<T>) {
        if self.0.len() < SPARE {
            self.0.push(value);
        }
    }
}

/// Like an `Option<Box<T>>`, but what is put in takes the memory of what was there before.
#[derive(Debug)]
pub struct Reused<T> {
    memory: Option<Box<T>>,
    /// Whether what is in the memory is meant.
    there: bool,
}

impl<T> Default for Reused<T> {
    fn default() -> Self {
        Self { memory: None, there: false }
    }
}

impl<T> Reused<T> {
    pub fn get(&self) -> Option<&T> {
        self.memory.as_deref().filter(|_| self.there)
    }

    pub fn clear(&mut self) {
        self.there = false;
    }
}

impl<T: Clone> Reused<T> {
    /// Copies `value` to where the last one was.
    pub fn put(&mut self, value: &T) -> &mut T {
        self.there = true;
        match &mut self.memory {
            Some(memory) => {
                T::clone_from(memory, value);
                memory
            }
            none => none.insert(Box::new(value.clone())),
        }
    }
}

impl<T: Clone> Clone for Reused<T> {
    fn clone(&self) -> Self {
        Self { memory: self.get().cloned().map(Box::new), there: self.there }
    }
}

impl<T: PartialEq> PartialEq for Reused<T> {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_taken_again_and_not_kept_without_end() {
        let mut spare = Spare::default();
        let one = spare.take(|| 1);
        let place = std::ptr::from_ref(&*one);
        spare.give(one);
        assert_eq!(std::ptr::from_ref(&*spare.take(|| 2)), place);
        (0..3 * SPARE).for_each(|n| spare.give(Box::new(n)));
        assert_eq!(spare.0.len(), SPARE);
    }

    #[test]
    fn what_was_cleared_is_not_there_although_its_memory_is() {
        let mut one = Reused::default();
        assert_eq!(one.get(), None);
        one.put(&"first".to_owned()).push('!');
        assert_eq!(one.get().map(String::as_str), Some("first!"));
        let before = one.get().map(std::ptr::from_ref);
        let copy = one.clone();
        one.clear();
        assert_eq!((one.get(), one == Reused::default(), one == copy), (None, true, false));
        assert_eq!(one.clone().memory, None);
        one.put(&"first!".to_owned());
        assert_eq!((one.get().map(std::ptr::from_ref), one == copy), (before, true));
    }
}
