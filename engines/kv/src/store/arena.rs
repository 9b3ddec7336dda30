//! Memory for entries: blocks of a few sizes in pages of 64 KiB, and one allocation each for the large ones.
//! A block is named by a number of 34 bits, so that a slot of the table holds it beside bits of the hash.

/// Names a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ref(pub(crate) u64);

pub(crate) const REF_BITS: u32 = 34;
const LARGE: u64 = 1 << (REF_BITS - 1);

const PAGE_BYTES: usize = 64 << 10;
const UNIT: usize = 8;
const PAGE_UNITS_BITS: u32 = 13;
/// What is larger has an allocation of its own.
pub(crate) const BLOCK_BYTES_MAX: usize = 4096;
/// What the allocator and the list of large blocks add to each.
const LARGE_OVERHEAD: usize = 40;
const NOTHING: u16 = u16::MAX;
const UNLISTED: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Arena {
    pages: Vec<Box<[u8]>>,
    about: Vec<PageInfo>,
    spare_pages: Vec<u32>,
    classes: Vec<Class>,
    large: Vec<Vec<u8>>,
    spare_large: Vec<u32>,
    live_bytes: usize,
    held_bytes: usize,
}

#[derive(Debug)]
struct Class {
    block_units: u16,
    /// Pages with room.
    open: Vec<u32>,
}

#[derive(Debug)]
struct PageInfo {
    class: u8,
    /// First free block, in units; the first two bytes of a free block name the next.
    free: u16,
    /// Blocks from here on were never used, in units.
    fresh: u16,
    live: u16,
    /// Where the page stands in its class's list.
    open_at: u32,
}

impl Default for Arena {
    fn default() -> Self {
        let mut sizes: Vec<usize> = (2..=32).map(|units| units * UNIT).collect();
        sizes.extend((9..=32).map(|step| step * 32));
        sizes.extend((9..=32).map(|step| step * 128));
        let classes = sizes
            .into_iter()
            .map(|size| Class { block_units: (size / UNIT) as u16, open: Vec::new() })
            .collect();
        // Page 0 is never used, so that no slot is 0.
        let unused = PageInfo { class: 0, free: NOTHING, fresh: 0, live: 0, open_at: UNLISTED };
        Self {
            pages: vec![Box::default()],
            about: vec![unused],
            spare_pages: Vec::new(),
            classes,
            large: Vec::new(),
            spare_large: Vec::new(),
            live_bytes: 0,
            held_bytes: 0,
        }
    }
}

impl Arena {
    /// A block of at least `bytes`, its content undefined. Nothing when the numbers are used up.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Option<Ref> {
        if bytes > BLOCK_BYTES_MAX {
            return self.allocate_large(bytes);
        }
        let class = class_of(bytes);
        let page = match self.classes[class].open.last() {
            Some(&page) => page,
            None => self.open_page(class)?,
        };
        let units = self.classes[class].block_units;
        let about = &mut self.about[page as usize];
        let unit = if about.free == NOTHING {
            let unit = about.fresh;
            about.fresh += units;
            unit
        } else {
            let unit = about.free;
            let at = usize::from(unit) * UNIT;
            let next = &self.pages[page as usize][at..at + 2];
            about.free = u16::from_le_bytes([next[0], next[1]]);
            unit
        };
        about.live += 1;
        if about.free == NOTHING && !has_fresh(about.fresh, units) {
            about.open_at = UNLISTED;
            self.classes[class].open.pop();
        }
        self.live_bytes += usize::from(units) * UNIT;
        Some(Ref(u64::from(page) << PAGE_UNITS_BITS | u64::from(unit)))
    }

    pub(crate) fn free(&mut self, block: Ref) {
        if block.0 & LARGE != 0 {
            let at = block.0 & (LARGE - 1);
            let freed = std::mem::take(&mut self.large[at as usize]);
            self.live_bytes -= freed.capacity() + LARGE_OVERHEAD;
            self.held_bytes -= freed.capacity() + LARGE_OVERHEAD;
            self.spare_large.push(at as u32);
            return;
        }
        let (page, at) = split(block);
        let about = &mut self.about[page];
        let class = &mut self.classes[usize::from(about.class)];
        self.live_bytes -= usize::from(class.block_units) * UNIT;
        self.pages[page][at..at + 2].copy_from_slice(&about.free.to_le_bytes());
        about.free = (at / UNIT) as u16;
        about.live -= 1;
        if about.open_at == UNLISTED {
            about.open_at = class.open.len() as u32;
            class.open.push(page as u32);
        } else if about.live == 0 && class.open.len() > 1 {
            self.release_page(page);
        }
    }

    /// From the block's first byte to the end of its page, or the whole of a large one.
    #[inline]
    pub(crate) fn bytes(&self, block: Ref) -> &[u8] {
        if block.0 & LARGE != 0 {
            return &self.large[(block.0 & (LARGE - 1)) as usize];
        }
        let (page, at) = split(block);
        &self.pages[page][at..]
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self, block: Ref) -> &mut [u8] {
        if block.0 & LARGE != 0 {
            return &mut self.large[(block.0 & (LARGE - 1)) as usize];
        }
        let (page, at) = split(block);
        &mut self.pages[page][at..]
    }

    #[inline]
    pub(crate) fn is_large(block: Ref) -> bool {
        block.0 & LARGE != 0
    }

    /// Whether an entry of so many bytes can stay in the block.
    #[inline]
    pub(crate) fn fits(&self, block: Ref, bytes: usize) -> bool {
        let (page, _) = split(block);
        bytes <= BLOCK_BYTES_MAX && usize::from(self.about[page].class) == class_of(bytes)
    }

    /// Changes the length of a large block; new bytes are zero.
    pub(crate) fn resize_large(&mut self, block: Ref, bytes: usize) {
        let at = (block.0 & (LARGE - 1)) as usize;
        let before = self.large[at].capacity();
        self.large[at].resize(bytes, 0);
        if self.large[at].capacity() > 2 * bytes.max(BLOCK_BYTES_MAX) {
            self.large[at].shrink_to_fit();
        }
        let after = self.large[at].capacity();
        self.live_bytes = self.live_bytes + after - before;
        self.held_bytes = self.held_bytes + after - before;
    }

    /// Bytes of blocks in use.
    pub(crate) fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Bytes that were taken from the system.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes + self.pages.len() * size_of::<(Box<[u8]>, PageInfo)>()
    }

    fn allocate_large(&mut self, bytes: usize) -> Option<Ref> {
        let at = if let Some(at) = self.spare_large.pop() {
            at
        } else {
            self.large.push(Vec::new());
            u32::try_from(self.large.len() - 1).ok()?
        };
        self.large[at as usize] = vec![0; bytes];
        let held = self.large[at as usize].capacity() + LARGE_OVERHEAD;
        self.live_bytes += held;
        self.held_bytes += held;
        Some(Ref(LARGE | u64::from(at)))
    }

    fn open_page(&mut self, class: usize) -> Option<u32> {
        let bytes = vec![0; PAGE_BYTES].into_boxed_slice();
        let open_at = self.classes[class].open.len() as u32;
        let about = PageInfo { class: class as u8, free: NOTHING, fresh: 0, live: 0, open_at };
        let page = if let Some(page) = self.spare_pages.pop() {
            self.pages[page as usize] = bytes;
            self.about[page as usize] = about;
            page
        } else {
            let page = u32::try_from(self.pages.len()).ok()?;
            if u64::from(page) << PAGE_UNITS_BITS >= LARGE {
                return None;
            }
            self.pages.push(bytes);
            self.about.push(about);
            page
        };
        self.held_bytes += PAGE_BYTES;
        self.classes[class].open.push(page);
        Some(page)
    }

    fn release_page(&mut self, page: usize) {
        let at = self.about[page].open_at as usize;
        let open = &mut self.classes[usize::from(self.about[page].class)].open;
        open.swap_remove(at);
        if let Some(&moved) = open.get(at) {
            self.about[moved as usize].open_at = at as u32;
        }
        self.about[page].open_at = UNLISTED;
        self.pages[page] = Box::default();
        self.spare_pages.push(page as u32);
        self.held_bytes -= PAGE_BYTES;
    }
}

