//! What changed, as the arguments of a command that does the same again at any time: moments are absolute, chance is
//! drawn. A log frame and a snapshot are made of these.

/// Appends one effect on a database.
pub(crate) fn push<'a>(
    out: &mut Vec<u8>,
    db: usize,
    args: impl ExactSizeIterator<Item = &'a [u8]>,
) {
    push_length(out, db);
    push_length(out, args.len());
    for arg in args {
        push_length(out, arg.len());
        out.extend_from_slice(arg);
    }
}

/// Reads the next effect; nothing when the bytes are no effect.
pub(crate) fn read<'a>(bytes: &mut &'a [u8], args: &mut Vec<&'a [u8]>) -> Option<usize> {
    args.clear();
    let db = read_length(bytes)?;
    let count = read_length(bytes)?;
    for _ in 0..count {
        let length = read_length(bytes)?;
        let (arg, rest) = bytes.split_at_checked(length)?;
        args.push(arg);
        *bytes = rest;
    }
    Some(db)
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn push_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

fn read_length(bytes: &mut &[u8]) -> Option<usize> {
    let mut length = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_is_read_as_it_was_written_and_cut_ones_are_refused() {
        let long = vec![7u8; 300];
        let given: Vec<&[u8]> = vec![b"SET", b"", &long, b"\0\r\n"];
        let mut bytes = Vec::new();
        push(&mut bytes, 200, given.iter().copied());
        let (mut rest, mut args) = (&bytes[..], Vec::new());
        assert_eq!(read(&mut rest, &mut args), Some(200));
        assert_eq!((args, rest.len()), (given, 0));
        for length in 0..bytes.len() {
            let (mut cut, mut args) = (&bytes[..length], Vec::new());
            assert_eq!(read(&mut cut, &mut args), None, "{length}");
        }
    }
}
