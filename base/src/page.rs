/// A part of a list, and the cursor that continues it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Opaque; absent on the last page.
    pub next: Option<String>,
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// What [`Page::next`] said, or nothing for the first page.
    pub after: Option<String>,
    /// Between 1 and [`PageRequest::LIMIT_MAX`].
    pub limit: usize,
}

impl PageRequest {
    pub const LIMIT_DEFAULT: usize = 100;
    pub const LIMIT_MAX: usize = 1_000;
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { after: None, limit: Self::LIMIT_DEFAULT }
    }
}

impl<T> Page<T> {
    /// Makes a page of rows that were asked for with `limit + 1`: the one too many says that more follow.
    pub fn of(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(cursor) } else { None };
        Self { items, next }
    }

    pub fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(change).collect(), next: self.next }
    }
}