#[inline]
fn split(block: Ref) -> (usize, usize) {
    let unit = (block.0 & ((1 << PAGE_UNITS_BITS) - 1)) as usize;
    ((block.0 >> PAGE_UNITS_BITS) as usize, unit * UNIT)
}

fn has_fresh(fresh: u16, units: u16) -> bool {
    usize::from(fresh) + usize::from(units) <= PAGE_BYTES / UNIT
}

/// Steps of 8 bytes up to 256, of 32 up to 1024, of 128 up to 4096.
#[inline]
fn class_of(bytes: usize) -> usize {
    match bytes {
        0..=16 => 0,
        17..=256 => bytes.div_ceil(8) - 2,
        257..=1024 => 31 + bytes.div_ceil(32) - 9,
        _ => 55 + bytes.div_ceil(128) - 9,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_size_has_the_smallest_class_that_holds_it() {
        let arena = Arena::default();
        for bytes in 1..=BLOCK_BYTES_MAX {
            let class = class_of(bytes);
            assert!(usize::from(arena.classes[class].block_units) * UNIT >= bytes, "{bytes}");
            if class > 0 {
                assert!(
                    usize::from(arena.classes[class - 1].block_units) * UNIT < bytes,
                    "{bytes}"
                );
            }
        }
        assert_eq!(class_of(BLOCK_BYTES_MAX) + 1, arena.classes.len());
    }

    #[test]
    fn blocks_do_not_overlap_and_memory_comes_back() {
        let mut arena = Arena::default();
        let mut blocks: HashMap<u64, (usize, u8)> = HashMap::new();
        let mut random = 7u64;
        for step in 0..60_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let size = 1 + (random >> 33) as usize % 5_000;
            if random >> 62 == 0 && !blocks.is_empty() {
                let name = *blocks.keys().next().unwrap();
                let (size, mark) = blocks.remove(&name).unwrap();
                assert!(arena.bytes(Ref(name))[..size].iter().all(|byte| *byte == mark));
                arena.free(Ref(name));
            } else if blocks.len() < 3_000 {
                let block = arena.allocate(size).unwrap();
                let mark = step as u8;
                arena.bytes_mut(block)[..size].fill(mark);
                assert!(blocks.insert(block.0, (size, mark)).is_none(), "given twice");
            }
        }
        for (name, (size, mark)) in blocks {
            assert!(arena.bytes(Ref(name))[..size].iter().all(|byte| *byte == mark));
            arena.free(Ref(name));
        }
        assert_eq!(arena.live_bytes(), 0);
        // One page of each class may stay.
        assert!(arena.held_bytes() <= 2 * 80 * PAGE_BYTES, "{}", arena.held_bytes());
    }
}
