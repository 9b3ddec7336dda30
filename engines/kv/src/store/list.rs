use std::collections::VecDeque;

/// What an element costs beside its bytes: its place and an allocation.
const ELEMENT_BYTES: usize = 32;

/// Elements in an order, taken and given at both ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct List {
    elements: VecDeque<Box<[u8]>>,
    content_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Left,
    Right,
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.elements.len()
    }

    pub(crate) fn push(&mut self, end: End, element: &[u8]) {
        self.content_bytes += element.len();
        match end {
            End::Left => self.elements.push_front(element.into()),
            End::Right => self.elements.push_back(element.into()),
        }
    }

    pub(crate) fn pop(&mut self, end: End) -> Option<Box<[u8]>> {
        let element = match end {
            End::Left => self.elements.pop_front(),
            End::Right => self.elements.pop_back(),
        }?;
        self.content_bytes -= element.len();
        if self.elements.capacity() > 64 && self.elements.len() < self.elements.capacity() / 4 {
            self.elements.shrink_to(self.elements.len() * 2);
        }
        Some(element)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        self.elements.get(index).map(|element| &**element)
    }

    pub(crate) fn set(&mut self, index: usize, element: &[u8]) {
        if let Some(old) = self.elements.get_mut(index) {
            self.content_bytes = self.content_bytes + element.len() - old.len();
            *old = element.into();
        }
    }

    pub(crate) fn insert(&mut self, index: usize, element: &[u8]) {
        self.content_bytes += element.len();
        self.elements.insert(index, element.into());
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        self.elements.iter().map(|element| &**element)
    }

    pub(crate) fn range(&self, from: usize, to: usize) -> impl Iterator<Item = &[u8]> {
        self.elements.range(from..to).map(|element| &**element)
    }

    /// Keeps the elements from `from` to before `to`.
    pub(crate) fn trim(&mut self, from: usize, to: usize) {
        self.elements.truncate(to);
        self.elements.drain(..from.min(to));
        self.content_bytes = self.elements.iter().map(|element| element.len()).sum();
        self.elements.shrink_to(self.elements.len() * 2);
    }

    /// Removes up to `count` elements that are equal to this one, from the left or the right.
    pub(crate) fn remove(&mut self, element: &[u8], count: usize, from: End) -> usize {
        let mut found: Vec<usize> = Vec::new();
        let equal = self.elements.iter().enumerate().filter(|(_, other)| &***other == element);
        match from {
            End::Left => found.extend(equal.map(|(at, _)| at).take(count)),
            End::Right => found.extend(equal.rev().map(|(at, _)| at).take(count)),
        }
        found.sort_unstable();
        let mut doomed = found.iter().copied().peekable();
        let mut at = 0;
        self.elements.retain(|_| {
            let keeps = doomed.next_if_eq(&at).is_none();
            at += 1;
            keeps
        });
        self.content_bytes -= element.len() * found.len();
        found.len()
    }

    pub(crate) fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.content_bytes + self.elements.capacity() * ELEMENT_BYTES
    }
}
