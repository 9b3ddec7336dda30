use indexmap::IndexMap;

/// Up to so many fields keep the order in which they came, as in Redis.
const ORDERED_MAX: usize = 128;
/// What a field costs beside its bytes: its place in the map and two allocations.
const FIELD_BYTES: usize = 80;

/// Fields with values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hash {
    fields: IndexMap<Box<[u8]>, Box<[u8]>>,
    content_bytes: usize,
    longest: usize,
    is_wide: bool,
}

impl Hash {
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(crate) fn get(&self, field: &[u8]) -> Option<&[u8]> {
        self.fields.get(field).map(|value| &**value)
    }

    /// Whether the field is new.
    pub(crate) fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        self.longest = self.longest.max(field.len()).max(value.len());
        if let Some(old) = self.fields.get_mut(field) {
            self.content_bytes = self.content_bytes + value.len() - old.len();
            if old.len() == value.len() {
                old.copy_from_slice(value);
            } else {
                *old = value.into();
            }
            return false;
        }
        self.content_bytes += field.len() + value.len();
        self.fields.insert(field.into(), value.into());
        self.is_wide |= self.fields.len() > ORDERED_MAX;
        true
    }

    pub(crate) fn remove(&mut self, field: &[u8]) -> bool {
        let removed = if self.is_wide {
            self.fields.swap_remove_entry(field)
        } else {
            self.fields.shift_remove_entry(field)
        };
        let Some((field, value)) = removed else { return false };
        self.content_bytes -= field.len() + value.len();
        true
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(field, value)| (&**field, &**value))
    }

    pub(crate) fn at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.fields.get_index(index).map(|(field, value)| (&**field, &**value))
    }

    /// Whether Redis would hold it in a list pack.
    pub(crate) fn is_packed(&self, (entries, bytes): (usize, usize)) -> bool {
        !self.is_wide && self.len() <= entries && self.longest <= bytes
    }

    pub(crate) fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.content_bytes + self.fields.capacity() * FIELD_BYTES
    }
}
