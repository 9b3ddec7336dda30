//! Frames: length, checksum and number before the effects of one turn.

/// Begins every log and snapshot; the digit is the format's version.
pub(crate) const MAGIC: &[u8; 8] = b"MDGKV1\r\n";
/// Begins a log that counts only if the one before it is whole, which its first frame tells.
pub(crate) const UNSURE: &[u8; 8] = b"MDGKV1~\n";
pub(crate) const FRAME_HEADER: usize = 16;

/// Fills in the header of a frame whose body is there.
pub(crate) fn seal(frame: &mut [u8], sequence: u64) {
    let length = (frame.len() - FRAME_HEADER) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[8..16].copy_from_slice(&sequence.to_le_bytes());
    let sum = sum(frame);
    frame[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// The checksum of length, number and body.
fn sum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..])
}

/// What a header says: the body's length, and the number.
pub(crate) struct Header {
    pub(crate) length: usize,
    pub(crate) sequence: u64,
}

pub(crate) fn header(bytes: &[u8; FRAME_HEADER]) -> Header {
    let [a, b, c, d, _, _, _, _, rest @ ..] = *bytes;
    Header { length: u32::from_le_bytes([a, b, c, d]) as usize, sequence: u64::from_le_bytes(rest) }
}

pub(crate) fn is_whole(frame: &[u8]) -> bool {
    frame[4..8] == sum(frame).to_le_bytes()
}
