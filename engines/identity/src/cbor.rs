//! As much of CBOR (RFC 8949) as authenticators write: definite lengths, no tags, no floats (CTAP 2.1 section 8).

/// A value, borrowed from what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Array(Vec<Value<'a>>),
    Map(Vec<(Value<'a>, Value<'a>)>),
    Bool(bool),
    Null,
}

const DEPTH_MAX: usize = 8;

/// Reads one value, and gives what follows it.
pub(crate) fn read(bytes: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let mut reader = Reader { left: bytes };
    let value = reader.value(0)?;
    Some((value, reader.left))
}

impl<'a> Value<'a> {
    /// The value under a key of a map.
    pub(crate) fn get(&self, wanted: &Value<'_>) -> Option<&Value<'a>> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(key, _)| key == wanted).map(|(_, value)| value)
    }

    pub(crate) fn int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    pub(crate) fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(count)?;
        self.left = left;
        Some(taken)
    }

    /// The major type and its argument.
    fn head(&mut self) -> Option<(u8, u64)> {
        let first = self.take(1)?[0];
        let argument = match first & 0x1f {
            small @ 0..=23 => u64::from(small),
            size @ 24..=27 => {
                let bytes = self.take(1 << (size - 24))?;
                bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
            }
            _ => return None,
        };
        Some((first >> 5, argument))
    }

    fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        if depth > DEPTH_MAX {
            return None;
        }
        let is_simple = self.left.first()? >> 5 == 7;
        if is_simple {
            return match self.take(1)?[0] {
                0xf4 => Some(Value::Bool(false)),
                0xf5 => Some(Value::Bool(true)),
                0xf6 => Some(Value::Null),
                _ => None,
            };
        }
        let (major, argument) = self.head()?;
        let count = usize::try_from(argument).ok();
        match major {
            0 => Some(Value::Int(i64::try_from(argument).ok()?)),
            1 => Some(Value::Int(-1 - i64::try_from(argument).ok()?)),
            2 => Some(Value::Bytes(self.take(count?)?)),
            3 => Some(Value::Text(std::str::from_utf8(self.take(count?)?).ok()?)),
            // Each element has at least a byte, so what is announced must be there.
            4 if count? <= self.left.len() => {
                (0..count?).map(|_| self.value(depth + 1)).collect::<Option<_>>().map(Value::Array)
            }
            5 if count? <= self.left.len() => {
                let pairs =
                    (0..count?).map(|_| Some((self.value(depth + 1)?, self.value(depth + 1)?)));
                let pairs: Vec<_> = pairs.collect::<Option<_>>()?;
                let is_twice = |at: usize| pairs[..at].iter().any(|(key, _)| *key == pairs[at].0);
                (!(0..pairs.len()).any(is_twice)).then_some(Value::Map(pairs))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_of_the_rfc_are_read() {
        // Appendix A of RFC 8949.
        for (bytes, wanted) in [
            (&[0x00][..], Value::Int(0)),
            (&[0x18, 0x64], Value::Int(100)),
            (&[0x1a, 0x00, 0x0f, 0x42, 0x40], Value::Int(1_000_000)),
            (&[0x20], Value::Int(-1)),
            (&[0x39, 0x03, 0xe7], Value::Int(-1_000)),
            (&[0x44, 1, 2, 3, 4], Value::Bytes(&[1, 2, 3, 4])),
            (&[0x64, 0x49, 0x45, 0x54, 0x46], Value::Text("IETF")),
            (&[0x82, 0x01, 0xf5], Value::Array(vec![Value::Int(1), Value::Bool(true)])),
            (&[0xa1, 0x01, 0xf6], Value::Map(vec![(Value::Int(1), Value::Null)])),
        ] {
            assert_eq!(read(bytes), Some((wanted, &[][..])), "{bytes:x?}");
        }
        for bytes in [
            &[][..],
            &[0x18],
            &[0x5f, 0x41, 0x01, 0xff],
            &[0xfb, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xc0, 0x00],
            &[0xa2, 0x01, 0x01, 0x01, 0x02],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x81; 100],
            &[0x62, 0xff, 0xfe],
        ] {
            assert_eq!(read(bytes), None, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some((_, left)) = read(&bytes) {
                prop_assert!(left.len() < bytes.len());
            }
        }
    }
}
