//! SipHash-1-3 of keys, so that a client that chooses the keys cannot make them collide.

#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyHash {
    k0: u64,
    k1: u64,
}

/// The bits that a slot keeps of a key's hash.
pub(crate) const BITS: u32 = 30;

impl KeyHash {
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        let secret = u128::from_le_bytes(secret);
        Self { k0: secret as u64, k1: (secret >> 64) as u64 }
    }

    /// The upper bits of the key's hash.
    #[inline]
    pub(crate) fn of(self, key: &[u8]) -> u32 {
        (self.full(key) >> (64 - BITS)) as u32
    }

    #[inline]
    pub(crate) fn full(self, key: &[u8]) -> u64 {
        let mut v = [
            self.k0 ^ 0x736f_6d65_7073_6575,
            self.k1 ^ 0x646f_7261_6e64_6f6d,
            self.k0 ^ 0x6c79_6765_6e65_7261,
            self.k1 ^ 0x7465_6462_7974_6573,
        ];
        let mut words = key.chunks_exact(8);
        for word in &mut words {
            let word = u64::from_le_bytes([
                word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
            ]);
            v[3] ^= word;
            round(&mut v);
            v[0] ^= word;
        }
        let mut last = (key.len() as u64) << 56;
        for (at, &byte) in words.remainder().iter().enumerate() {
            last |= u64::from(byte) << (8 * at);
        }
        v[3] ^= last;
        round(&mut v);
        v[0] ^= last;
        v[2] ^= 0xff;
        round(&mut v);
        round(&mut v);
        round(&mut v);
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

#[inline]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, Hasher};

    use super::*;

    #[test]
    #[allow(deprecated, reason = "the reference to compare with: SipHash-1-3 under a zero key")]
    fn it_is_siphash_1_3() {
        let reference = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
        let ours = KeyHash::new([0; 16]);
        for length in 0..70 {
            let key: Vec<u8> = (0..length).collect();
            let mut hasher = reference.build_hasher();
            hasher.write(&key);
            assert_eq!(ours.full(&key), hasher.finish(), "{length}");
        }
    }
}
